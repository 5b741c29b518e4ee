"""SQLite's write-ahead log as a file: made long once, and synced when somebody needs it on disk."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from typing import TYPE_CHECKING

from notebook_agents.journal.queue import PAGE_BYTES, WAL_PAGES

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path


class Log:
    """The log under one connection that writes.

    A commit with `synchronous=NORMAL` writes its frames to the log and no more. Syncing the log
    after it is all that `synchronous=FULL` would add, but here it can be done while others commit,
    and one sync serves every commit before it. The file stays the same one while the connection is
    open: SQLite deletes it only when its last user closes. Nobody locks it, so that closing a
    descriptor of it drops no lock.

    Where the database has no such log (on a network file system) every commit is synced by SQLite.

    Args:
        connection: The connection.
        path: The log's path.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._path = path
        self._ours = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        connection.execute(f"PRAGMA synchronous={'NORMAL' if self._ours else 'FULL'}")
        self._connection = connection
        self._long = not self._ours
        self._fd = -1
        self._committed = 0
        self._synced = 0
        self._syncing = threading.Lock()

    def lengthen(self) -> None:
        """Make the log as long as it will become, so that commits overwrite it, not extend it.

        An fsync of a file that grew writes the file's length and blocks too. Measured for a commit
        of three small records: 0.35 ms with a log that grows, 0.20 ms with one that is long
        already; this takes 2 ms, once. A transaction too large for the cache is written to the log
        and rolled back; what comes next starts where it started.
        """
        if self._long:
            return
        self._long = True
        if self._path.exists() and self._path.stat().st_size >= WAL_PAGES * PAGE_BYTES:
            return
        self._connection.execute("PRAGMA cache_size=5")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.execute("CREATE TABLE filling (bytes)")
            size = (WAL_PAGES - 10) * PAGE_BYTES
            self._connection.execute("INSERT INTO filling VALUES (zeroblob(?))", (size,))
        finally:
            self._connection.execute("ROLLBACK")
            self._connection.execute("PRAGMA cache_size=-2000")

    def cut(self) -> None:
        """Give the log's space back to the file system."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._long = not self._ours

    def committed(self) -> int:
        """Note a commit and return its number."""
        self._committed += 1
        return self._committed

    def sync(self, commit: int) -> None:
        """Return when a commit and all before it are on disk.

        Raises:
            OSError: They may not be.
        """
        if not self._ours or self._synced >= commit:
            return
        with self._syncing:
            if self._synced >= commit:
                return
            newest = self._committed
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            _to_disk(self._fd)
            self._synced = newest

    def close(self) -> None:
        """Close what `sync` opened."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _to_disk(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync alone stops at the drive's cache there
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)
