"""queue.sqlite: opening, checking and reading it. `writer.py` is the only one that writes to it."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, ids
from notebook_agents.errors import JournalDamagedError, JournalFormatError, NoJournalError
from notebook_agents.journal import locks
from notebook_agents.journal.records import FORMAT, Record, from_row
from notebook_agents.journal.sql import query, schema
from notebook_agents.model import Driver, RunStatus, ThreadInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

APPLICATION_ID = 0x4E424147  # "NBAG", in the SQLite header: tells a journal from other databases
FILE = "queue.sqlite"

PAGE_BYTES = 512
# A transaction logs whole pages, so small ones make a log that holds more steps, and leave less of
# themselves empty. Measured with `python -m tests.bench fsyncs size` for 0.5, 1, 2 and 4 KB: files
# after a kill 1.81, 2.22, 1.98 and 1.97 times the content; fsyncs of the log per step 1.018,
# 1.025, 1.035 and 1.058. The price is paid by large values: 500 KB take 9.5 ms instead of 4.8.
WAL_PAGES = 1300
# The log is folded back at this many pages, and is this long from the start. More leaves larger
# files after a kill, fewer costs more fsyncs (two per fold).
_NETWORK_TYPES = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "lustre")


def file_system(path: Path) -> str:
    """Return the type of the file system that `path` lies on, or "" where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_
    return kind


def on_network(path: Path) -> bool:
    """Whether `path` lies on a network file system, where SQLite's WAL does not work."""
    return file_system(path) in _NETWORK_TYPES


