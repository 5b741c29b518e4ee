"""What is looked at when a journal is opened, so that no damage shortens its history silently.

Without anybody else in the journal its files are compared with what queue.mark says of them. After
a clean end that is every byte of the queue. After a kill every record in the queue is opened, and
the threads' heads are compared with the records, as far as DuckDB is not needed for it; the rest
follows when DuckDB is opened for the first time.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from notebook_agents.errors import (
    JournalFormatError,
    KeyMissingError,
    NotebookAgentsError,
    SealError,
)
from notebook_agents.journal import damage, keycopy, mark, unsynced
from notebook_agents.journal.heads import Implied, archived, differences, implied
from notebook_agents.journal.records import open_payload
from notebook_agents.journal.wrapped import altered
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    import duckdb

    from notebook_agents.errors import JournalDamagedError
    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.records import Record
    from notebook_agents.sealing import DataKey

QUEUE = "queue.sqlite"
REPAIR = "repair.json"
"""Is there while a repair is at work, or after one that was killed."""
ARCHIVE = re.compile(r"journal\.(\d+)\.duckdb")


def archives(home: Path) -> dict[int, Path]:
    """Return the DuckDB files in a directory by their generation."""
    found = {}
    for path in home.iterdir():
        if (match := ARCHIVE.fullmatch(path.name)) is not None:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def remains(home: Path) -> str | None:
    """Return the name of a file that says that there was a journal here, or None."""
    if not home.is_dir():
        return None
    if found := archives(home):
        return found[max(found)].name
    for name in (mark.FILE, f"{QUEUE}-wal", REPAIR):
        if (home / name).exists():
            return name
    return None


def refuse_without_queue(home: Path) -> None:
    """Refuse to make a new journal beside what is left of an old one.

    Raises:
        JournalDamagedError: There is something left.
    """
    refuse_half_repaired(home)
    if (left := remains(home)) is not None:
        raise damage.found(home, f"{QUEUE} is missing beside {left}")


def refuse_empty(home: Path) -> None:
    """Refuse an empty queue with something beside it: SQLite would delete its log on sight.

    Raises:
        JournalDamagedError: It is one.
    """
    if (home / QUEUE).stat().st_size == 0 and (left := remains(home)) is not None:
        raise damage.found(home, f"{QUEUE} is empty beside {left}")


def refuse_half_repaired(home: Path) -> None:
    """Refuse a journal that a repair is at work on.

    Raises:
        JournalDamagedError: There is one, or it was killed.
    """
    if (home / REPAIR).exists():
        raise damage.found(home, "a repair of it has not come to its end")


def at_rest(home: Path) -> bool:
    """Compare the queue with how it was left; say whether that is known.

    Only while nobody has it open.

    Raises:
        JournalDamagedError: It is not as it was left.
    """
    said = mark.read(home)
    if (home / mark.FILE).exists() and (said is None or not said.whole):
        raise damage.found(home, f"{mark.FILE} does not say how far {QUEUE} had come")
    log = home / f"{QUEUE}-wal"
    logged = log.exists() and log.stat().st_size > 0
    if said is None and logged:  # whoever wrote the log made a mark before
        raise damage.found(home, f"{mark.FILE} is missing beside {log.name}")
    if said is None or said.digest is None:
        return False
    if logged:
        raise damage.found(home, f"{log.name} was not there when it was closed")
    if mark.digest_of(home / QUEUE) != said.digest:
        raise damage.found(home, f"{QUEUE} is not as it was when it was closed")
    return True


def behind(queue: Queue) -> None:
    """Compare a queue that was opened with its mark and with the files beside it.

    Raises:
        JournalDamagedError: It lacks records, or its DuckDB file is missing.
    """
    said = mark.read(queue.home)  # before the queue: others may be appending
    first, last = queue.bounds()
    generation = queue.generation()
    if said is not None:
        if not mark.names(said, queue.journal_id):
            raise damage.found(queue.home, f"{mark.FILE} is another journal's")
        floor = must_reach(queue.home, said)
        if last < floor:
            what = damage.numbers([(last + 1, floor)])
            raise damage.found(queue.home, f"{QUEUE} lacks its newest records ({what})")
        if generation < said.generation:
            raise damage.found(
                queue.home, f"{QUEUE} is older than journal.{said.generation}.duckdb"
            )
    if first > 1 and not (path := queue.home / f"journal.{generation}.duckdb").exists():
        raise damage.found(queue.home, f"{path.name} is missing")


def must_reach(home: Path, said: mark.Mark) -> int:
    """Return the newest number that has to be there.

    What was committed behind a sync that failed may be gone, and was never said to be there.
    """
    return said.synced if unsynced.marked(home) else said.floor


def watermark(queue: Queue, *, mark: int, count: int, newest: int, without: int) -> None:
    """Compare what DuckDB has with the queue; under the lock of DuckDB's file.

    Args:
        queue: The queue; its numbers are read here, after DuckDB's.
        mark: The watermark.
        count: How many records DuckDB has.
        newest: The largest number among them.
        without: How many records compactions left out.

    Raises:
        JournalDamagedError: Records are missing between the two, or in DuckDB.
    """
    first, last = queue.bounds()
    lost = sum(min(high, mark) - low + 1 for low, high in queue.lost() if low <= mark)
    if mark > last:
        what = damage.numbers([(last + 1, mark)])
        raise damage.found(queue.home, f"{QUEUE} is older than its DuckDB file (records {what})")
    between = set(range(mark + 1, first))
    for low, high in queue.lost():
        between.difference_update(range(low, high + 1))
    if between:
        what = damage.numbers([(min(between), max(between))])
        raise damage.found(queue.home, f"its DuckDB file is older than {QUEUE} (records {what})")
    there = mark - lost - without
    if count != there or newest != mark:
        raise damage.found(queue.home, f"its DuckDB file has {count} of {there} records")


class Seals:
    """Opens records to see whether they are whole; keys that are not here are left out.

    Args:
        journal_id: The journal's id.
        key: Returns a scope's key.
        stored: The scopes that have one. A record of any other does not open, unless there is none
            at all: then nothing can be told.
    """

    def __init__(
        self, journal_id: str, key: Callable[[str], DataKey], stored: Collection[str]
    ) -> None:
        self._journal_id = journal_id
        self._key = key
        self._stored = stored
        self._keys: dict[str, DataKey | None] = {}
        self.broken: set[str] = set()
        """Scopes whose stored key is damaged."""
        self.locked: set[str] = set()
        """Scopes whose records nobody can open here."""

    def whole(self, record: Record) -> bool | None:
        """Whether a record opens; None where its key is not here."""
        if self._stored and record.scope not in self._stored:
            return False
        key = self._of(record.scope)
        if key is None:
            return None
        try:
            open_payload(record, journal_id=self._journal_id, key=key)
        except (SealError, TypeError, ValueError, OverflowError):
            return False
        return True

    def try_key(self, scope: str) -> None:
        """See whether a scope's key opens."""
        if scope in self._stored:
            self._of(scope)

    def _of(self, scope: str) -> DataKey | None:
        if scope not in self._keys:
            try:
                self._keys[scope] = self._key(scope)
            except (SealError, JournalFormatError) as error:
                self._keys[scope] = None
                missing = isinstance(error, KeyMissingError)
                (self.locked if missing else self.broken).add(scope)
            except NotebookAgentsError:
                self._keys[scope] = None
                self.locked.add(scope)
        return self._keys[scope]


