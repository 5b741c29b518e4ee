"""What happens to steps, told to whoever watches in the driving process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notebook_agents.model import Usage

What = Literal["intended", "returned", "failed", "suspended", "replayed", "in_doubt"]


class StepEvent(NamedTuple):
    """One thing that happened to one step.

    A tuple, since a run makes two for each step on its path: a frozen dataclass takes three times
    as long.

    Attributes:
        thread: The thread's name.
        run: The run's number.
        step: The step's id.
        name: The node's or function's name.
        parent: The enclosing step's id, or None.
        attempt: The number of the attempt, from 1.
        what: What happened; "replayed" is a recorded result that was given again.
        arguments: Of a durable call that begins, a preview of what it is given.
        error: Of an attempt that failed, `Type: message`.
        usage: Of one that returned, what models took in it, without the calls inside it.
    """

    thread: str
    run: int
    step: str
    name: str
    parent: str | None
    attempt: int
    what: What
    arguments: str | None = None
    error: str | None = None
    usage: Usage | None = None


_observers: list[Callable[[StepEvent], None]] = []


@contextmanager
def observe(callback: Callable[[StepEvent], None]) -> Iterator[None]:
    """Call `callback` for every event of this process, in the thread in which it happens.

    It runs on the step's path: keep it short. What it raises fails the step.
    """
    _observers.append(callback)
    try:
        yield
    finally:
        _observers.remove(callback)


def tell(event: StepEvent) -> None:
    """Tell every observer."""
    for observer in tuple(_observers):  # one may leave meanwhile
        observer(event)


def watched() -> bool:
    """Whether anybody observes: an event nobody hears need not be made."""
    return bool(_observers)