class Queue:
    """One process's view of queue.sqlite: what is in it, and the thread heads."""

    def __init__(self, home: Path, *, create: bool) -> None:
        self.home = home
        self.path = home / FILE
        if not self.path.exists():
            if not create:
                raise NoJournalError(
                    f"there is no journal in {home}: it has no {FILE}; run an agent there to make "
                    "one, or name the directory of another journal"
                )
            _make(home)
        self._lock = threading.RLock()
        self._reader = connect(self.path)
        meta = _checked_meta(self._reader, self.path)
        self.journal_id = str(meta["journal"])

    def generation(self) -> int:
        """Return the number of the DuckDB file that is current."""
        meta = dict(self._all("queue.meta"))
        return int(meta["generation"])

    def bounds(self) -> tuple[int, int]:
        """Return the first and the last sequence number in the queue, (0, 0) when it is empty."""
        first, last = self._all("queue.bounds")[0]
        return int(first), int(last)

    def backlog_bytes(self) -> int:
        """Return the size of the queue's file and log in bytes."""
        log = self.path.with_name(FILE + "-wal")
        return self.path.stat().st_size + (log.stat().st_size if log.exists() else 0)

    def select(self, **filters: Any) -> tuple[list[Record], int]:
        """Return the matching records without payloads, and the first number in the queue.

        Both come from one snapshot: what is older than that number was in DuckDB before it left.
        """
        with self._lock:
            self._reader.execute("BEGIN")
            try:
                first, _ = self.bounds()
                rows = self._all("queue.select", filters)
            finally:
                self._reader.execute("COMMIT")
        return [from_row(row) for row in rows], first

    def by_seq(self, seqs: Iterable[int]) -> list[Record]:
        """Return those of the numbered records that are still in the queue, with payloads."""
        rows = self._all("queue.by_seq", {"seqs": json.dumps(list(seqs))})
        return [from_row(row) for row in rows]

    def batch(self, *, after: int, limit: int) -> list[Record]:
        """Return up to `limit` records behind number `after`, with payloads."""
        rows = self._all("queue.batch", {"after": after, "limit": limit})
        return [from_row(row) for row in rows]

    def head(self, thread: str) -> Head | None:
        """Return a thread's head, or None."""
        rows = self._all("queue.thread", {"thread": thread})
        return Head(rows[0]) if rows else None

    def heads(self) -> list[Head]:
        """Return every thread's head, the one with the newest record first."""
        return [Head(row) for row in self._all("queue.threads")]

    def key(self, scope: str) -> bytes | None:
        """Return a scope's wrapped data key, or None."""
        rows = self._all("queue.key", {"scope": scope})
        return bytes(rows[0][0]) if rows else None

    def any_key(self) -> bytes | None:
        """Return some wrapped data key, or None where there is none yet."""
        rows = self._all("queue.any_key")
        return bytes(rows[0][1]) if rows else None

    def scope_users(self, scope: str) -> int:
        """Return how many threads use a scope's key."""
        return int(self._all("queue.scope_users", {"scope": scope})[0][0])

    def close(self) -> None:
        """Close the connection; the last one of all processes folds the log back."""
        self._reader.close()

    def abandon(self) -> list[Any]:
        """Return, in a forked child, what belongs to the parent and must not be closed."""
        return [self._reader]

    def _all(self, name: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._reader.execute(query(name), parameters or {}).fetchall()


class Head:
    """A thread's row in queue.sqlite: what `list` shows and what a driver needs first."""

    def __init__(self, row: tuple[Any, ...]) -> None:
        (
            self.thread,
            self.scope,
            self.agent,
            self.status,
            self.run,
            self.session,
            self.intended,
            self.returned,
            self.records,
            self.first_seq,
            self.last_seq,
            self._created,
            self._updated,
            self.notebook,
            self.token,
            self._pid,
            self._host,
            self._boot,
            self._started,
            self._since,
        ) = row

    @property
    def driver(self) -> Driver | None:
        """The process that took the thread and has not given it back, dead or alive."""
        if self._pid is None:
            return None
        return Driver(
            pid=self._pid,
            host=self._host,
            boot=self._boot,
            started=self._started,
            notebook=self.notebook,
            since=clock.from_us(self._since),
        )

    @property
    def driven(self) -> bool:
        """Whether that process still runs."""
        return self._pid is not None and locks.is_alive(
            pid=self._pid, host=self._host, boot=self._boot, started=self._started
        )

    def info(self) -> ThreadInfo:
        """Return the public view: a running thread without a living driver is orphaned."""
        status = RunStatus(self.status)
        if status is RunStatus.RUNNING and not self.driven:
            status = RunStatus.ORPHANED
        return ThreadInfo(
            thread=self.thread,
            agent=self.agent,
            status=status,
            run=self.run,
            returned=self.returned,
            intended=self.intended,
            created=clock.from_us(self._created),
            updated=clock.from_us(self._updated),
            notebook=self.notebook,
            driver=self.driver,
            records=self.records,
        )


def connect(path: Path) -> sqlite3.Connection:
    """Open queue.sqlite in autocommit mode, usable from any thread under the caller's lock.

    Raises:
        JournalFormatError: The file is no SQLite database.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    try:
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        connection.execute("PRAGMA secure_delete=ON")  # a deleted data key leaves no copy behind
        if sys.platform == "darwin":  # fsync alone stops at the drive's cache there
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _unreadable(path, error) from error
    return connection


def _make(home: Path) -> None:
    """Create an empty journal; of several processes that try at once, one makes it."""
    if home.exists() and not home.is_dir():
        raise JournalFormatError(f"{home} is a file: a journal is a directory, name another path")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = home / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
    lock = locks.FileLock(home / "queue.lock")
    try:
        lock.wait()
        path = home / FILE
        if not path.exists():
            building = home / f".{FILE}.{os.getpid()}"
            building.unlink(missing_ok=True)
            os.close(os.open(building, os.O_CREAT | os.O_WRONLY, 0o600))
            _fill(building, network=on_network(home))
            building.rename(path)
            fsync_directory(home)
    finally:
        lock.close()


def _fill(path: Path, *, network: bool) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_mode={'DELETE' if network else 'WAL'}")
        connection.executescript("BEGIN;" + schema("queue.create"))
        for key, value in (
            ("journal", ids.new_journal_id()),
            ("created", clock.now_us()),
            ("generation", 1),
        ):
            connection.execute(query("queue.set_meta"), {"key": key, "value": value})
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _checked_meta(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            raise JournalFormatError(
                f"{path} is a SQLite database but no journal: name another directory"
            )
        if version > FORMAT:
            raise JournalFormatError(
                f"the journal in {path.parent} has format {version} and this version of "
                f"notebook-agents reads up to {FORMAT}: upgrade notebook-agents to open it"
            )
        return dict(connection.execute(query("queue.meta")).fetchall())
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _unreadable(path, error) from error
    except JournalFormatError:
        connection.close()
        raise


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> Exception:
    if "not a database" in str(error):
        return JournalFormatError(f"{path} is no journal ({error}): name another directory")
    return JournalDamagedError(
        f"{path} cannot be read ({error}): keep a copy of the directory and put {FILE} back "
        "from a backup"
    )


def fsync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
