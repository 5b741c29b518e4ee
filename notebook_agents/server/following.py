"""A run that somebody watches: its state as the component takes it, renewed by what is recorded.

To read a run of 2,000 steps takes 0.1 s. So while it works only those of its steps are read again
of which something was recorded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import UnknownThreadError
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime.view import renewed
from notebook_agents.server.answers import read_run, state_of
from notebook_agents.server.refusals import RefusedError
from notebook_agents.ui.state import STEPS, head, steps_state

if TYPE_CHECKING:
    from collections.abc import Collection

    from notebook_agents.journal import Journal, Record
    from notebook_agents.model import RunView

_STEPS = (Kind.STEP_INTENDED, Kind.STEP_RETURNED, Kind.STEP_FAILED)
_MOST = STEPS + 500
"""With more steps than that they are cut anew."""
_UNSEEN = (Kind.CHECKPOINT, Kind.WRITES, Kind.CHUNK, Kind.SNAPSHOT, Kind.ROUTED)
"""Of what these say nothing is shown."""


class Followed:
    """A run, from the first look on.

    Args:
        thread: Its thread's name.
        number: Its number; None: whichever is the newest.
    """

    def __init__(self, thread: str, number: int | None) -> None:
        self.thread = thread
        self.number = number
        self.state: dict[str, Any] | None = None
        self._view: RunView | None = None
        self._records: list[Record] = []
        self._whole = True
        self.due = 0.0

    @property
    def dirty(self) -> bool:
        """Whether something was recorded since the last look."""
        return self._whole or bool(self._records)

    def take(self, record: Record) -> None:
        """Take note of a record of its thread."""
        if record.kind in _UNSEEN or (self.number is not None and record.run != self.number):
            return
        if record.kind in _STEPS and self._view is not None and record.run == self._view.number:
            self._records.append(record)
        else:
            self._whole = True

    def look_again(self) -> None:
        """Take note that its driver may be another one, or none."""
        self._whole = True

    def renew(self, journal: Journal) -> dict[str, Any] | None:
        """Read what has changed; return the API's `RunEvent`, or None where nothing has."""
        records, self._records = self._records, []
        whole, self._whole = self._whole, False
        view = self._view
        try:
            if whole or view is None or self.state is None or len(self.state["steps"]) > _MOST:
                return self._read(journal)
            return self._read_again(journal, view, {record.step or "" for record in records})
        except (UnknownThreadError, RefusedError):
            self.state = self._view = None
            return None  # it was deleted, or has no run yet

    def _read(self, journal: Journal) -> dict[str, Any] | None:
        with journal.reading():
            self._view = read_run(journal, self.thread, self.number)
            before, self.state = self.state, state_of(journal, self._view)
        if before == self.state:
            return None
        if before is None or before["run"] != self.state["run"]:
            return whole_event(self.state)
        known = {step["id"]: step for step in before["steps"]}
        gone = known.keys() - {step["id"] for step in self.state["steps"]}
        if gone and not self.state["cut"]:
            return whole_event(self.state)  # a thread of the same name was made anew
        return _delta(self.state, [s for s in self.state["steps"] if known.get(s["id"]) != s])

    def _read_again(
        self, journal: Journal, view: RunView, touched: Collection[str]
    ) -> dict[str, Any] | None:
        from notebook_agents.graph.inert import InertCodec
        from notebook_agents.ui import details

        assert self.state is not None
        with journal.reading():
            now = renewed(journal, view, touched)
            if now.status is not RunStatus.RUNNING:
                return self._read(journal)
            steps = [step for step in now.steps if step.id in touched]
            given = details.arguments(journal, self.thread, now.number, touched)
            some = replace(now, steps=tuple(steps))
            results = {} if now.closed else details.results(journal, some, codec=InertCodec())
        self._view = now
        states = steps_state(steps, now, given, results)
        every = {step["id"]: step for step in self.state["steps"]}
        every |= {step["id"]: step for step in states}
        kept = {name: self.state[name] for name in ("driver", "journal")}
        cut = len(now.steps) - len(every)
        self.state = {**head(now), **kept, "steps": list(every.values()), "cut": cut}
        return _delta(self.state, states)


def whole_event(state: dict[str, Any]) -> dict[str, Any]:
    """Return the API's `RunEvent` that has all of a run."""
    return {"thread": state["thread"], "run": state["run"], "state": state, "delta": None}


def _delta(state: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    said = {name: one for name, one in state.items() if name not in ("steps", "cut")}
    return {**whole_event(state), "state": None, "delta": {**said, "steps": steps}}
