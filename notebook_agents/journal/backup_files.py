"""What a backup consists of: two files made through the engines, and a manifest over both.

A backup is a directory of its own. It is built under a name that begins with a dot and renamed when
it is on disk and was read back: a directory without the dot and with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from notebook_agents.disk import fsync_directory, fsync_file, write_whole
from notebook_agents.errors import (
    JournalDamagedError,
    JournalFormatError,
    KeyMissingError,
    NoJournalError,
    SealError,
)
from notebook_agents.journal import compacted
from notebook_agents.journal.archive import BLOCK_BYTES, quoted
from notebook_agents.journal.integrity import shredded
from notebook_agents.journal.queue_file import FILE, connect, lost_between, lost_of
from notebook_agents.journal.records import FORMAT, from_row, open_payload
from notebook_agents.journal.sql import query
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import duckdb

    from notebook_agents.journal.records import Record
    from notebook_agents.journal.store import Journal
    from notebook_agents.sealing import DataKey

MANIFEST = "backup.json"
_CHUNK = 1 << 20
_ROWS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """A whole backup.

    Attributes:
        path: Its directory.
        journal: The id of the journal that it is of.
        created: When it was made (UTC).
        generation: Number of its DuckDB file.
        last: Its newest record's number.
        threads: How many threads it has.
        seals: How many records were opened when it was read back; None where the key was not there.
        size: Bytes of its files.
    """

    path: Path
    journal: str
    created: datetime
    generation: int
    last: int
    threads: int
    seals: int | None
    size: int

    @property
    def archive(self) -> Path:
        """Its DuckDB file."""
        return self.path / f"journal.{self.generation}.duckdb"


def read_backup(path: Path) -> Backup:
    """Return the backup in a directory; its files are not read.

    Raises:
        NoJournalError: There is none.
        JournalDamagedError: Its manifest cannot be read.
        JournalFormatError: A newer version made it.
    """
    manifest = _manifest(path)
    return Backup(
        path=path,
        journal=manifest["journal"],
        created=datetime.fromisoformat(manifest["created"]),
        generation=manifest["generation"],
        last=manifest["last"],
        threads=manifest["threads"],
        seals=manifest["seals"],
        size=sum(file["bytes"] for file in manifest["files"].values()),
    )


def _manifest(path: Path) -> dict[str, Any]:
    if path.name.startswith(".") or not (path / MANIFEST).is_file():
        raise NoJournalError(
            f"{path} is no backup: it has no {MANIFEST}, or was never finished; "
            "`notebook-agents journal backups` lists those that there are"
        )
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        if manifest["v"] > FORMAT:
            raise JournalFormatError(
                f"a newer version of notebook-agents made the backup {path}: install that version"
            )
        datetime.fromisoformat(manifest["created"])
        files = {FILE, f"journal.{int(manifest['generation'])}.duckdb"}
        if set(manifest["files"]) != files or not {"journal", "last", "threads"} < set(manifest):
            raise ValueError
        manifest.setdefault("seals", None)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its {MANIFEST} cannot be read") from error
    return manifest


def write_manifest(folder: Path, journal: str, *, created: datetime, seen: Seen) -> None:
    """Finish a backup: what was read back, and the digests of its files."""
    files = {}
    for path in sorted(folder.iterdir()):
        fsync_file(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _copy(path, None)}
    manifest = {
        "v": FORMAT,
        "journal": journal,
        "created": created.isoformat(timespec="microseconds"),
        "generation": seen.generation,
        "last": seen.last,
        "threads": seen.threads,
        "seals": seen.seals,
        "files": files,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
    fsync_directory(folder)


def take_files(backup: Backup, into: dict[str, Path]) -> None:
    """Copy a backup's files, each to the path given for its name, and have them on disk.

    Raises:
        JournalDamagedError: One is not what was backed up.
    """
    for name, file in _manifest(backup.path)["files"].items():
        try:
            digest = _copy(backup.path / name, into[name])
        except FileNotFoundError as error:
            raise _damaged(backup.path, f"its {name} is missing") from error
        if digest != file["sha256"]:
            raise _damaged(backup.path, f"its {name} was altered or cut")


def _copy(source: Path, target: Path | None) -> str:
    """Return a file's digest; write what was read to `target` on the way."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        if target is None:
            while block := file.read(_CHUNK):
                digest.update(block)
            return digest.hexdigest()
        target.touch(mode=0o600)
        with target.open("wb") as copy:
            while block := file.read(_CHUNK):
                digest.update(block)
                copy.write(block)
    fsync_file(target)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> JournalDamagedError:
    return JournalDamagedError(f"the backup {path} is damaged ({what}): restore another one")


# -- making the two files ----------------------------------------------------------------------


