"""A run as its events tell it while it works: no record is read for it.

An event costs a few microseconds in here, for every step has two: what it changes is changed in
the JSON itself, and the objects that HTML and text are made of are made when those are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from notebook_agents import ids
from notebook_agents.model import Attempt, Outcome, RunStatus, Step, Usage
from notebook_agents.runtime.timeline import clean, outcome_in, summary, told, why_again
from notebook_agents.ui.state import (
    QUIET,
    STEPS,
    VERSION,
    State,
    head,
    moment,
    newest,
    step_state,
    usage_state,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from notebook_agents.model import Driver, RunView
    from notebook_agents.runtime.events import StepEvent

_ENDS = {
    "returned": "returned",
    "failed": "failed",
    "suspended": "suspended",
    "in_doubt": "uncertain",
}


class Folding:
    """What a run has done so far.

    Args:
        view: The run as its records told it when its driver took it up.
        arguments: Previews of what durable calls were given before, by step.
        driver: The process that drives it.
        journal: The journal's path, as `state.run_state` takes it.
    """

    def __init__(
        self,
        view: RunView,
        arguments: Mapping[str, str],
        *,
        driver: Driver | None,
        journal: str | None,
    ) -> None:
        self._view = replace(view, status=RunStatus.RUNNING, interrupts=())
        self._before = {step.id: step for step in view.steps}
        self._states: dict[str, State] = {
            step.id: step_state(
                step, str(outcome_in(step, self._view)), arguments=arguments.get(step.id)
            )
            for step in view.steps
        }
        self._counts = Counter(state["state"] for state in self._states.values())
        self._changed: dict[str, None] = {}
        self._head = head(self._view, driver=driver, journal=journal)

    def take(self, event: StepEvent, at: datetime) -> None:
        """Take an event in that happened at a moment."""
        state = self._states.get(event.step)
        if event.what == "intended":
            if state is None:
                state = self._states[event.step] = _new(event, moment(at))
            else:
                self._counts[state["state"]] -= 1
                self._again(state, event, moment(at))
        elif event.what == "replayed" or state is None:
            return
        else:
            self._counts[state["state"]] -= 1
            _end(state, event, at)
            if event.usage:
                self._spend(event)
        self._counts[state["state"]] += 1
        self._changed[event.step] = None

    def _again(self, state: State, event: StepEvent, began: str | None) -> None:
        attempts = [one for one in state["attempts"] if one["number"] < event.attempt]
        for one in attempts[-1:]:
            if one["outcome"] == "running":
                one["outcome"] = "uncertain"
            one["why"] = one["why"] or why_again(self._attempts(state["id"], [one])[0])
        state["attempts"] = [*attempts, _begun(event, began)]
        state["state"], state["seconds"] = "running", None
        if event.arguments is not None:
            state["args"] = event.arguments

    def _spend(self, event: StepEvent) -> None:
        """Count what models took in a step for it, for those around it, and for the run."""
        spent = usage_state(event.usage or Usage()) or {"tokens": 0, "cost": None}
        self._head["usage"] = _more(self._head["usage"], spent)
        step: str | None = event.step
        while step in self._states:
            state = self._states[step]
            before = None if state["tokens"] is None else state
            state |= _more(before, spent)
            self._changed[step] = None
            step = state["parent"]

    @property
    def steps(self) -> set[str]:
        """The ids of the steps that are known here, and so are their arguments."""
        return set(self._states)

    @property
    def arguments(self) -> dict[str, str]:
        """Previews of what durable calls were given, by step."""
        states = list(self._states.values())
        return {state["id"]: state["args"] for state in states if state["args"] is not None}

    @property
    def view(self) -> RunView:
        """The run as it stands."""
        return replace(self._view, steps=tuple(map(self._step, list(self._states.values()))))

    def _step(self, state: State) -> Step:
        before = self._before.get(state["id"])
        attempts = self._attempts(state["id"], state["attempts"])
        if before is not None:
            return replace(before, attempts=attempts)
        return Step(
            id=state["id"],
            name=state["name"],
            parent=state["parent"],
            namespace="",
            attempts=attempts,
            replayed=False,
            key=state["key"],
        )

    def _attempts(self, step: str, states: list[State]) -> tuple[Attempt, ...]:
        """Return attempts of a step as they are: of an earlier process, as its records told it."""
        before, session = self._before.get(step), self._view.sessions
        known = {} if before is None else {one.number: one for one in before.attempts}
        return tuple([known.get(one["number"]) or _attempt(one, session) for one in states])

    @property
    def state(self) -> State:
        """The run's whole state, as deltas told it; what happens later does not change it."""
        states = list(self._states.values())  # events may come in meanwhile
        cut = len(states) - STEPS
        if cut > 0:
            loud = [one["id"] for one in states if _is_loud(one)]
            kept = newest([one["id"] for one in states], loud)
            states = [one for one in states if one["id"] in kept]
        steps = [{**one, "attempts": [*map(dict, one["attempts"])]} for one in states]
        return {**self.head(), "steps": steps, "cut": max(cut, 0)}

    def record(self) -> tuple[RunView, State]:
        """Return what a record of the run is made of as it stands."""
        view = self.view
        return view, {**self.state, "told": told(view)}

    @property
    def changed(self) -> bool:
        """Whether anything happened since the last delta."""
        return bool(self._changed)

    def delta(self) -> State:
        """Return what changed since the last one: all that is said of the run, and some steps."""
        changed, self._changed = self._changed, {}
        return {**self.head(), "v": VERSION, "steps": [self._states[step] for step in changed]}

    def head(self) -> State:
        """Return what is said of the run itself."""
        counts = {str(outcome): self._counts[str(outcome)] for outcome in Outcome}
        counts["in_doubt"] = counts.pop(str(Outcome.UNCERTAIN))
        total, returned = len(self._states), counts["returned"]
        said = f"{returned} of {total} step{'' if total == 1 else 's'} returned"
        if not total:
            said = summary(self._view)
        if self._view.replayed:
            said = f"{summary(self._view)} · {said}"
        counts |= {"steps": total, "replayed": self._head["counts"]["replayed"]}
        return {**self._head, "told": said, "counts": counts}


