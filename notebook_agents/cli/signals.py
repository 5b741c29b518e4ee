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

PATIENCE = 0.1
"""Seconds after which a signal whose handler has not run is sent again."""

NUMBERS = (signal.SIGINT, signal.SIGTERM)

_wakeups: list[int] = []


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
    before = {number: signal.signal(number, stop.handle) for number in NUMBERS}
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

    Python calls a signal's handler between two instructions of the main thread. A signal that comes
    after the last one before a blocking call does not interrupt that call, so that its handler
    waits as long as the call does: 2 of 1,500 processes that were about to open a pipe never
    answered. What Python does at once is to write the signal's number to the wakeup descriptor,
    where a thread reads it, and sends the signal again until the handler has run.
    """

    def __init__(self, how: Callable[[], str], tell: Callable[[Stopped], None]) -> None:
        self._how = how
        self._tell = tell
        self._number: int | None = None
        self._sent_again = False
        # Started now: to start a thread takes locks, which the code that a signal cuts into may
        # hold. To put something into this queue takes none that could be held.
        self._over: SimpleQueue[None] = SimpleQueue()
        numbers, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        _wakeups.append(self._wakeup)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        threading.Thread(
            target=self._watch, args=(numbers,), name="notebook-agents-stop", daemon=True
        ).start()

    def _watch(self, numbers: int) -> None:
        """After the first signal, see that it is answered, and give the running steps their time.

        Args:
            numbers: The descriptor to read the signals' numbers from; closed at the end.
        """
        main = threading.main_thread().ident
        assert main is not None
        with open(numbers, "rb", buffering=0) as heard:
            while (number := heard.read(1)) != b"" and number[0] not in NUMBERS:
                pass  # a signal that has nothing to do with us
            for _ in range(round(GRACE / PATIENCE)):
                try:
                    self._over.get(timeout=PATIENCE)
                except Empty:
                    if self._number is None:
                        self._sent_again = True
                        signal.pthread_kill(main, number[0])
                else:
                    return
            self.leave()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Answer a signal."""
        again, self._sent_again = self._sent_again, False
        if self._number is not None:
            if again:
                return  # the first signal once more, sent while its handler began
            self.leave()
        self._number = number
        stopping.stop()
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
        signal.set_wakeup_fd(self._wakeup_before)
        self._over.put(None)
        _wakeups.remove(self._wakeup)
        os.close(self._wakeup)
        stopping.go_on()


def _in_child() -> None:
    """Let a signal to a forked child be its own, and its parent's thread end when it is told to."""
    if _wakeups:
        signal.set_wakeup_fd(-1)
    while _wakeups:
        os.close(_wakeups.pop())


os.register_at_fork(after_in_child=_in_child)
