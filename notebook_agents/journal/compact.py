"""Compaction: the records that are still needed, in the next generation's file.

DuckDB's files do not shrink, and what was deleted or pruned stays in them. So the living records
are copied to a new file while everybody goes on, a part in each burst. Under DuckDB's lock the rest
follows, and one short transaction makes the new file the current one. Then the old one is removed,
and the queue is written anew without what it had of them.

Killed anywhere, the old generation is whole until that transaction, and the new one from then on:
`compacted.finish` removes the other one.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents import clock, faults
from notebook_agents.disk import fsync_directory, fsync_file
from notebook_agents.errors import JournalBusyError, JournalWriteError
from notebook_agents.faults import Fault
from notebook_agents.journal import compacted, integrity, keycopy
from notebook_agents.journal.archive import make, quoted, say_left_out, take
from notebook_agents.journal.claims import head_of
from notebook_agents.journal.failures import writing
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.records import Claim, Draft, record_of
from notebook_agents.journal.sieve import Plan, Sieve
from notebook_agents.journal.sql import query
from notebook_agents.journal.trimming import trim
from notebook_agents.model import Kind
from notebook_agents.sealing import DataKey

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import duckdb

    from notebook_agents.journal.log import Log
    from notebook_agents.journal.store import Journal

    Progress = Callable[[int, int], None]

_SLICE = 20_000  # numbers that are looked at, or copied, in one burst: others want to read too
_TRIES = 4
_WAIT_SECONDS = 30.0
_RECORD_BYTES = 128  # what a record takes beside its payload, about
_FOLD_TRIES, _FOLD_PAUSE = 100, 0.02  # readers keep SQLite from folding its log for a moment
_ASIDE = (".damaged-", ".replaced-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What a compaction did, or would do.

    Attributes:
        home: The journal's directory.
        dry_run: Whether nothing was changed; then the numbers of afterwards are estimates.
        generation: The number of the DuckDB file afterwards.
        records_before: How many records there were.
        records_after: How many are left.
        bytes_before: What the journal's files took, backups left out.
        bytes_after: What they take now.
        pause_ms: The longest time for which no process could append.
        erased: Whether nothing of what was left out is in the files any more; if not, somebody kept
            reading from the queue: compact again.
        elsewhere: What may still have it: backups, and files that were put aside.
    """

    home: Path
    dry_run: bool
    generation: int
    records_before: int
    records_after: int
    bytes_before: int
    bytes_after: int
    pause_ms: float
    erased: bool
    elsewhere: tuple[str, ...]


def compact(
    journal: Journal, *, dry_run: bool = False, progress: Progress | None = None
) -> Compaction:
    """Rewrite a journal's files without what was deleted or pruned; others may use them meanwhile.

    Args:
        journal: The journal.
        dry_run: Only say what would go.
        progress: Is told how far it is, and of how much.

    Raises:
        JournalBusyError: Another process compacts it, or keeps DuckDB open.
        JournalDamagedError, JournalWriteError: It could not be finished; nothing is lost.
    """
    work = _Compactor(journal, progress or (lambda _done, _of: None))
    lock = FileLock(journal.home / compacted.LOCK)
    try:
        with writing(journal.home):
            if not lock.acquire(0 if dry_run else _WAIT_SECONDS):
                raise JournalBusyError(
                    f"process {lock.holder()} is compacting {journal.home}: wait for it"
                )
            lock.write_holder()
            compacted.sweep(journal.home)
            try:
                return work.look() if dry_run else work.run()
            finally:
                compacted.sweep(journal.home)
    finally:
        lock.close()


