"""journal.<n>.duckdb: every record, columnar; opened in short bursts under a lock.

DuckDB lets one process hold a file, loses what a forked child commits, and aborts a process whose
threads are busy in it at exit (ARCHITECTURE.md, "Why two files"). So it is opened, fed, asked and
closed under a lock of ours, and nothing on a step's path waits for it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, faults
from notebook_agents.disk import fsync_directory
from notebook_agents.errors import (
    JournalBusyError,
    JournalFormatError,
    JournalWriteError,
    NotDurableError,
)
from notebook_agents.faults import Fault
from notebook_agents.journal import compacted, damage, integrity
from notebook_agents.journal.failures import cause, reason, writing
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.records import FORMAT, Record, record_of
from notebook_agents.journal.sql import filtered, query, schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import duckdb

    from notebook_agents.journal.queue import Queue

_logger = logging.getLogger("notebook_agents.journal")

_BATCH = 20_000
BLOCK_BYTES = 16_384  # DuckDB's smallest: a small journal stays a small file
_WAIT_SECONDS = 30.0
# What USE does, in a tenth of the time: the first USE of a process takes 2 ms.
_USE_JOURNAL, _USE_MEMORY = "SET schema = 'journal.main'", "SET schema = 'memory.main'"
_INTERRUPTED = "Query interrupted"
"""What DuckDB says in the place of what a signal's handler raised in the middle of a statement."""
_FEW = 16
"""Up to how many numbers are written into a statement: it is planned in half the time."""