def copy_queue(source: Path, target: Path) -> None:
    """Copy a queue in use: what was committed when this began, in one file without a log.

    SQLite reads one snapshot, and in write-ahead mode no commit waits for a reader.
    """
    target.touch(mode=0o600)
    with closing(connect(source)) as live, closing(_plain(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()


def copy_archive(connection: duckdb.DuckDBPyConnection, target: Path) -> tuple[Any, ...]:
    """Copy the DuckDB file that a burst has open; return the original's summary."""
    connection.execute(f"ATTACH '{quoted(target)}' AS backup (BLOCK_SIZE {BLOCK_BYTES})")
    try:
        target.chmod(0o600)
        connection.execute("COPY FROM DATABASE journal TO backup")
        connection.execute("CHECKPOINT backup")
    finally:
        connection.execute("DETACH backup")
    return connection.execute(query("archive.summary")).fetchall()[0]


def _plain(path: Path) -> sqlite3.Connection:
    """Open a copy that nobody else has: it is synced once, when it is whole."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    return connection


# -- reading them back -------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What a backup was found to hold."""

    generation: int
    last: int
    threads: int
    seals: int | None
    closed: list[tuple[Record, SealError]] = field(default_factory=list)
    deletions: list[Record] = field(default_factory=list)


def read_back(folder: Path, journal: Journal, summary: tuple[Any, ...]) -> Seen:
    """Read both files of an unfinished backup: numbers without gaps, equal counts, seals.

    Args:
        folder: Where they are.
        journal: The journal that they are of; its keys open the records.
        summary: What `archive.summary` says of the original.

    Raises:
        JournalDamagedError: Something is not as it has to be.
        SealError: A record does not open: it does not in the journal either.
    """
    import duckdb

    with closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)) as queue:
        checked = queue.execute("PRAGMA integrity_check").fetchall()
        if checked != [("ok",)]:
            raise _refused(folder, f"SQLite finds in its {FILE}: {checked[0][0]}")
        meta = dict(queue.execute(query("queue.meta")).fetchall())
        first, last = queue.execute(query("queue.bounds")).fetchall()[0]
        (count,) = queue.execute(query("queue.count")).fetchall()[0]
        threads = int(queue.execute("SELECT count(*) FROM threads").fetchone()[0])
        lost = lost_of(meta)
        if last and count != last - first + 1 - lost_between(lost, first, last):
            raise _refused(folder, f"its queue has {count} records from {first} to {last}")
        seen = Seen(int(meta["generation"]), int(last), threads, 0)
        every = {"after": 0, "limit": -1}
        _open_all(journal, _records(queue.execute(query("queue.batch"), every)), seen)

    path = folder / f"journal.{seen.generation}.duckdb"
    try:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1")
            connection.execute(f"ATTACH '{quoted(path)}' AS journal (READ_ONLY)")
            connection.execute("USE journal")
            told = dict(connection.execute(query("archive.meta")).fetchall())
            found = connection.execute(query("archive.summary")).fetchall()[0]
            mark = connection.execute(query("archive.watermark")).fetchall()[0][0]
            if found != summary or told["journal"] != meta["journal"]:
                raise _refused(folder, f"its {path.name} is not a copy of the journal's")
            gone = lost_between([*lost, *compacted.of(meta)], found[1], found[2])
            if (found[0], found[2]) != (found[2] - found[1] + 1 - gone if found[0] else 0, mark):
                raise _refused(
                    folder, f"DuckDB has {found[0]} records from {found[1]} to {found[2]} of {mark}"
                )
            if last and not first - 1 - lost_between(lost, mark + 1, first - 1) <= mark <= last:
                raise _refused(folder, f"DuckDB ends at record {mark}, the queue begins at {first}")
            rest = _records(connection.execute(query("archive.all")))
            _open_all(journal, (r for r in rest if r.seq < first or not last), seen)
    except duckdb.Error as error:
        raise _refused(folder, f"DuckDB: {str(error).splitlines()[0]}") from error
    for record, why in seen.closed:
        if not shredded(record, seen.deletions):
            raise why
    return seen


def _records(cursor: Any) -> Iterator[Record]:
    while rows := cursor.fetchmany(_ROWS):
        yield from (from_row(row) for row in rows)


def _open_all(journal: Journal, records: Iterable[Record], seen: Seen) -> None:
    """Open every record whose key there is; a deleted thread has none, or by now another one."""
    keys: dict[str, DataKey | None] = {}
    for record in records:
        if record.scope not in keys:
            there = journal.wrapped_key(record.scope) is not None
            try:
                keys[record.scope] = journal.data_key(record.scope, create=False) if there else None
            except KeyMissingError:
                seen.seals = None
                return
        if record.kind is Kind.DELETION and not record.refs:
            seen.deletions.append(record)
        key = keys[record.scope]
        if key is not None:
            try:
                open_payload(record, journal_id=journal.id, key=key)
            except SealError as error:
                seen.closed.append((record, error))
            else:
                seen.seals = None if seen.seals is None else seen.seals + 1


def _refused(folder: Path, what: str) -> JournalDamagedError:
    return JournalDamagedError(
        f"no backup was made in {folder.parent}: {what}; look at the journal with "
        "`notebook-agents journal check`"
    )
