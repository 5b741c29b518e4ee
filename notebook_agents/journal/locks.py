"""Locks between processes, and whether a process is still the one that was seen."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from functools import cache
from pathlib import Path


class FileLock:
    """An exclusive lock on a file of its own, held by at most one process.

    `flock` belongs to the open file, so two of these on one path exclude each other inside a
    process too. The lock file is never one that SQLite or DuckDB opens: closing any descriptor of
    such a file would drop the engine's own locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._pid = 0

    def _descriptor(self) -> int:
        if self._pid != os.getpid():  # a forked child must not share its parent's lock
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._pid = os.getpid()
        return self._fd

    def wait(self) -> None:
        """Take the lock; wait for it as long as it takes.

        Call it inside the `try` whose `finally` releases: a signal that raises between the two
        would otherwise leave other processes waiting. Releasing what is not held does nothing.
        """
        fcntl.flock(self._descriptor(), fcntl.LOCK_EX)

    def acquire(self, seconds: float) -> bool:
        """Take the lock within `seconds`; say whether it was got."""
        deadline = time.monotonic() + seconds
        fd = self._descriptor()
        pause = 0.001
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
            else:
                return True

    def write_holder(self) -> None:
        """Say in the file who holds it, for whoever waits."""
        os.ftruncate(self._descriptor(), 0)
        os.pwrite(self._descriptor(), str(os.getpid()).encode(), 0)

    def holder(self) -> str:
        """Return the process id that the last holder wrote, or "?"."""
        try:
            return self.path.read_text(encoding="ascii") or "?"
        except OSError:
            return "?"

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._descriptor(), fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock's file."""
        if self._pid == os.getpid() and self._fd >= 0:
            os.close(self._fd)
        self._fd, self._pid = -1, 0


@cache
def boot_id() -> str:
    """Return what changes when this host starts again, or "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_started(pid: int) -> int:
    """Return a process's start in clock ticks since boot; 0 if there is none, or none is told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


@cache
def host_name() -> str:
    """Return this host's name."""
    return socket.gethostname()


def is_alive(*, pid: int, host: str, boot: str, started: int) -> bool:
    """Whether that very process still runs.

    A process on another host counts as alive: nothing here can tell. On this host the boot id and
    the start time tell it from a later process with the same id.
    """
    if host != host_name():
        return True
    if boot != boot_id():
        return False
    if started:
        return process_started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
