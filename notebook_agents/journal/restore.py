"""Putting a backup back: the journal's files are exchanged as one, and the old ones stay aside."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from notebook_agents import clock
from notebook_agents.disk import make_directory, write_whole
from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal import (
    compacted,
    heads,
    integrity,
    keycopy,
    lineage,
    mark,
    presence,
)
from notebook_agents.journal.backup_files import Backup, read_backup, take_files
from notebook_agents.journal.failures import writing
from notebook_agents.journal.queue_file import FILE, lost_between, lost_of, on_network
from notebook_agents.journal.rebuild import write_heads
from notebook_agents.journal.records import from_row
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUILDING = ".restoring."
_ARCHIVE = re.compile(r"journal\.(\d+)\.duckdb")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a restore brought back, and what it did not.

    Attributes:
        backup: The backup.
        home: The journal's directory.
        restored: Records that came from the backup.
        replayed: Newer records that came from the queue that was there.
        given_up: Records of the queue that was there that did not come back, by thread: their steps
            run again.
        gap: First and last number of newer records that were nowhere to be found, or None.
        unreadable: Why the queue that was there could not be read to its end, or None.
        aside: The files that were there, under the names that they have now.
    """

    backup: Path
    home: Path
    restored: int
    replayed: int
    given_up: dict[str, int]
    gap: tuple[int, int] | None
    unreadable: str | None
    aside: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.given_up and self.gap is None and self.unreadable is None


def restore(backup: Path, home: Path, *, newer: bool) -> Report:
    """Put a backup back. What is there is renamed, not removed.

    Args:
        backup: The backup's directory.
        home: The journal's directory; it is made if it is missing.
        newer: Whether records that the queue has and the backup does not are taken over. Without
            them the journal is as it was: steps that returned since run again.

    Returns:
        What came back and what did not.

    Raises:
        NoJournalError: `backup` is none.
        JournalDamagedError: The backup was altered, or is of another journal than the one there, or
            has other records under the numbers of those that are to be taken over; nothing was
            changed.
        JournalBusyError: A process has the journal open; nothing was changed.
        JournalWriteError: The disk is full or fails; the journal is as it was.
    """
    source = read_backup(backup)
    with writing(home):
        make_directory(home)
        with presence.alone(home, to="restore it"):
            presence.finish_exchange(home)
            _clear(home)
            try:
                return _restore(source, home, newer=newer)
            except JournalDamagedError:
                _clear(home)
                raise


def _clear(home: Path) -> None:
    for left in home.glob(f"{_BUILDING}*"):
        left.unlink()


def _restore(source: Backup, home: Path, *, newer: bool) -> Report:
    taken = [_ARCHIVE.match(path.name) for path in home.iterdir()]
    generation = max([source.generation, *(int(found[1]) for found in taken if found)]) + 1
    queue = home / f"{_BUILDING}{FILE}"
    archive = home / f"{_BUILDING}journal.{generation}.duckdb"
    keys = home / f"{_BUILDING}{keycopy.FILE}"
    take_files(source, {FILE: queue, source.archive.name: archive})
    with (
        closing(_Present(home / FILE, source)) as present,
        closing(sqlite3.connect(queue.as_uri(), uri=True, isolation_level=None)) as connection,
    ):
        if present.parts_from(connection, archive) and newer:
            raise _parted(present, source, home)
        meta = {"key": "generation", "value": generation}
        connection.execute(query("queue.set_meta"), meta)
        replayed = _replay(present, connection, archive) if newer else 0
        _branch(present, connection, replayed=replayed)
        connection.execute(query("queue.forget_drivers"))
        connection.execute(query("queue.forget_master"))  # the ring may not have it any more
        mode = "DELETE" if on_network(home) else "WAL"
        connection.execute(f"PRAGMA journal_mode={mode}").fetchall()
        given_up = present.counts(after=present.reached)
        stored = dict(connection.execute(query("queue.keys")).fetchall())
        write_whole(keys, keycopy.content(source.journal, stored))
    away = _away(home)
    into = [(path.name, path.name.removeprefix(_BUILDING)) for path in (queue, archive, keys)]
    presence.exchange(home, away=away, into=into)
    return Report(
        backup=source.path,
        home=home,
        restored=source.last,
        replayed=replayed,
        given_up=given_up,
        gap=present.gap,
        unreadable=present.unreadable,
        aside=tuple(home / new for _, new in away),
    )


