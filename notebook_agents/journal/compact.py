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
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents import clock
from notebook_agents.disk import fsync_directory, fsync_file
from notebook_agents.errors import JournalBusyError
from notebook_agents.journal import compacted, integrity, keycopy
from notebook_agents.journal.archive import make, quoted, say_left_out, take
from notebook_agents.journal.claims import head_of
from notebook_agents.journal.copying import NEEDED
from notebook_agents.journal.failures import writing
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.records import Claim, Draft
from notebook_agents.journal.sql import query
from notebook_agents.journal.trimming import trim
from notebook_agents.model import Kind
from notebook_agents.sealing import DataKey

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import duckdb

    from notebook_agents.journal.archive import Archive
    from notebook_agents.journal.keys import Keys
    from notebook_agents.journal.log import Log
    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.store import Journal
    from notebook_agents.journal.writer import Writer

    Progress = Callable[[int, int], None]

_SLICE = 100_000  # numbers that are looked at, or copied, in one burst: others want to read too
_BATCH = 20_000
_TRIES = 4
_WAIT_SECONDS = 30.0
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
    journal: Journal,
    archive: Archive,
    writer: Writer,
    keys: Keys,
    *,
    dry_run: bool,
    progress: Progress | None,
) -> Compaction:
    """Compact a journal; see `Journal.compact`."""
    work = _Compactor(journal, archive, writer, keys, progress or (lambda _done, _of: None))
    lock = FileLock(journal.home / compacted.LOCK)
    try:
        with writing(journal.home):
            if not lock.acquire(0 if dry_run else _WAIT_SECONDS):
                raise JournalBusyError(
                    f"process {lock.holder()} is compacting {journal.home}: wait for it"
                )
            lock.write_holder()
            compacted.sweep(journal.home)
            return work.look() if dry_run else work.run()
    finally:
        lock.close()


@dataclass(slots=True)
class _Plan:
    """What of the records up to a number goes.

    Attributes:
        upto: The number.
        gone: The ranges of numbers that go, in order.
        count: How many records those are.
        bytes: What their payloads take.
        of_scope: How many of them are parts of values, by the scope: of threads that there are.
        of_thread: How many of them each thread has.
        first: The first record that each thread keeps.
    """

    upto: int
    gone: compacted.Ranges = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    of_scope: dict[str, int] = field(default_factory=dict)
    of_thread: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    def leave_out(self, seq: int, thread: str, size: int) -> None:
        """Have a record go; of several the newest first."""
        if self.gone and self.gone[-1][0] == seq + 1:
            self.gone[-1] = (seq, self.gone[-1][1])
        else:
            self.gone.append((seq, seq))
        self.count += 1
        self.bytes += size
        self.of_thread[thread] = self.of_thread.get(thread, 0) + 1

    def keep(self, seq: int, thread: str) -> None:
        """Have a record stay."""
        self.first[thread] = min(seq, self.first.get(thread, seq))


