"""What can still be read of a journal's files. Nothing here changes any of them.

queue.sqlite is small: copies of it are read in several ways (with its log as SQLite reads it, with
every frame of the log, page by page), and each gives what it can. The DuckDB file is
opened for reading, and read by ranges of rows.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from notebook_agents.journal import compacted, damage, lineage, pages
from notebook_agents.journal.archive import make, quoted
from notebook_agents.journal.failures import cause
from notebook_agents.journal.queue import Head
from notebook_agents.journal.queue_file import FILE, PAGE_BYTES
from notebook_agents.journal.records import Record, from_row
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SALVAGE = ".salvage-"
"""Begins the names of directories with copies of a DuckDB file; a kill leaves them."""
_ERRORS = (duckdb.Error, RuntimeError)
_RECORD_COLUMNS = 17
_HEADER = 4096
_RANGE = 2048
"""Rows of DuckDB that are read at once; a damaged block costs the rows of a range, divided down."""


@dataclass(slots=True)
class QueueRemains:
    """What is left of queue.sqlite.

    Attributes:
        meta: Its meta table.
        heads: Rows of the table `threads` by thread, as columns by name.
        keys: Wrapped keys by scope.
        records: By number; where versions of the file differ, each of them.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    records: dict[int, list[Record]] = field(default_factory=dict)

    @property
    def lost(self) -> list[tuple[int, int]]:
        """What an earlier repair found nowhere."""
        try:
            return [(int(low), int(high)) for low, high in json.loads(self.meta.get("lost", "[]"))]
        except (TypeError, ValueError):
            return []

    @property
    def compacted(self) -> compacted.Ranges:
        """What compactions left out."""
        try:
            return compacted.of(self.meta)
        except ValueError:
            return []

    @property
    def branches(self) -> lineage.Branches:
        """From which numbers on it went on anew, as far as that can be read."""
        try:
            return lineage.of(self.meta)
        except (TypeError, ValueError):
            return []


def read_queue(home: Path) -> QueueRemains:
    """Return what is left of the queue in `home`; nobody may have it open."""
    main = _bytes(home / FILE)
    log = _bytes(home / f"{FILE}-wal")
    found = QueueRemains()
    with tempfile.TemporaryDirectory(prefix="notebook-agents-") as folder:
        path = Path(folder) / FILE
        path.write_bytes(main)
        path.with_name(f"{FILE}-wal").write_bytes(log)
        _add(found, path)
        forced = pages.replayed(main, log, PAGE_BYTES)
        path = Path(folder) / "forced.sqlite"
        path.write_bytes(forced)
        _add(found, path)
    for version in (forced, main):
        _carve(found, version)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:  # one that this user may not read is not damaged
        if error.errno != errno.EIO:
            raise
        return b""


