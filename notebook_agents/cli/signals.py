"""Ctrl-C and SIGTERM while a run is driven: both leave it resumable, and soon."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from notebook_agents.runtime import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

GRACE = 5.0
"""Seconds that running steps have to return after the first signal."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came.

    A KeyboardInterrupt, because everything between here and a node knows what to do with that one.
    """


class Stopped(Exception):  # noqa: N818 - how a command ends on request, not an error
    """A signal ended the command; the message says how to go on.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def stoppable(how: Callable[[], str], tell: Callable[[Stopped], None]) -> Iterator[None]:
    """Raise `Stopped` when SIGINT or SIGTERM comes while the body drives a run.

    The first signal raises in the main thread, so that every `finally` of the body runs. A second
    one, or `GRACE` seconds, end the process at once: the steps that were running are in doubt.

    Args:
        how: Returns the sentence's end: how to go on.
        tell: Shows a `Stopped` where the process ends at once and nobody else could.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread set handlers
        return
    stop = _Stop(how, tell)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield
    except (KeyboardInterrupt, stopping.RunStopped) as error:
        from notebook_agents.runtime.leaving import wait_for_all  # it needs more than a command

        wait_for_all()
        raise stop.stopped() from error
    finally:
        stop.over()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    """What happens between the first signal and the end.

    The interpreter waits at its exit for every worker thread, and for the steps still queued behind
    them. So no further step begins: what is queued ends as soon as it starts, and what runs has
    `GRACE` seconds to return. Then the process ends as it would by SIGKILL, which a run survives.
    """

    def __init__(self, how: Callable[[], str], tell: Callable[[Stopped], None]) -> None:
        self._how = how
        self._tell = tell
        self._number: int | None = None
        # Started now: to start a thread takes locks, which the code that a signal cuts into may
        # hold. To put something into this queue takes none that could be held.
        self._news: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._watch, name="notebook-agents-stop", daemon=True).start()

    def _watch(self) -> None:
        """After the first signal, give the running steps their time."""
        self._news.get()
        try:
            self._news.get(timeout=GRACE)
        except Empty:
            self.leave()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Answer a signal."""
        if self._number is not None:
            self.leave()
        self._number = number
        stopping.stop()
        self._news.put(None)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def stopped(self) -> Stopped:
        """Return what the command ends with."""
        number = self._number or signal.SIGINT
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        return Stopped(f"stopped by {name}: {self._how()}", number)

    def leave(self) -> None:
        """End the process now."""
        stopped = self.stopped()
        self._tell(stopped)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped.exit_code)

    def over(self) -> None:
        """Note that the body has ended: the main thread says the rest."""
        for _ in range(2):  # also where no signal came
            self._news.put(None)
        stopping.go_on()
