"""Locks between processes, and whether a process is still the one that was seen."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import weakref
from enum import Enum
from functools import cache
from pathlib import Path

from notebook_agents.journal import stalls


class FileLock:
    """An exclusive lock on a file of its own, held by at most one process.

    `flock` belongs to the open file, so two of these on one path exclude each other inside a
    process too. The lock file is never one that SQLite or DuckDB opens: closing any descriptor of
    such a file would drop the engine's own locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        _locks.add(self)

    def _descriptor(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._fd

    def wait(self) -> None:
        """Take the lock; wait for it as long as it takes, and say if that is long.

        Call it inside the `try` whose `finally` releases: a signal that raises between the two
        would otherwise leave other processes waiting. Releasing what is not held does nothing.
        """
        fd = self._descriptor()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                stalls.begin(self.path)
                fcntl.flock(fd, fcntl.LOCK_EX)
            finally:
                stalls.end()

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
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back and close its file."""
        self.release()  # a child that was forked a moment ago may still have the file open
        self._forget()

    def _forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Have no part in the parent's locks: they would outlive it if it is killed."""
    for lock in list(_locks):
        lock._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Life(Enum):
    """What can be told of a process from here."""

    RUNS = "runs"
    GONE = "gone"
    UNSURE = "unsure"
    """It is on another host, among processes that cannot be seen from here, or was stopped."""


def holders(path: Path) -> list[int]:
    """Return the ids of the processes that hold a `flock` on a file; none where nobody tells."""
    try:
        inode = path.stat().st_ino
        told = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = set()
    for line in told:
        fields = line.split()
        if "->" in fields or fields[1] != "FLOCK":  # with an arrow: one who waits
            continue
        if int(fields[5].rpartition(":")[2]) == inode:
            found.add(int(fields[4]))
    return sorted(found)


@cache
def boot_id() -> str:
    """Return what changes when this host starts again, and which of its processes can be seen.

    It is `boot id/PID namespace`; "/" where the system says neither.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    try:
        seen = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        seen = ""
    return f"{boot}/{seen}"


def _stat(pid: int) -> tuple[str, int]:
    """Return a process's state and its start in clock ticks since boot; ("", 0) for none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0
    fields = stat.rpartition(")")[2].split()
    return ("", 0) if fields[0] in "ZX" else (fields[0], int(fields[19]))


def stopped(pid: int) -> bool:
    """Whether a process was stopped (Ctrl-Z, SIGSTOP, a debugger), as far as that is told."""
    return _stat(pid)[0] in ("T", "t")


def process_started(pid: int) -> int:
    """Return a process's start in clock ticks since boot; 0 if there is none, or none is told."""
    return _stat(pid)[1]


@cache
def host_name() -> str:
    """Return this host's name."""
    return socket.gethostname()


def this_process() -> dict[str, str | int]:
    """Return what tells this process from all others: pid, host, boot, started."""
    return {"pid": os.getpid(), "host": host_name(), "boot": boot_id(), "started": _started()}


def _started() -> int:
    global _this
    if _this[0] != os.getpid():  # not a cache: a forked child has a start of its own
        _this = (os.getpid(), process_started(os.getpid()))
    return _this[1]


_this = (0, 0)


def life(*, pid: int, host: str, boot: str, started: int) -> Life:
    """Say whether that very process still runs.

    On this host the boot id and the start time tell it from a later process with the same id. A
    process that was stopped (Ctrl-Z, SIGSTOP) may never go on, so that nobody can tell.
    """
    if host != host_name():
        return Life.UNSURE
    theirs, ours = boot.partition("/"), boot_id().partition("/")
    if theirs[0] != ours[0]:
        return Life.GONE
    if theirs != ours:
        return Life.UNSURE
    if started:
        state, begun = _stat(pid)
        if begun != started:
            return Life.GONE
        return Life.UNSURE if state == "T" else Life.RUNS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Life.GONE
    except PermissionError:
        pass
    return Life.UNSURE  # this system does not say whether it was stopped