def _add(found: QueueRemains, path: Path) -> None:
    """Add what one version of the queue has and the ones before it did not."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error:
        return
    with closing(connection):
        for key, value in _rows(connection, "SELECT key, value FROM meta"):
            found.meta.setdefault(key, value)
        for scope, wrapped in _rows(connection, query("queue.keys")):
            if isinstance(scope, str) and isinstance(wrapped, bytes):
                found.keys.setdefault(scope, wrapped)
        for row in _rows(connection, "SELECT * FROM threads", named=True):
            thread = row.get("thread")
            if isinstance(thread, str) and (
                thread not in found.heads or _newer(row, found.heads[thread])
            ):
                found.heads[thread] = row
        for row in _rows(connection, query("queue.every")):
            _add_record(found, row)


def _add_record(found: QueueRemains, row: Sequence[Any]) -> None:
    record = _record(row)
    if record is None:
        return
    versions = found.records.setdefault(record.seq, [])
    if record not in versions:
        versions.append(record)


def _carve(found: QueueRemains, version: bytes) -> None:
    """Add what lies on pages that SQLite does not get to."""
    meta: dict[str, Any] = {}
    for row in pages.rows(version, PAGE_BYTES):
        if len(row) == _RECORD_COLUMNS and isinstance(row[0], int):
            _add_record(found, row)
        elif len(row) == len(Head.COLUMNS) and isinstance(row[0], str):
            found.heads.setdefault(row[0], dict(zip(Head.COLUMNS, row, strict=True)))
        elif len(row) == 2 and isinstance(row[0], str):
            if isinstance(row[1], bytes):
                found.keys.setdefault(row[0], row[1])
            else:
                meta.setdefault(row[0], row[1])
    for name in meta.keys() - found.keys.keys():  # the others are of the index of the keys
        found.meta.setdefault(name, meta[name])


def _newer(row: dict[str, Any], head: dict[str, Any]) -> bool:
    try:
        return (row["last_seq"], row["token"]) > (head["last_seq"], head["token"])
    except (KeyError, TypeError):
        return False


def _rows(connection: sqlite3.Connection, statement: str, *, named: bool = False) -> Iterator[Any]:
    """Yield the rows of a query until one cannot be read."""
    try:
        cursor = connection.execute(statement)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True)) if named else row
    except (sqlite3.Error, OverflowError, UnicodeDecodeError):
        return


def _record(row: Sequence[Any]) -> Record | None:
    try:
        record = from_row(row)
    except (TypeError, ValueError, AttributeError):
        return None
    fits = isinstance(record.thread, str) and isinstance(record.payload, bytes)
    return record if fits and isinstance(record.ts, int) and record.seq > 0 else None


class ArchiveRemains:
    """What is left of a DuckDB file; it is opened for reading.

    Args:
        path: The file.

    Attributes:
        trouble: Why nothing can be read of it, or None.
        journal: The journal's id that it says, or None.
        mark: Its watermark, 0 where that cannot be read.
        compacted: What it says that compactions left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self.journal: str | None = None
        self.mark = 0
        self.compacted: compacted.Ranges = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.connection = self._connect()
        if self.connection is not None:
            try:
                meta = dict(self.connection.execute(query("archive.meta")).fetchall())
                self.journal = meta.get("journal")
                if not meta.get("format", "").isdecimal():
                    self.trouble = f"{self.path.name} does not say what it is"
                self.mark = int(
                    self.connection.execute(query("archive.watermark")).fetchall()[0][0]
                )
                said = self.connection.execute(query("archive.compacted")).fetchall()
                self.compacted = compacted.unpack(said[0][0]) if said else []
            except (*_ERRORS, ValueError) as error:
                self.trouble = damage.first_line(error)

    def _connect(self) -> duckdb.DuckDBPyConnection | None:
        if not self.path.exists():
            self.trouble = f"{self.path.name} is missing"
            return None
        try:
            return attach(self.path)
        except _ERRORS as error:
            if cause(error) == errno.EACCES:  # one that this user may not read is not damaged
                raise
            self.trouble = damage.first_line(error)
        # DuckDB opens nothing while its log has a damaged entry, or the file a damaged header: what
        # was committed before that entry, or under another header, is read from a copy.
        self._folder = tempfile.TemporaryDirectory(prefix=SALVAGE, dir=self.path.parent)
        copy = Path(self._folder.name) / self.path.name
        said = self.trouble
        for patch in _headers(self.path, Path(self._folder.name)):
            shutil.copyfile(self.path, copy)
            with copy.open("r+b") as file:
                for at, header in patch:
                    file.seek(at)
                    file.write(header)
            connection = self._with_log(copy, said)
            if connection is not None:
                return connection
        return None

    def _with_log(self, copy: Path, said: str | None) -> duckdb.DuckDBPyConnection | None:
        """Open a copy with as much of the log as DuckDB takes."""
        log = self.path.with_name(f"{self.path.name}.wal")
        beside = copy.with_name(f"{copy.name}.wal")
        for size in _sizes(log, said):
            beside.unlink(missing_ok=True)
            if size:
                beside.write_bytes(log.read_bytes()[:size])
            try:
                return attach(copy)
            except _ERRORS:
                continue
        return None

    @property
    def folder(self) -> Path | None:
        """The directory with the copy that is read, where there is one."""
        return None if self._folder is None else Path(self._folder.name)

    def extent(self) -> int:
        """Return how many rows the records have."""
        assert self.connection is not None
        return int(self.connection.execute("SELECT count(*) FROM records").fetchall()[0][0])

    def _end(self) -> int:
        """Return the row id behind the last one; rows that somebody deleted keep theirs."""
        assert self.connection is not None
        statement = "SELECT coalesce(max(rowid) + 1, 0) FROM records"
        return int(self.connection.execute(statement).fetchall()[0][0])

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of row ids that can be read whole: the first one, and the one behind."""
        if self.connection is None:
            return
        total = self._end()
        for low in range(0, total, _RANGE):
            yield from self._readable(low, min(low + _RANGE, total))

    def _readable(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        if self._reads("*", low, high):
            yield low, high
        elif high - low > 1 and self._reads("rowid", low, high):
            middle = (low + high) // 2
            yield from self._readable(low, middle)
            yield from self._readable(middle, high)

    def _reads(self, what: str, low: int, high: int) -> bool:
        assert self.connection is not None
        try:
            self.connection.execute(
                query("archive.rows").replace("*", what), {"low": low, "high": high}
            ).fetchall()
        except _ERRORS:
            return False
        return True

    def records(self, low: int, high: int) -> list[Record]:
        """Return the records of a range of row ids that can be read."""
        assert self.connection is not None
        rows = self.connection.execute(query("archive.rows"), {"low": low, "high": high}).fetchall()
        return [one for row in rows if (one := _record(row)) is not None]

    def numbers(self, low: int, high: int) -> list[int]:
        """Return the numbers of the records of a range of row ids that can be read."""
        assert self.connection is not None
        rows = self.connection.execute(
            query("archive.rows").replace("*", "seq"), {"low": low, "high": high}
        ).fetchall()
        return [int(row[0]) for row in rows]

    def named(self, missing: Sequence[int]) -> dict[int, tuple[str | None, str | None]]:
        """Return thread and kind of records that cannot be read whole, as far as they can."""
        if self.connection is None or not missing:
            return {}
        found: dict[int, tuple[str | None, str | None]] = {}
        for low in range(0, self._end(), _RANGE):
            parts: dict[str, list[Any]] = {}
            for column in ("seq", "thread", "kind"):
                try:
                    rows = self.connection.execute(
                        query("archive.rows").replace("*", column),
                        {"low": low, "high": low + _RANGE},
                    ).fetchall()
                except _ERRORS:
                    continue
                parts[column] = [row[0] for row in rows]
            for n, seq in enumerate(parts.get("seq", ())):
                thread = parts["thread"][n] if "thread" in parts else None
                found[seq] = (thread, parts["kind"][n] if "kind" in parts else None)
        wanted = set(missing)
        return {seq: said for seq, said in found.items() if seq in wanted}

    def close(self) -> None:
        """Close it."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def attach(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file for reading, as database `journal`."""
    connection = duckdb.connect()
    try:
        connection.execute("SET threads = 1")
        connection.execute(f"ATTACH '{quoted(path)}' AS journal (READ_ONLY)")
        connection.execute("USE journal")
        connection.execute("SELECT count(*) FROM records").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _headers(path: Path, folder: Path) -> Iterator[list[tuple[int, bytes]]]:
    """Yield patches for a file's three headers: none, that of an empty file, either of the others.

    The first says what the file is; of the other two, one is of the newest checkpoint and one of
    that before it. A flipped bit in one of them closes the file.
    """
    yield []
    fresh = folder / "fresh.duckdb"
    connection = duckdb.connect()
    make(connection, fresh, "")
    connection.close()
    with path.open("rb") as file:
        old = [file.read(_HEADER) for _ in range(3)]
    with fresh.open("rb") as file:
        first = file.read(_HEADER)
    yield [(0, first)]
    yield [(_HEADER, old[2])]
    yield [(2 * _HEADER, old[1])]


def _sizes(log: Path, said: str | None) -> Iterator[int]:
    """Yield lengths to which a log may be whole: all, to the entry that DuckDB names, then none."""
    size = log.stat().st_size if log.exists() else 0
    if size:
        yield size
    for number in re.findall(r"\d+", said or ""):
        if 16 < int(number) < size:
            yield int(number) - 16
            yield int(number)
    yield 0