def _parted(present: _Present, source: Backup, home: Path) -> JournalDamagedError:
    return JournalDamagedError(
        f"{source.path} has other records than the journal in {home} from record "
        f"{present.common + 1} on, which the journal lost or gave up before it gave the numbers "
        "again: restore it to another directory to have both, or with --no-newer to give up those "
        "of the journal; nothing was changed"
    )


def _branch(present: _Present, connection: sqlite3.Connection, *, replayed: int) -> None:
    """Write down that the numbers behind the newest record are given once more."""
    meta = present.meta if replayed else dict(connection.execute(query("queue.meta")).fetchall())
    newest = int(connection.execute(query("queue.last_seq")).fetchone()[0])
    value = lineage.branched(lineage.of(meta), newest)
    connection.execute(query("queue.set_meta"), {"key": lineage.KEY, "value": value})


class _Present:
    """The queue that is there, as far as it can be read; nothing is written to it."""

    def __init__(self, path: Path, source: Backup) -> None:
        self.uri = f"{path.as_uri()}?mode=ro"
        self.unreadable: str | None = None
        self.sound = False
        self._home = path.parent
        self._source = source
        self._connection: sqlite3.Connection | None = None
        self.first = self.last = 0
        self.common = source.last
        """The newest number under which both have the same record, as far as is known."""
        self.reached = source.last
        self.meta: dict[str, Any] = {}
        self.lost: list[tuple[int, int]] = []
        self.branches: lineage.Branches = []
        if not path.exists():
            return
        try:
            self._connection = sqlite3.connect(self.uri, uri=True, isolation_level=None)
            self.meta = dict(self._all("queue.meta"))
            self.lost = lost_of(self.meta)
            self.branches = lineage.of(self.meta)
            if self.meta["journal"] != source.journal:
                raise JournalDamagedError(
                    f"{source.path} is a backup of another journal than the one in {path.parent}: "
                    "restore it to another directory; nothing was changed"
                )
            self.first, self.last = self._all("queue.bounds")[0]
            self.sound = self._connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        except (sqlite3.DatabaseError, KeyError, TypeError, ValueError) as error:
            self.unreadable = f"{FILE} cannot be read ({error})"

    def parts_from(self, queue: sqlite3.Connection, archive: Path) -> bool:
        """Whether the backup has other records under numbers that this queue gave, too.

        Args:
            queue: The backup's queue.
            archive: Its DuckDB file.
        """
        if self._connection is None or self.unreadable is not None:
            return False
        upto = min(self.last, self._source.last)
        ours = self._home / f"journal.{self.meta['generation']}.duckdb"
        other, proven = None, False
        with suppress(sqlite3.DatabaseError):  # then only the branches tell
            here = (self._connection, ours)
            other, proven = lineage.compared(here, (queue, archive), upto)
        first = other
        if not proven or other is not None:
            theirs = lineage.of(dict(queue.execute(query("queue.meta")).fetchall()))
            branch = lineage.parting(self.branches, theirs, upto)
            first = min((n for n in (other, branch) if n is not None), default=None)
        if first is not None:
            self.common = self.reached = first - 1
        return first is not None

    @property
    def gap(self) -> tuple[int, int] | None:
        """The numbers that are neither in the backup nor in this queue, though newer ones are."""
        missing = self.common + 1
        there = self.first - missing <= lost_between(self.lost, missing, self.first - 1)
        return None if there else (missing, self.first - 1)

    def newer(self) -> Iterator[tuple[Any, ...]]:
        """Yield what follows the backup's newest record, up to the first that cannot be read."""
        expected = self._source.last + 1
        if self._connection is None or self.gap is not None:
            return
        try:
            rows = self._connection.execute(
                query("queue.batch"), {"after": self._source.last, "limit": -1}
            )
            for row in rows:
                if row[0] - expected > lost_between(self.lost, expected, row[0] - 1):
                    self.unreadable = f"{FILE} lacks record {expected}"
                    return
                from_row(row)
                self.reached = row[0]
                yield row
                expected = row[0] + 1
        except (sqlite3.DatabaseError, TypeError, ValueError, AttributeError) as error:
            self.unreadable = f"{FILE} cannot be read from record {expected} on ({error})"

    def counts(self, *, after: int) -> dict[str, int]:
        """Return how many records behind number `after` each thread has here."""
        try:
            return dict(self._all("queue.counts", {"after": after}))
        except sqlite3.DatabaseError as error:
            self.unreadable = self.unreadable or f"{FILE} cannot be read ({error})"
            return {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _all(self, name: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        return self._connection.execute(query(name), parameters or {}).fetchall()


def _replay(present: _Present, connection: sqlite3.Connection, archive: Path) -> int:
    """Append the newer records and bring heads and keys to where they lead; return how many."""
    last = int(connection.execute(query("queue.last_seq")).fetchone()[0])
    connection.execute("BEGIN")
    replayed = connection.executemany(query("queue.append"), present.newer()).rowcount
    replayed = max(replayed, 0)
    connection.execute("COMMIT")
    if not replayed:
        return 0
    filled = lost_between(present.lost, 1, last)
    if "lost" in present.meta:
        _know_lost(present, connection, after=last)
    meta = dict(connection.execute(query("queue.meta")).fetchall())
    alike = meta.get(compacted.KEY) == present.meta.get(compacted.KEY)  # else its heads count less
    known = _heads(connection, "queue.heads")
    connection.execute("ATTACH ? AS present", (present.uri,))
    try:
        whole = present.sound and present.reached == present.last
        if whole and alike and not filled:
            _run(connection, "queue.adopt_heads")
            return replayed
        with suppress(sqlite3.DatabaseError):
            _run(connection, "queue.adopt_keys" if whole else "queue.adopt_new_keys")
            known.update(_heads(connection, "queue.present_heads"))
    except sqlite3.DatabaseError as error:
        present.unreadable = f"{FILE} cannot be read ({error})"
    finally:
        connection.execute("DETACH present")
    _imply(connection, archive, known)
    connection.execute(query("queue.drop_deleted_keys"), {"after": last})
    return replayed


def _heads(connection: sqlite3.Connection, name: str) -> dict[str, dict[str, Any]]:
    """Return the heads that a query gives, as columns by name."""
    cursor = connection.execute(query(name))
    names = [column[0] for column in cursor.description]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cursor}


def _imply(connection: sqlite3.Connection, archive: Path, known: dict[str, dict[str, Any]]) -> None:
    """Have the heads that all records imply, where neither side's are those of all of them."""
    from notebook_agents.journal.remains import attach

    recent = [from_row(row) for row in connection.execute(query("queue.every"))]
    with closing(attach(archive)) as opened:
        older = heads.archived(opened, before=recent[0].seq)
    connection.execute("BEGIN")
    connection.execute(query("queue.forget_heads"))
    write_heads(connection, heads.implied(older, recent), known)
    connection.execute("COMMIT")


def _know_lost(present: _Present, connection: sqlite3.Connection, *, after: int) -> None:
    """Take over what a repair found nowhere, of the records behind `after` and of the keys."""
    meta = dict(connection.execute(query("queue.meta")).fetchall())
    newer = [(max(low, after + 1), min(high, present.reached)) for low, high in present.lost]
    lost = [*lost_of(meta), *(each for each in newer if each[0] <= each[1])]
    keyless = {
        *json.loads(meta.get("keyless", "[]")),
        *json.loads(present.meta.get("keyless", "[]")),
    }
    for key, value in (("lost", lost), ("keyless", sorted(keyless))):
        connection.execute(query("queue.set_meta"), {"key": key, "value": json.dumps(value)})


def _run(connection: sqlite3.Connection, name: str) -> None:
    """Run several statements as one transaction."""
    try:
        connection.executescript(f"BEGIN; {query(name)}; COMMIT")
    except sqlite3.DatabaseError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _away(home: Path) -> list[tuple[str, str]]:
    """Return the journal's files, and what each is called when it is replaced.

    An engine finds a file's log by the file's name, so the log's name follows it.
    """
    stamp = f"replaced-{clock.from_us(clock.now_us()):%Y%m%dT%H%M%S%fZ}"
    small = [name for name in (mark.FILE, keycopy.FILE, integrity.REPAIR) if (home / name).exists()]
    away = [(name, f"{name}.{stamp}") for name in small]
    for path in sorted([*home.glob(f"{FILE}*"), *home.glob("journal.*.duckdb*")]):
        main = FILE if path.name.startswith(FILE) else path.name.removesuffix(".wal")
        log = path.name.removeprefix(main)
        if log in ("", "-wal", "-shm", "-journal", ".wal") and (
            main == FILE or _ARCHIVE.fullmatch(main)
        ):
            away.append((path.name, f"{main}.{stamp}{log}"))
    return away