class _Compactor:
    """One compaction at work; the caller holds `compact.lock`."""

    def __init__(self, journal: Journal, progress: Progress) -> None:
        self._journal = journal
        self._home = journal.home
        self._queue = journal.queue
        self._archive = journal._archive
        self._writer = journal._writer
        self._keys = journal._keys
        self._progress = progress
        self._pause = 0.0  # seconds, the longest one
        self._reached = 0  # the newest number that the new file has
        self._left = 0  # how many records it has

    def look(self) -> Compaction:
        """Say what would go."""
        plan = self._plan(self._driven())
        size = self._bytes()
        with self._archive.burst() as connection:
            count, _ = connection.execute(query("archive.extent")).fetchall()[0]
        self._left = count - plan.count
        return self._said(plan, size, max(0, size - plan.bytes), dry_run=True)

    def run(self) -> Compaction:
        """Do it; begin again where threads that it takes something of were taken up meanwhile."""
        size = self._bytes()
        self._end_nameless()
        spared = self._driven()
        for left in reversed(range(_TRIES)):
            if not left:
                spared = {head.scope for head in self._queue.heads()}
            plan = self._plan(spared)
            building = self._build(plan)
            faults.hit(Fault.COMPACT_BUILT)
            in_use = self._exchange(plan, building)
            if not in_use:
                break
            spared |= in_use
        with self._archive.burst():
            pass  # it compares the new file with the queue, and the old one is removed
        faults.hit(Fault.COMPACT_REMOVED)
        trim(self._writer, self._queue, self._reached)
        faults.hit(Fault.COMPACT_TRIMMED)
        erased = self._erase()
        keycopy.complete(self._home, self._journal.id, self._queue.keys)
        return self._said(plan, size, self._bytes(), erased=erased)

    # -- what goes -----------------------------------------------------------------------------

    def _driven(self) -> set[str]:
        """Return the scopes of the threads that somebody drives now."""
        return {head.scope for head in self._queue.heads() if head.driven}

    def _end_nameless(self) -> None:
        """Have a record at the end that says nothing: the newest one stays, whosever it is."""
        rows = self._queue.by_seq([self._queue.bounds()[1]])
        newest = [record_of(row, self._queue.home) for row in rows]
        if not newest or newest[0].kind is not Kind.DELETION or newest[0].refs:
            return
        used = {head.scope for head in self._queue.heads()}
        if newest[0].thread == "" or "" in used or self._queue.key("") is not None:
            return
        claim = Claim(agent="", run=0, session=0, notebook=None, fresh=True)
        draft = Draft(kind=Kind.DELETION, thread="", scope="", claim=claim)
        self._keys.add("", DataKey(os.urandom(32)), None)  # like that of any deleted thread: gone
        try:
            self._journal.append([draft], durable=True)
        finally:
            self._keys.forget("")
            self._journal.driving.discard("")

    def _plan(self, spared: set[str]) -> Plan:
        upto = self._journal.ingest()  # so the queue has nothing of what goes: the newest one stays
        heads, before = self._queue.heads(), self._queue.compacted()
        with self._archive.burst() as connection:
            asked = {"upto": upto}
            deletions = connection.execute(query("archive.deletions"), asked).fetchall()
            ends = dict(connection.execute(query("archive.ends"), asked).fetchall())
        sieve = Sieve(upto, heads, spared, before, deletions, ends)
        for high in range(upto + 1, 1, -_SLICE):
            asked = {"low": max(1, high - _SLICE), "high": high}
            with self._archive.burst() as connection:
                rows = connection.execute(query("archive.outline"), asked).fetchall()
            for row in rows:
                sieve.take(row)
            self._progress(upto + 1 - asked["low"], 2 * upto)
        return sieve.decided()

    # -- the new file --------------------------------------------------------------------------

    def _build(self, plan: Plan) -> Path:
        """Copy what stays of the records that the plan is about."""
        import duckdb

        self._refuse_without_room(plan)
        generation = max([self._journal.generation, *integrity.archives(self._home)]) + 1
        building = self._home / f"{compacted.BUILDING}{compacted.archive_name(generation)}"
        compacted.remove(building)  # of a try before this one
        with self._archive.lingering(), closing(duckdb.connect()) as connection:  # forks wait
            make(connection, building, self._journal.id)
            connection.execute("USE memory")
            connection.execute("DETACH journal")
        for low in range(1, plan.upto + 1, _SLICE):
            high = min(low + _SLICE, plan.upto + 1)
            gone = [pair for pair in plan.gone if pair[1] >= low and pair[0] < high]
            kept = _others(gone, low, high)
            if kept:
                asked = {"low": low, "high": high, "all": not gone, "kept": kept if gone else []}
                with self._with(building) as connection:
                    connection.execute(query("archive.copy"), asked)
            self._progress(plan.upto + high - 1, 2 * plan.upto)
        return building

    def _refuse_without_room(self, plan: Plan) -> None:
        """Fail before others meet the full disk, too.

        Raises:
            JournalWriteError: The new file would not fit beside the old one.
        """
        wanted = plan.kept_bytes + (plan.upto - plan.count) * _RECORD_BYTES
        free = shutil.disk_usage(self._home).free
        if free < wanted:
            raise JournalWriteError(
                f"there is no room to compact {self._home}: it takes about {wanted:,} bytes beside "
                f"the file that is there, and {free:,} are free: free some space, then try again"
            )

    @contextmanager
    def _with(self, building: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """Have a burst with a file as its database `compacted`."""
        with self._archive.burst() as connection:
            try:
                connection.execute(f"ATTACH '{quoted(building)}' AS compacted")
                yield connection
                connection.execute("DETACH compacted")
            except BaseException:
                self._archive.drop()
                raise

    def _exchange(self, plan: Plan, building: Path) -> set[str]:
        """Make the new file the current one, under DuckDB's lock.

        Returns:
            The scopes that somebody uses whose parts were left out: then nothing was exchanged.
        """
        old = self._journal.generation
        new = self._home / building.name.removeprefix(compacted.BUILDING)
        generation = int(new.name.split(".")[1])
        gone = compacted.joined(self._queue.compacted(), plan.gone)
        with self._archive.burst():
            with self._with(building) as connection:
                self._complete(connection, plan, gone)
            fsync_file(building)
            with self._with(building) as connection:
                self._read_back(connection, gone)
            try:
                compacted.note(self._home, before=old, after=generation)
                faults.hit(Fault.COMPACT_NOTED)
                building.rename(new)
                fsync_directory(self._home)
                faults.hit(Fault.COMPACT_RENAMED)
                in_use = self._switch(plan, generation, gone)
                faults.hit(Fault.COMPACT_SWITCHED)
                self._writer.flush(durable=True)
            finally:  # whatever was raised, the queue says which one counts
                if self._journal.generation == old:
                    compacted.finish(self._home, old)
                else:
                    self._archive.drop()
        return in_use

    def _complete(
        self, connection: duckdb.DuckDBPyConnection, plan: Plan, gone: compacted.Ranges
    ) -> None:
        """Add what came meanwhile, and what the file says of itself."""
        mark = self._archive.watermark(connection)
        asked = {"low": plan.upto + 1, "high": mark + 1, "all": True, "kept": []}
        connection.execute(query("archive.copy"), asked)
        connection.execute("USE compacted")
        if mark:
            connection.execute(query("archive.mark"), {"seq": mark, "ts": clock.now_us()})
        more = True
        while more and (batch := self._queue.batch(after=mark, limit=_SLICE)):
            mark = take(connection, batch)
            more = len(batch) == _SLICE  # else what comes from now on stays in the queue
        say_left_out(connection, gone)
        connection.execute("CHECKPOINT compacted")
        connection.execute("USE journal")

    def _read_back(self, connection: duckdb.DuckDBPyConnection, gone: compacted.Ranges) -> None:
        """See whether the new file has all that it should have."""
        connection.execute("USE compacted")
        self._left, newest = connection.execute(query("archive.extent")).fetchall()[0]
        self._reached = self._archive.watermark(connection)
        connection.execute("USE journal")
        integrity.watermark(
            self._queue,
            mark=self._reached,
            count=self._left,
            newest=newest,
            without=compacted.count(gone),
        )

    def _switch(self, plan: Plan, generation: int, gone: compacted.Ranges) -> set[str]:
        """Say in one transaction which file counts, and what the heads have now."""
        heads = [
            {"thread": thread, "gone": count, "first": plan.opening.get(thread, 0)}
            for thread, count in plan.of_thread.items()
        ]
        packed = compacted.pack(gone)
        with self._pausing() as (connection, log):
            connection.execute("BEGIN IMMEDIATE")
            try:
                in_use = self._in_use(connection, plan)
                if not in_use:
                    for key, value in (("generation", generation), (compacted.KEY, packed)):
                        connection.execute(query("queue.set_meta"), {"key": key, "value": value})
                    connection.executemany(query("queue.compacted_head"), heads)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            log.committed()
        return in_use

    def _in_use(self, connection: sqlite3.Connection, plan: Plan) -> set[str]:
        """Return the scopes of what goes that somebody wrote to, or took up, since it was planned.

        Whoever did may refer to what is left out: what was read is known by its number.
        """
        found = set[str]()
        moved = connection.execute(query("queue.moved"), {"upto": plan.upto}).fetchall()
        for thread, scope, last in moved:
            if scope in plan.scopes and scope not in found:
                head = head_of(connection, thread)
                if last > plan.upto or (head is not None and head.driven):
                    found.add(scope)
        return found

    # -- the queue ---------------------------------------------------------------------------------

    @contextmanager
    def _pausing(self) -> Iterator[tuple[sqlite3.Connection, Log]]:
        """Keep everybody from appending, and note for how long."""
        with self._writer.alone() as lent:
            begun = time.monotonic()
            try:
                yield lent
            finally:
                self._pause = max(self._pause, time.monotonic() - begun)

    def _erase(self) -> bool:
        """Write the queue anew, and its log empty; say whether that was possible.

        Deleted rows are overwritten, but SQLite leaves copies where it moves rows between pages.
        """
        with self._pausing() as (connection, log):
            connection.execute("VACUUM")
            folded = log.cut()
        for _ in range(_FOLD_TRIES):
            if folded:
                return True
            time.sleep(_FOLD_PAUSE)
            with self._pausing() as (_, log):
                folded = log.cut()
        return folded

    # -- what is said --------------------------------------------------------------------------

    def _bytes(self) -> int:
        """Return the size of the journal's files, without backups and what was put aside."""
        files = (path for path in self._home.iterdir() if path.is_file() and not _aside(path))
        return sum(path.stat().st_size for path in files if not path.name.endswith("-shm"))

    def _said(
        self, plan: Plan, before: int, after: int, *, dry_run: bool = False, erased: bool = False
    ) -> Compaction:
        return Compaction(
            home=self._home,
            dry_run=dry_run,
            generation=self._journal.generation,
            records_before=self._left + plan.count,
            records_after=self._left,
            bytes_before=before,
            bytes_after=after,
            pause_ms=round(self._pause * 1000, 3),
            erased=erased,
            elsewhere=elsewhere(self._home),
        )


def elsewhere(home: Path) -> tuple[str, ...]:
    """Return the names of what keeps a journal's files as they once were: backups, put aside."""
    found = [path for path in home.iterdir() if _aside(path)]
    found += (home / "backups").glob("[!.]*")
    return tuple(sorted(str(path.relative_to(home)) for path in found))


def _others(gone: compacted.Ranges, low: int, high: int) -> list[int]:
    """Return the numbers from `low` to before `high` that are in none of some ranges."""
    found: list[int] = []
    for first, last in gone:
        found.extend(range(low, first))
        low = max(low, last + 1)
    found.extend(range(low, high))
    return found


def _aside(path: Path) -> bool:
    return any(word in path.name for word in _ASIDE)