def _begun(event: StepEvent, began: str | None) -> State:
    """Return the state of an attempt that begins."""
    return {
        "number": event.attempt,
        "outcome": "running",
        "started": began,
        "seconds": None,
        "error": None,
        "why": None,
    }


def _new(event: StepEvent, began: str | None) -> State:
    """Return the state of a step of which this is the first word."""
    return {
        "id": event.step,
        "parent": event.parent,
        "name": clean(event.name),
        "state": "running",
        "replayed": False,
        "attempts": [_begun(event, began)],
        "started": began,
        "seconds": None,
        "tokens": None,
        "cost": None,
        "args": event.arguments,
        "result": None,
        "key": ids.idempotency_key(event.step),
        "decisions": [],
        "undecided": False,
    }


def _end(state: State, event: StepEvent, at: datetime) -> None:
    outcome = _ENDS[event.what]
    for one in state["attempts"]:
        if one["number"] == event.attempt and one["outcome"] == "running":
            one["outcome"], one["error"] = outcome, event.error
            if outcome != "uncertain":
                began = datetime.fromisoformat(one["started"])
                one["seconds"] = state["seconds"] = max((at - began).total_seconds(), 0.0)
    state["state"] = outcome


def _is_loud(state: State) -> bool:
    return len(state["attempts"]) > 1 or state["state"] not in QUIET


def _more(before: State | None, spent: State) -> State:
    """Return tokens and cost of both; the cost only where it is known of both."""
    if before is None:
        return dict(spent)
    costs = (before["cost"], spent["cost"])
    known = None not in costs
    return {"tokens": before["tokens"] + spent["tokens"], "cost": sum(costs) if known else None}


def _attempt(one: State, session: int) -> Attempt:
    """Return an attempt of this process as its JSON tells it."""
    began = datetime.fromisoformat(one["started"])
    return Attempt(
        number=one["number"],
        session=session,
        started=began,
        ended=None if one["seconds"] is None else began + timedelta(seconds=one["seconds"]),
        outcome=Outcome(one["outcome"]),
        error=one["error"],
    )
