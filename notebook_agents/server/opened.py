"""The journals that the server has open: few, and none for longer than somebody looks at it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.errors import NotebookAgentsError
from notebook_agents.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDLE_SECONDS = 20.0
"""After so long without a request a journal is closed: a repair or a restore wants it alone."""
_QUEUE = "queue.sqlite"


@dataclass(slots=True)
class _Open:
    journal: Journal
    inode: int
    users: int = 0
    used: float = 0.0


class Journals:
    """Opens journals for requests and keeps them open for a while; for any threads.

    What is open when the process ends is closed by `journal/forks.py`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opening: dict[Path, threading.Lock] = {}
        self._open: dict[Path, _Open] = {}
        self._old: list[_Open] = []  # still used; their files are gone or were exchanged

    @contextmanager
    def using(self, home: Path) -> Iterator[Journal]:
        """Have the journal in a directory open in the block.

        Raises:
            NotebookAgentsError: It cannot be opened, see `Journal.open`.
        """
        one = self._take(home)
        try:
            yield one.journal
        finally:
            with self._lock:
                one.users -= 1
                one.used = time.monotonic()
                gone = one in self._old and not one.users
                if gone:
                    self._old.remove(one)
            if gone:
                _close(one)

    def _take(self, home: Path) -> _Open:
        with self._lock:
            opening = self._opening.setdefault(home, threading.Lock())
        with opening:  # not under the lock of all: opening one can take long
            inode = _inode(home)
            with self._lock:
                one = self._open.get(home)
                if one is not None and one.inode == inode and not one.journal.closed:
                    one.users += 1
                    return one
                stale = self._open.pop(home, None)
                if stale is not None and stale.users:
                    self._old.append(stale)
            if stale is not None and not stale.users:
                _close(stale)
            journal = Journal.open(home, create=False, scheduled=False)
            one = _Open(journal, _inode(home), 1)
            with self._lock:
                self._open[home] = one
            return one

    def sweep(self, *, idle: float = IDLE_SECONDS) -> None:
        """Close what nobody has used for so many seconds."""
        limit = time.monotonic() - idle
        with self._lock:
            found = [home for home, one in self._open.items() if not one.users]
            gone = [self._open.pop(home) for home in found if self._open[home].used <= limit]
        for one in gone:
            _close(one)


def _inode(home: Path) -> int:
    with suppress(OSError):
        return (home / _QUEUE).stat().st_ino
    return 0


def _close(one: _Open) -> None:
    with suppress(NotebookAgentsError, OSError):  # its directory may be gone
        one.journal.close()