class _Sieve:
    """Decides about records, the newest first: by then all that refer to one have been seen.

    Args:
        upto: The newest number that is looked at.
        heads: The threads that there are.
        spared: Scopes that somebody may be using: parts of values stay.
        before: What earlier compactions left out.
        deletions: Number, thread, name and references of all deletions, the oldest first.
        ends: Each thread's newest number.
    """

    def __init__(
        self,
        upto: int,
        heads: Iterable[Head],
        spared: set[str],
        before: compacted.Ranges,
        deletions: Iterable[tuple[int, str, str | None, list[int] | None]],
        ends: dict[str, int],
    ) -> None:
        self.plan = _Plan(upto)
        self._heads = {head.thread: head for head in heads}
        self._unfinished = {
            head.thread: head.run
            for head in self._heads.values()
            if not head.info().status.finished
        }
        self._scopes = {head.scope for head in self._heads.values()}
        self._spared = spared
        self._before = before
        self._ends = ends
        self._deleted: dict[str, int] = {}
        self._hidden: dict[str, set[int]] = {}
        self._wanted: set[int] = set()
        self._undecided: list[tuple[int, str, list[int] | None, int]] = []
        for seq, thread, name, refs in deletions:
            if not refs:
                self._deleted[thread] = seq
                continue
            hidden = self._hidden.setdefault(thread, set())
            if name == NEEDED:
                hidden.difference_update(refs)
            else:
                hidden.update(refs)

    def take(self, row: tuple[Any, ...]) -> None:
        """Decide about the next older record; about deletions at the end."""
        seq, kind, thread, scope, run, refs, size = row
        if kind == Kind.DELETION:
            self._undecided.append((seq, thread, refs, size))
            return
        plan = self.plan
        if seq in self._wanted or not self._may_go(seq, kind, thread, scope, run):
            plan.keep(seq, thread)
            self._wanted.discard(seq)
            self._wanted.update(refs or ())
            return
        plan.leave_out(seq, thread, size)
        dead = seq < self._deleted.get(thread, 0) and kind != Kind.CHUNK
        if scope in self._scopes and not dead:
            plan.of_scope[scope] = plan.of_scope.get(scope, 0) + 1

    def _may_go(self, seq: int, kind: str, thread: str, scope: str, run: int | None) -> bool:
        if seq == self.plan.upto or (thread in self._heads and seq == self._ends[thread]):
            return False  # numbers and heads go up to there
        dead = seq < self._deleted.get(thread, 0)
        if kind == Kind.CHUNK:
            return scope not in self._spared and (dead or thread in self._heads)
        if dead:
            return True
        if scope in self._spared or seq not in self._hidden.get(thread, ()):
            return False
        return run is None or self._unfinished.get(thread) != run

    def decided(self) -> _Plan:
        """Return the plan, when every record was taken."""
        plan, others = self.plan, _Plan(self.plan.upto)
        gone = compacted.joined(self._before, plan.gone)
        for seq, thread, refs, size in sorted(self._undecided, reverse=True):
            if refs and seq > self._deleted.get(thread, 0):
                idle = all(compacted.within(gone, ref) for ref in refs)
            else:  # what it ended is not there any more
                idle = bool(refs) or plan.first.get(thread, seq) >= seq
            last = seq == plan.upto or (thread in self._heads and seq == self._ends[thread])
            if idle and not last:
                others.leave_out(seq, thread, size)
                plan.of_thread[thread] = plan.of_thread.get(thread, 0) + 1
            else:
                plan.keep(seq, thread)
        plan.gone = compacted.joined(plan.gone, others.gone)
        plan.count += others.count
        plan.bytes += others.bytes
        return plan