class Archive:
    """One process's way to the journal's DuckDB file."""

    def __init__(self, queue: Queue, *, exclusive: bool) -> None:
        self._queue = queue
        self._exclusive = exclusive
        self._lock = FileLock(queue.home / "journal.lock")
        self.bursting = threading.RLock()
        self._kept: duckdb.DuckDBPyConnection | None = None  # in exclusive mode, for good
        self._lent: duckdb.DuckDBPyConnection | None = None  # during a burst
        # DuckDB without a file, between bursts: to make one takes 20 ms and more, to attach a file
        # 1 ms.
        self._idle: duckdb.DuckDBPyConnection | None = None
        # DuckDB's destructor gives the interpreter's lock back and takes it again, and aborts a
        # process that ends meanwhile. So it is not whoever borrowed a connection that drops it.
        self._spent: duckdb.DuckDBPyConnection | None = None
        self._foreign = False  # the one that is lent ran statements that are not ours
        self._lingering = 0
        self._closed = False
        self._unsure = queue.after_kill  # the heads are compared with DuckDB at its first opening
        if exclusive:
            self._take_lock()
            try:
                self._kept = self._connect()
            except BaseException:
                self._lock.release()
                raise

    @property
    def path(self) -> Path:
        """The file of the current generation."""
        return self._queue.home / compacted.archive_name(self._queue.generation())

    @contextmanager
    def lingering(self) -> Iterator[None]:
        """Let several bursts in the block share one opening; nothing is opened until the first."""
        with self.bursting:
            _answer_signals()
            self._lingering += 1
            whole = False
            try:
                yield
                whole = True
            finally:
                self._lingering -= 1
                if not self._lingering and self._lent is not None:
                    self._put_down(keep=whole)

    def _put_down(self, *, keep: bool) -> None:
        """Close the file that was lent.

        Args:
            keep: Whether DuckDB itself is kept for the next burst, if nothing is wrong with it.
        """
        lent, self._lent = self._lent, None
        assert lent is not None
        try:
            if keep and not self._foreign:
                lent.execute(_USE_MEMORY)
                lent.execute("DETACH journal")  # folds the log back and closes, as `close` does
                self._idle, lent = lent, None
        except Exception:
            _logger.debug("DuckDB is closed: it could not let go of the journal", exc_info=True)
        finally:
            if lent is not None:
                lent.close()
                self._spent = lent
            self._foreign = False
            self._lock.release()

    def rest(self) -> None:
        """Have no DuckDB in this process until it is needed again; no burst is under way."""
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()
            self._spent = idle

    @contextmanager
    def burst(self, *, foreign: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file, lend the connection, close it.

        Args:
            foreign: Whether somebody's own statements are run, which may leave settings or tables
                behind: this DuckDB is for no other burst then.

        Raises:
            JournalBusyError: Another process held it for half a minute; it is named.
            JournalDamagedError: DuckDB cannot open the file or read what it is asked for, or the
                file and the queue are not of one time.
        """
        with self._told_as_damage(), self.bursting:
            if self._closed:  # while this waited: the interpreter may be about to go
                raise NotDurableError(
                    f"the journal in {self._queue.home} is closed: open it again with "
                    "Journal.open()"
                )
            if self._kept is not None:
                yield self._kept
                return
            with self.lingering():
                if self._lent is None:
                    self._take_lock()
                    try:
                        self._lent = self._connect()
                    except BaseException:
                        self._lock.release()
                        raise
                self._foreign |= foreign
                yield self._lent

    @contextmanager
    def _told_as_damage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error) is RuntimeError and str(error) == _INTERRUPTED:
                raise KeyboardInterrupt from error
            found = damage.of(error, self._queue.home) if damage.is_duckdb(error) else None
            if found is None:
                raise
            raise found from error

    def ingest(self) -> int:
        """Take what is in the queue; return the newest number that DuckDB has afterwards.

        A batch and its watermark are one transaction. On any error, COMMIT's included (it can
        raise and be durable), the connection is dropped and the next burst reads the watermark
        again: a batch that is there already is not taken twice.
        """
        with writing(self._queue.home), self.burst() as connection:
            faults.hit(Fault.INGEST_BEGIN)
            mark = self.watermark(connection)
            first, _ = self._queue.bounds()
            try:
                if mark > first > 0:
                    # A burst ended between its commit and the trim. If it was the commit's sync
                    # that failed, what we read is only in memory: the fold writes it again.
                    connection.execute("CHECKPOINT")
                while batch := self._queue.batch(after=mark, limit=_BATCH):
                    mark = take(connection, batch)
            except BaseException as error:
                self.drop()
                if damage.is_duckdb(error) and damage.of(error, self._queue.home) is None:
                    raise JournalWriteError(
                        f"{self.path} could not be written ({damage.first_line(error)}): nothing "
                        "is lost, the records stay in the queue; free some space or mend the disk, "
                        "then ask again"
                    ) from error
                raise
        with writing(self._queue.home):
            fsync_directory(self._queue.home)  # DuckDB syncs its files, not their names
        return mark

    def drop(self) -> None:
        """Let go of a connection that an error left in an unknown state, or whose file is old."""
        if self._kept is not None:
            self._kept.close()
            self._kept = self._connect()
        elif self._lent is not None:
            self._put_down(keep=False)

    @staticmethod
    def watermark(connection: duckdb.DuckDBPyConnection) -> int:
        """Return the newest sequence number that DuckDB has."""
        row = connection.execute(query("archive.watermark")).fetchall()[0]
        return int(row[0])

    def select(self, before: int, **filters: Any) -> list[Record]:
        """Return the matching records older than number `before`, without payloads."""
        return self._found(*filtered("archive.select", {"before": before, **filters}))

    def newest(self, before: int, **filters: Any) -> list[Record]:
        """Return a thread's newest checkpoints among the records older than number `before`."""
        return self._found(*filtered("archive.newest", {"before": before, **filters}))

    def _found(self, statement: str, parameters: dict[str, Any]) -> list[Record]:
        rows = self._rows(statement, parameters)
        return [record_of(row, self._queue.home) for row in rows]

    def _rows(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self.burst() as connection:
            return connection.execute(statement, parameters).fetchall()

    def by_seq(self, seqs: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the rows of the numbered records, with payloads."""
        if len(seqs) <= _FEW:
            return self._rows(query("archive.by_few").replace("$seqs", _literals(seqs)), {})
        wanted = {"seqs": list(seqs), "low": min(seqs), "high": max(seqs)}
        return self._rows(query("archive.by_seq"), wanted)

    def weigh(self, seqs: Sequence[int]) -> tuple[int, int]:
        """Return how many of the numbered records are here, and the bytes of their payloads."""
        with self.burst() as connection:
            count, size = connection.execute(
                query("archive.weigh"), {"seqs": list(seqs), "low": min(seqs), "high": max(seqs)}
            ).fetchall()[0]
        return int(count), int(size)

    def close(self) -> None:
        """Close what exclusive mode keeps open, and the lock."""
        with self.bursting:
            self._closed = True
            self.rest()
            if self._kept is not None:
                self._kept.close()
                self._kept = None
                self._lock.release()
            self._lock.close()

    def abandon(self) -> list[Any]:
        """Forget, in a forked child, what belongs to the parent; return what must not be closed."""
        kept = [self._kept, self._lent, self._idle, self._spent]
        self._kept = self._lent = self._idle = None
        self._lingering, self._foreign = 0, False
        self.bursting = threading.RLock()
        self._lock = FileLock(self._queue.home / "journal.lock")
        return kept

    def _take_lock(self) -> None:
        if not self._lock.acquire(_WAIT_SECONDS):
            raise JournalBusyError(
                f"the journal in {self._queue.home} is held by process {self._lock.holder()}: wait "
                "for it, or close the journal that it opened with mode='exclusive'"
            )
        self._lock.write_holder()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        generation = self._queue.generation()
        path = self._queue.home / compacted.archive_name(generation)
        connection, self._idle = self._idle or duckdb.connect(config={"threads": 1}), None
        try:
            if not path.exists():
                self._create(connection, path)
            connection.execute(f"ATTACH '{quoted(path)}' AS journal")
            connection.execute(_USE_JOURNAL)
            meta = self._check(connection)
            if meta.get("views") != _views_digest():  # another build made the file
                _make_views(connection)
            compacted.finish(self._queue.home, generation)  # this one has every record
        except duckdb.Error as error:
            connection.close()
            if "Could not set lock" in str(error):  # opened by hand, not through this package
                raise JournalBusyError(
                    f"{path} is open in another program ({str(error).splitlines()[0]}): "
                    "close it there"
                ) from error
            if cause(error) is not None and damage.of(error, self._queue.home) is None:
                raise JournalWriteError(f"{path} cannot be opened {reason(error)}") from error
            raise damage.found(
                self._queue.home,
                f"DuckDB cannot open {path.name} ({damage.first_line(error)})",
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        """Make an empty file of the current generation; it gets its name when it is whole.

        Raises:
            JournalDamagedError: Records have left the queue already, so there was one.
        """
        if self._queue.bounds()[0] > 1:
            raise damage.found(self._queue.home, f"{path.name} is missing")
        building = path.with_name(f".{path.name}")
        for left in (building, building.with_name(f"{building.name}.wal")):
            left.unlink(missing_ok=True)  # of a burst that was killed
        make(connection, building, self._queue.journal_id)
        connection.execute("CHECKPOINT journal")
        connection.execute(_USE_MEMORY)
        connection.execute("DETACH journal")
        building.rename(path)
        fsync_directory(path.parent)

    def _check(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        meta = dict(connection.execute(query("archive.meta")).fetchall())
        if not {"format", "journal"} <= meta.keys() or not meta["format"].isdecimal():
            raise damage.found(self._queue.home, f"{self.path.name} does not say what it is")
        if int(meta["format"]) > FORMAT:
            raise JournalFormatError(
                f"{self.path} has format {meta['format']} and this version of notebook-agents "
                f"reads up to {FORMAT}: upgrade notebook-agents to open it"
            )
        if meta["journal"] != self._queue.journal_id:
            raise damage.found(
                self._queue.home,
                f"{self.path.name} belongs to another journal than {self._queue.path.name}",
            )
        count, newest = connection.execute(query("archive.extent")).fetchall()[0]
        mark = self.watermark(connection)
        without = int(meta.get(compacted.COUNT, 0))
        integrity.watermark(self._queue, mark=mark, count=count, newest=newest, without=without)
        if self._unsure:
            self._unsure = False
            integrity.heads(self._queue, connection)
        return meta


def make(connection: duckdb.DuckDBPyConnection, path: Path, journal_id: str) -> None:
    """Make an empty journal file and have `connection` use it as its database `journal`."""
    connection.execute(f"ATTACH '{quoted(path)}' AS journal (BLOCK_SIZE {BLOCK_BYTES})")
    path.chmod(0o600)
    connection.execute(_USE_JOURNAL)
    connection.execute("BEGIN")
    connection.execute(schema("archive.create"))
    for key, value in (("journal", journal_id), ("format", str(FORMAT))):
        connection.execute(query("archive.set_meta"), {"key": key, "value": value})
    connection.execute("COMMIT")
    _make_views(connection)


def _make_views(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("BEGIN")
    connection.execute(schema("archive.views"))
    connection.execute(query("archive.unset_meta"), {"key": "views"})
    connection.execute(query("archive.set_meta"), {"key": "views", "value": _views_digest()})
    connection.execute("COMMIT")


def take(connection: duckdb.DuckDBPyConnection, batch: list[Record]) -> int:
    """Add records and their watermark in one transaction; return the newest number."""
    newest = batch[-1].seq
    connection.execute("BEGIN")
    appender = connection.appender("records")
    appender.append_rows(_row(record) for record in batch)
    appender.flush()  # before the watermark: it must never be ahead of the data
    connection.execute(query("archive.mark"), {"seq": newest, "ts": clock.now_us()})
    faults.hit(Fault.INGEST_FLUSHED)
    connection.execute("COMMIT")
    faults.hit(Fault.INGEST_COMMITTED)
    return newest


def say_left_out(connection: duckdb.DuckDBPyConnection, ranges: compacted.Ranges) -> None:
    """Note in a new file which numbers compactions left out."""
    for key, value in (
        (compacted.KEY, compacted.pack(ranges)),
        (compacted.COUNT, str(compacted.count(ranges))),
    ):
        connection.execute(query("archive.set_meta"), {"key": key, "value": value})


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.seq,
        record.ts,
        str(record.kind),
        record.thread,
        None if record.scope == record.thread else record.scope,
        record.run,
        record.ns,
        record.step,
        record.parent,
        record.name,
        record.attempt,
        record.ref,
        record.prior,
        record.digest,
        list(record.refs) or None,
        record.size,
        record.payload,
    )


def _answer_signals() -> None:
    """Have a signal that came while this thread waited for a lock raise here, in any call.

    Python would answer it behind the `yield` of the context manager: its generator is not resumed
    then and keeps the lock, for as long as somebody holds on to the traceback.
    """


def _literals(seqs: Sequence[int]) -> str:
    return ", ".join(str(int(seq)) for seq in seqs)


def _views_digest() -> str:
    return hashlib.blake2b(schema("archive.views").encode(), digest_size=8).hexdigest()


def quoted(path: Path) -> str:
    """Return a path as it stands between single quotes in SQL: ATTACH takes no parameters."""
    return str(path).replace("'", "''")
