"""Who uses a journal, and how its files are exchanged or looked at while nobody does.

`users.lock` is held shared by every open journal, and exclusively by whoever deals with the files
as such: an opening that finds nobody else, the last one that closes, a repair, a restore. A process
that went on with an old file would have its records acknowledged and lost. Changing from one to the
other is not atomic, so that is done while `open.lock` is held.

An exchange of files is written down (`switch.json`) before the first is renamed and struck out
after the last; whoever opens the journal in between finishes it. So a crash leaves the old files or
the new ones, never some of each.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from notebook_agents.disk import fsync_directory, write_whole
from notebook_agents.errors import JournalBusyError
from notebook_agents.journal.locks import FileLock, holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GATE, USERS = "open.lock", "users.lock"
_SWITCH = "switch.json"
_WAIT_SECONDS = 30.0


class Presence:
    """One open journal's place among those that use it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._fd = -1
        self._childs = -1

    @contextmanager
    def entering(self) -> Iterator[bool]:
        """Become a user when the block ends; say whether there is no other one.

        Raises:
            JournalBusyError: Somebody has been opening, closing or exchanging it for half a minute.
        """
        with _gated(self._home):
            try:
                self._fd = _open(self._home)
                yield _lock(self._fd, fcntl.LOCK_EX)
                fcntl.flock(self._fd, fcntl.LOCK_SH)
            except BaseException:
                self.forget()
                raise

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        """Stop being a user when the block ends; say whether this is the last one."""
        last = False
        with ExitStack() as held:
            with suppress(JournalBusyError, OSError):  # then somebody else is here, or nothing
                held.enter_context(_gated(self._home))
                last = self._fd >= 0 and _lock(self._fd, fcntl.LOCK_EX)
            try:
                yield last
            finally:
                self.forget()

    def forget(self) -> None:
        """Let go; in a forked child this leaves the parent's lock alone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def before_fork(self) -> None:
        """Have a lock for the child: one that it shares with its parent, the parent would change.

        A child is a user from its birth on, so that no parent takes itself for the last one.
        """
        if self._fd >= 0:
            with suppress(OSError):  # the directory is gone: whatever is asked next says so
                self._childs = _open(self._home)
                fcntl.flock(self._childs, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def in_parent(self) -> None:
        """Leave the child its lock."""
        if self._childs >= 0:
            os.close(self._childs)
            self._childs = -1

    def in_child(self) -> None:
        """Be a user in the child's own name: the system says who took a lock, not who has it."""
        self.forget()
        with suppress(OSError):
            self._fd = _open(self._home)
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.in_parent()


def who(home: Path) -> str:
    """Return the ids of the processes that use the journal, as text; "?" if none is told."""
    return _told(home / USERS)


@contextmanager
def alone(home: Path, *, to: str) -> Iterator[None]:
    """Have the journal to this process alone; nobody opens it during the block.

    Args:
        home: The journal's directory; it exists.
        to: What for, for the message: "restore it".

    Raises:
        JournalBusyError: Somebody has it open; the processes are named.
    """
    with _gated(home):
        descriptor = _open(home)
        try:
            if not _lock(descriptor, fcntl.LOCK_EX):
                raise JournalBusyError(
                    f"the journal in {home} is open in process {who(home)}: close it there (shut "
                    f"the kernel down), then {to} again"
                )
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # whoever was forked meanwhile has it too
            os.close(descriptor)


def exchange(
    home: Path, *, away: Sequence[tuple[str, str]], into: Sequence[tuple[str, str]]
) -> None:
    """Rename files of a journal that this process has `alone`: all of them, whatever happens.

    Args:
        home: The directory.
        away: Old names, and what they are called from now on; those come first.
        into: Names of files that are on disk, synced, and what they are called from now on.
    """
    write_whole(home / _SWITCH, json.dumps({"away": away, "into": into}).encode())
    finish_exchange(home)


def exchanging(home: Path) -> bool:
    """Whether an exchange was cut off."""
    return (home / _SWITCH).exists()


def finish_exchange(home: Path) -> None:
    """Bring an exchange to its end, from wherever it was cut off; the caller is `alone`."""
    if not exchanging(home):
        return
    switch = json.loads((home / _SWITCH).read_bytes())
    for old, new in switch["away"]:
        if (home / old).exists() and not (home / new).exists():
            (home / old).rename(home / new)
    fsync_directory(home)  # else the next name could be on disk first, and the old file be nowhere
    for old, new in switch["into"]:
        if (home / old).exists():
            (home / old).rename(home / new)
    fsync_directory(home)
    (home / _SWITCH).unlink()
    fsync_directory(home)


@contextmanager
def _gated(home: Path) -> Iterator[None]:
    gate = FileLock(home / GATE)
    try:
        if not gate.acquire(_WAIT_SECONDS):
            raise JournalBusyError(
                f"the journal in {home} is being opened, closed, restored or repaired by process "
                f"{_told(home / GATE)}: wait for it to end, then try again"
            )
        yield
    finally:
        gate.close()


def _told(path: Path) -> str:
    return ", ".join(map(str, holders(path))) or "?"


def _open(home: Path) -> int:
    return os.open(home / USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