def after_kill(queue: Queue, key: Callable[[str], DataKey]) -> None:
    """Look at everything in a queue that nobody closed.

    Args:
        queue: The queue.
        key: Returns a scope's key.

    Raises:
        JournalDamagedError: Something in it is not as it was written.
    """
    with queue.snapshot():  # of one moment: others who opened it behind this one may append
        _look(queue, key)
    with suppress(OSError):
        keycopy.complete(queue.home, queue.journal_id, queue.keys)


def _look(queue: Queue, key: Callable[[str], DataKey]) -> None:
    if trouble := queue.trouble():
        raise damage.found(queue.home, f"{QUEUE} fails its check ({trouble})")
    first, last = queue.bounds()
    seals = Seals(queue.journal_id, key, queue.keys())
    expected = first
    lost = queue.lost()
    closed: list[Record] = []
    threads: dict[str, list[Record]] = {}
    for record in queue.every():
        while any(low <= expected <= high for low, high in lost) and expected < record.seq:
            expected += 1
        if record.seq != expected:
            missing = damage.numbers([(expected, record.seq - 1)])
            raise damage.found(queue.home, f"{QUEUE} lacks records {missing}")
        if seals.whole(record) is False:
            closed.append(record)
        threads.setdefault(record.thread, []).append(record)
        expected += 1
    if last and expected != last + 1:
        raise damage.found(queue.home, f"{QUEUE} lacks records {expected}–{last}")
    for record in closed:
        if not shredded(record, (one for records in threads.values() for one in records)):
            raise damage.found(
                queue.home,
                f"record {record.seq} ({record.kind}) of thread {record.thread!r} does not open",
            )
    for head in queue.heads():
        seals.try_key(head.scope)
    broken = seals.broken
    if seals.locked:  # their master key is not here, or what names it was altered
        broken = broken | altered(queue.home, queue.journal_id, queue.keys())
    if broken:
        raise damage.found(queue.home, f"the key of scope {min(broken)!r} is altered")
    _heads_of(queue, threads)
    if first <= 1:
        _compare(queue, implied([], sorted_by_number(threads)))


