"""What a driver asks of whoever keeps its thread's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState


class Keeper(Protocol):
    """Keeps the objects of a thread with its steps."""

    def kept(self, attempt: Attempt) -> list[Draft]:
        """Return what is to be recorded with the result of an attempt, in its transaction."""

    def dropped(self, attempt: Attempt) -> None:
        """Have the objects as they were before an attempt that did not return."""

    def replayed(self, step: StepState) -> None:
        """Have the objects as a step left them that is not run again."""

    def ended(self, driver: RunDriver) -> list[Draft]:
        """Return what is to be recorded when a run is put down."""


class _NoObjects:
    """Keeps nothing: most threads have no objects."""

    def kept(self, attempt: Attempt) -> list[Draft]:  # noqa: ARG002 - a Keeper's
        return []

    def dropped(self, attempt: Attempt) -> None:
        pass

    def replayed(self, step: StepState) -> None:
        pass

    def ended(self, driver: RunDriver) -> list[Draft]:  # noqa: ARG002 - a Keeper's
        return []


NO_OBJECTS: Keeper = _NoObjects()