class _Compactor:
    """One compaction at work; the caller holds `compact.lock`."""

    def __init__(
        self, journal: Journal, archive: Archive, writer: Writer, keys: Keys, progress: Progress
    ) -> None:
        self._journal = journal
        self._home = journal.home
        self._queue = journal.queue
        self._archive = archive
        self._writer = writer
        self._keys = keys
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
            in_use = self._exchange(plan, building)
            if not in_use:
                break
            spared |= in_use
        trim(self._writer, self._queue, self._reached)
        erased = self._erase()
        if keycopy.read(self._home)[1].keys() - self._queue.keys().keys():
            keycopy.renew(self._home, self._journal.id, self._queue.keys)
        return self._said(plan, size, self._bytes(), erased=erased)

    # -- what goes -----------------------------------------------------------------------------

    def _driven(self) -> set[str]:
        """Return the scopes of the threads that somebody drives now."""
        return {head.scope for head in self._queue.heads() if head.driven}

    def _end_nameless(self) -> None:
        """Have a record at the end that says nothing: the newest one stays, whosever it is."""
        newest = self._queue.by_seq([self._queue.bounds()[1]])
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

    def _plan(self, spared: set[str]) -> _Plan:
        upto = self._journal.ingest()
        heads, before = self._queue.heads(), self._queue.compacted()
        with self._archive.burst() as connection:
            asked = {"upto": upto}
            deletions = connection.execute(query("archive.deletions"), asked).fetchall()
            ends = dict(connection.execute(query("archive.ends"), asked).fetchall())
        sieve = _Sieve(upto, heads, spared, before, deletions, ends)
        for high in range(upto + 1, 1, -_SLICE):
            asked = {"low": max(1, high - _SLICE), "high": high}
            with self._archive.burst() as connection:
                rows = connection.execute(query("archive.outline"), asked).fetchall()
            for row in rows:
                sieve.take(row)
            self._progress(upto + 1 - asked["low"], 2 * upto)
        return sieve.decided()

    # -- the new file --------------------------------------------------------------------------

    def _build(self, plan: _Plan) -> Path:
        """Copy what stays of the records that the plan is about."""
        import duckdb

        generation = max([self._journal.generation, *integrity.archives(self._home)]) + 1
        building = self._home / f"{compacted.BUILDING}{compacted.archive_name(generation)}"
        compacted.remove(building)  # of a try before this one
        with closing(duckdb.connect()) as connection:
            make(connection, building, self._journal.id)
            connection.execute("USE memory")
            connection.execute("DETACH journal")
        for low in range(1, plan.upto + 1, _SLICE):
            high = min(low + _SLICE, plan.upto + 1)
            gone = [pair for pair in plan.gone if pair[1] >= low and pair[0] < high]
            kept = _others(gone, low, high)
            if kept or not gone:
                asked = {"low": low, "high": high, "all": not gone, "kept": kept}
                with self._archive.burst() as connection, _attached(connection, building):
                    connection.execute(query("archive.copy"), asked)
            self._progress(plan.upto + high - 1, 2 * plan.upto)
        return building

    def _exchange(self, plan: _Plan, building: Path) -> set[str]:
        """Make the new file the current one, under DuckDB's lock.

        Returns:
            The scopes that somebody uses whose parts were left out: then nothing was exchanged.
        """
        old = self._journal.generation
        new = self._home / building.name.removeprefix(compacted.BUILDING)
        gone = compacted.joined(self._queue.compacted(), plan.gone)
        with self._archive.burst() as connection:
            compacted.finish(self._home, old)
            with _attached(connection, building):
                self._complete(connection, plan, gone)
            fsync_file(building)
            generation = int(new.name.split(".")[1])
            compacted.note(self._home, before=old, after=generation)
            building.rename(new)
            fsync_directory(self._home)
            try:
                in_use = self._switch(plan, generation, gone)
                self._writer.flush(durable=True)
            finally:  # whatever was raised, the queue says which one counts
                if self._journal.generation != old:
                    self._archive.follow_generation(connection)
            compacted.finish(self._home, self._journal.generation)
        return in_use

    def _complete(
        self, connection: duckdb.DuckDBPyConnection, plan: _Plan, gone: compacted.Ranges
    ) -> None:
        """Add what came meanwhile, and what the file says of itself."""
        mark = self._archive.watermark(connection)
        asked = {"low": plan.upto + 1, "high": mark + 1, "all": True, "kept": []}
        connection.execute(query("archive.copy"), asked)
        connection.execute("USE compacted")
        try:
            if mark:
                connection.execute(query("archive.mark"), {"seq": mark, "ts": clock.now_us()})
            more = True
            while more and (batch := self._queue.batch(after=mark, limit=_BATCH)):
                mark = take(connection, batch)
                more = len(batch) == _BATCH  # else what comes from now on stays in the queue
            say_left_out(connection, gone)
            count, newest = connection.execute(query("archive.extent")).fetchall()[0]
            without = compacted.count(gone)
            integrity.watermark(self._queue, mark=mark, count=count, newest=newest, without=without)
            connection.execute("CHECKPOINT compacted")
            self._reached, self._left = mark, count
        finally:
            connection.execute("USE journal")

    def _switch(self, plan: _Plan, generation: int, gone: compacted.Ranges) -> set[str]:
        """Say in one transaction which file counts, and what the heads have now."""
        heads = [
            {"thread": thread, "gone": count, "first": plan.first.get(thread, 0)}
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

    def _in_use(self, connection: sqlite3.Connection, plan: _Plan) -> set[str]:
        """Return the scopes of what goes that somebody wrote to, or took up, since it was planned.

        Whoever did may refer to what is left out: what was read is known by its number.
        """
        found = set[str]()
        for thread, scope, last in (
            connection.execute(query("queue.scopes")) if plan.of_scope else ()
        ):
            if scope in plan.of_scope and scope not in found:
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
        self, plan: _Plan, before: int, after: int, *, dry_run: bool = False, erased: bool = False
    ) -> Compaction:
        elsewhere = [path for path in self._home.iterdir() if _aside(path)]
        elsewhere += (self._home / "backups").glob("[!.]*")
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
            elsewhere=tuple(sorted(str(path.relative_to(self._home)) for path in elsewhere)),
        )


@contextmanager
def _attached(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[None]:
    """Have a file at hand as database `compacted`."""
    connection.execute(f"ATTACH '{quoted(path)}' AS compacted")
    try:
        yield
    finally:
        connection.execute("DETACH compacted")


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