def shredded(record: Record, others: Iterable[Record]) -> bool:
    """Whether a record's key was deleted with its thread: a later thread of that name has another.

    Args:
        record: The record.
        others: Those among which the deletion would be.
    """
    return any(
        other.kind is Kind.DELETION
        and not other.refs
        and other.seq >= record.seq
        and other.scope == record.scope
        for other in others
    )


def heads(queue: Queue, connection: duckdb.DuckDBPyConnection) -> None:
    """Compare the threads' heads with all records.

    Raises:
        JournalDamagedError: One is missing, or is not what its records say.
    """
    with queue.snapshot():
        recent = list(queue.every())
        before = recent[0].seq if recent else 1
        _compare(queue, implied(archived(connection, before), recent))


def _compare(queue: Queue, records_say: dict[str, Implied]) -> None:
    for thread, column in sorted(differences(queue.heads(), records_say).items()):
        what = "it" if column == "head" else column
        raise damage.found(
            queue.home, f"in the head of thread {thread!r} {what} is not what its records say"
        )
    queue.trusted = True


def sorted_by_number(threads: dict[str, list[Record]]) -> list[Record]:
    """Return the records of all threads in order."""
    return sorted((one for records in threads.values() for one in records), key=lambda one: one.seq)


def _heads_of(queue: Queue, threads: dict[str, list[Record]]) -> None:
    """Compare the heads with the records in the queue, as far as those tell."""
    first, _ = queue.bounds()
    heads = {head.thread: head for head in queue.heads()}
    for thread, records in threads.items():
        head = heads.pop(thread, None)
        newest = records[-1]
        if head is None:
            if newest.kind is not Kind.DELETION or newest.refs:
                raise damage.found(queue.home, f"the head of thread {thread!r} is missing")
            continue
        scoped = head.first_seq < first or any(one.scope == head.scope for one in records)
        if not scoped or not head.first_seq <= head.last_seq <= newest.seq:
            raise _not_its(queue, thread)
    for thread, head in heads.items():  # all of whose records are in DuckDB, or nowhere
        if head.last_seq >= first or not 0 < head.first_seq <= head.last_seq:
            raise _not_its(queue, thread)
    for scope in {head.scope for head in queue.heads()} - queue.keyless():
        if queue.key(scope) is None:
            raise damage.found(queue.home, f"the key of scope {scope!r} is missing")


def _not_its(queue: Queue, thread: str) -> JournalDamagedError:
    return damage.found(queue.home, f"the head of thread {thread!r} is not its records'")
