"""SQLite's write-ahead log as a file: made long once, and synced when somebody needs it on disk."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from notebook_agents.journal import unsynced
from notebook_agents.journal.mark import Marker
from notebook_agents.journal.queue_file import LOG_BYTES
from notebook_agents.journal.sql import query

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
        self._path, self._home = path, path.parent
        self._ours = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        # EXTRA: a rollback journal that was deleted must stay so, else it takes the commit back.
        connection.execute(f"PRAGMA synchronous={'NORMAL' if self._ours else 'EXTRA'}")
        self._connection = connection
        self._long = not self._ours
        self._fd = -1
        self._committed = 0
        self._synced = 0
        self._seq = 0
        self._marker = _marker(connection, self._home)
        self._syncing = threading.Lock()
        self.lost: OSError | None = None
        """Why nothing can be acknowledged as durable any more: see `unsynced`."""

    def lengthen(self) -> None:
        """Make the log as long as it will become, so that commits overwrite it, not extend it.

        An fsync of a file that grew writes the file's length and blocks too. Measured for a commit
        of three small records: 0.35 ms with a log that grows, 0.20 ms with one that is long
        already. SQLite reads a log up to the first frame that has not the log's own salt, so zeros
        behind the last one are none. The caller keeps everybody else from writing.
        """
        if self._long:
            return
        self._long = True
        with suppress(OSError):  # it is only faster: what is to be committed may still fit
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(descriptor).st_size
                if size < LOG_BYTES:
                    os.pwrite(descriptor, bytes(LOG_BYTES - size), size)
            finally:
                os.close(descriptor)

    def cut(self) -> bool:
        """Give the log's space back to the file system, unless somebody reads from it now.

        Returns:
            Whether all of it is in the database, and nothing left in the log.
        """
        self._connection.execute("PRAGMA busy_timeout=0")  # the caller keeps all others waiting
        try:
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self._connection.execute("PRAGMA busy_timeout=30000")
        self._long = not self._ours
        return not busy

    def committed(self, seq: int = 0) -> int:
        """Note a commit, and the newest record's number if it added any; return the commit's."""
        if seq:
            self._seq = seq
            self._marker.committed(seq)
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
            if self.lost is not None:
                raise self.lost
            newest, seq = self._committed, self._seq
            try:
                if self._fd < 0:
                    self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                _to_disk(self._fd)
            except OSError as error:
                self.lost = error
                with suppress(OSError):
                    unsynced.mark(self._home)
                raise
            if unsynced.marked(self._home):
                self.lost = OSError(errno.EIO, "another process could not sync the log")
                raise self.lost
            self._synced = newest
            if seq:
                self._marker.synced(seq)

    def sync_all(self) -> None:
        """Return when every commit is on disk; see `sync`."""
        self.sync(self._committed)

    def close(self) -> None:
        """Close what it opened; no commit may come any more."""
        with self._syncing:
            self._marker.close()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def _marker(connection: sqlite3.Connection, home: Path) -> Marker:
    meta = dict(connection.execute(query("queue.meta")).fetchall())
    newest = connection.execute(query("queue.last_seq")).fetchone()[0]
    return Marker(
        home, journal_id=meta["journal"], newest=newest, generation=int(meta["generation"])
    )


def _to_disk(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync alone stops at the drive's cache there
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)
