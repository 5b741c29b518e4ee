"""Processes to kill: forked from a parent that has imported everything and opened nothing."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

HUNG_SECONDS = 20.0
"""After this a child counts as hung; the slowest honest one takes about a second."""
_LAST_WORDS_SECONDS = 2.0


class ChildHungError(AssertionError):
    """A child neither ended nor died."""


@dataclass(frozen=True, slots=True)
class Child:
    """A forked process.

    Attributes:
        pid: Its process id, and the id of its process group if it leads one.
        alive: The reading end of a pipe whose other end only the child holds: at its end of file
            the child is gone, however it went.
        log: Where its output and its traceback go.
    """

    pid: int
    alive: int
    log: Path

    def ends_within(self, seconds: float) -> bool:
        """Wait until the child is gone, for at most `seconds`."""
        return bool(select.select([self.alive], [], [], seconds)[0])

    def kill(self, number: int = signal.SIGKILL, *, group: bool = False) -> None:
        """Send a signal to the child, or to its whole process group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def interrupt(self) -> None:
        """Press Ctrl-C, once the child's main thread sleeps.

        Python answers a signal that comes a moment before a blocking call only after that call.
        """
        state = Path(f"/proc/{self.pid}/stat")
        while state.exists() and state.read_text().rpartition(") ")[2][0] == "R":
            pass
        self.kill(signal.SIGINT)

    def end(self) -> int:
        """Wait for the child and return its exit code, or minus the signal that killed it.

        Raises:
            ChildHungError: It did not end; it is killed.
        """
        hung = not self.ends_within(HUNG_SECONDS)
        if hung:
            self.kill(signal.SIGUSR1)  # its stacks go to the log
            self.ends_within(_LAST_WORDS_SECONDS)
            self.kill()
        _, status = os.waitpid(self.pid, 0)
        os.close(self.alive)
        if hung:
            raise ChildHungError(f"hung for {HUNG_SECONDS:.0f} s; its stacks are in {self.log}")
        return os.waitstatus_to_exitcode(status)


def fork(body: Callable[[], None], log: Path, *, group: int | None = None) -> Child:
    """Run `body` in a forked child and return at once.

    Args:
        body: What the child does. An exception that leaves it goes to `log`; the exit code is 70.
        log: A file that the child's output is appended to.
        group: Process group to join; 0 makes the child the leader of a new one.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # A SIGINT may come at once: until the child is ready for it, it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _live(body, log, group)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.close(writing)
    if group is not None:
        # Both sides set it, so that neither has to wait for the other. A child that is gone
        # already, or has done it itself, needs nothing.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, group)
    return Child(pid, reading, log)


def _live(body: Callable[[], None], log: Path, group: int | None) -> NoReturn:
    """Be the child: never return into the parent's code, never run its exit handlers."""
    status = 70
    try:
        try:
            if group is not None:
                os.setpgid(0, group)
            output = os.open(log, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            faulthandler.register(signal.SIGUSR1, file=output)
            # A shell's background job ignores SIGINT, and its children would too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            body()
            status = 0
        except BaseException:
            traceback.print_exc()  # the child's last words, whatever ended it
        os._exit(status)
    except (
        BaseException
    ):  # the SIGINT came after the body: it must not go up into the parent's code
        os._exit(status)
