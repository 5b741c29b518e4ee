"""A run as its events tell it while it works: no record is read for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from notebook_agents import ids
from notebook_agents.model import Attempt, Outcome, RunStatus, Step
from notebook_agents.runtime.timeline import outcome_in, summary
from notebook_agents.ui.state import VERSION, State, head, step_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from notebook_agents.model import Driver, RunView
    from notebook_agents.runtime.events import StepEvent

_ENDS = {
    "returned": Outcome.RETURNED,
    "failed": Outcome.FAILED,
    "suspended": Outcome.SUSPENDED,
    "in_doubt": Outcome.UNCERTAIN,
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
        self._view = view
        self.arguments = dict(arguments)
        self._steps = {step.id: step for step in view.steps}
        self._states = {step.id: outcome_in(step, view) for step in view.steps}
        self._counts = Counter(self._states.values())
        self._changed: dict[str, None] = {}
        self._head = head(replace(view, interrupts=()), driver=driver, journal=journal)

    def take(self, event: StepEvent, at: datetime) -> None:
        """Take an event in that happened at a moment."""
        step = self._steps.get(event.step)
        if event.what == "intended":
            step = self._begun(event, step, at)
        elif event.what == "replayed" or step is None:
            return
        else:
            step = _ended(step, event, at)
        self._steps[step.id] = step
        self._changed[step.id] = None
        if step.id in self._states:
            self._counts[self._states[step.id]] -= 1
        self._states[step.id] = step.outcome
        self._counts[step.outcome] += 1

    def _begun(self, event: StepEvent, step: Step | None, at: datetime) -> Step:
        if event.arguments is not None:
            self.arguments[event.step] = event.arguments
        attempt = Attempt(
            number=event.attempt,
            session=self._view.sessions,
            started=at,
            ended=None,
            outcome=Outcome.RUNNING,
        )
        if step is None:
            return Step(
                id=event.step,
                name=event.name,
                parent=event.parent,
                namespace="",
                attempts=(attempt,),
                replayed=False,
                key=ids.idempotency_key(event.step),
            )
        before = tuple(
            replace(one, outcome=Outcome.UNCERTAIN) if one.outcome is Outcome.RUNNING else one
            for one in step.attempts
            if one.number < event.attempt
        )
        return replace(step, attempts=(*before, attempt))

    @property
    def view(self) -> RunView:
        """The run as it stands."""
        steps = tuple(self._steps.values())
        return replace(self._view, steps=steps, status=RunStatus.RUNNING, interrupts=())

    @property
    def changed(self) -> bool:
        """Whether anything happened since the last delta."""
        return bool(self._changed)

    def delta(self) -> State:
        """Return what changed since the last one: all that is said of the run, and some steps."""
        changed, self._changed = list(self._changed), {}
        steps = [
            step_state(
                self._steps[step], str(self._states[step]), arguments=self.arguments.get(step)
            )
            for step in changed
        ]
        return {**self.head(), "v": VERSION, "steps": steps}

    def head(self) -> State:
        """Return what is said of the run itself."""
        counts = {str(outcome): self._counts[outcome] for outcome in Outcome}
        counts["in_doubt"] = counts.pop(str(Outcome.UNCERTAIN))
        total, returned = len(self._steps), self._counts[Outcome.RETURNED]
        told = f"{returned} of {total} step{'' if total == 1 else 's'} returned"
        if self._view.replayed:
            told = f"{summary(self._view)} · {told}"
        replayed = self._head["counts"]["replayed"]
        counts |= {"steps": total, "replayed": replayed}
        return {**self._head, "status": str(RunStatus.RUNNING), "told": told, "counts": counts}


def _ended(step: Step, event: StepEvent, at: datetime) -> Step:
    outcome = _ENDS[event.what]
    attempts = tuple(
        replace(one, outcome=outcome, ended=at, error=event.error)
        if one.number == event.attempt and one.outcome is Outcome.RUNNING
        else one
        for one in step.attempts
    )
    return replace(step, attempts=attempts)
