"""The only writer of queue.sqlite in a process: appends are committed in groups.

Whoever appends first leads: it takes what is waiting, its own and the others', and commits it in
one transaction; the others find their part done. A lone caller thus pays no hand-over to another
thread. Callers on an event loop must not block it, so a thread of the writer leads for them.

What was `stage`d has nobody waiting for it and goes out with the next append, before it. That is
how LangGraph's checkpoint and the intents that rest on it become durable in one commit, in order.

SQLite itself never waits for the disk at a commit (`synchronous=NORMAL`): whoever needs that syncs
the log afterwards, under no lock that another commit needs, and one sync serves all that were
committed before it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, faults
from notebook_agents.errors import FencedError, JournalWriteError, NotDurableError
from notebook_agents.faults import Fault
from notebook_agents.journal import claims, locks
from notebook_agents.journal.failures import unknown_error, unsynced_error, write_error
from notebook_agents.journal.log import Log
from notebook_agents.journal.queue_file import connect, pages_in_use
from notebook_agents.journal.records import Draft, seal
from notebook_agents.journal.sql import query
from notebook_agents.journal.sums import Place, added, count
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from notebook_agents.journal.compacted import Stale
    from notebook_agents.journal.keys import Keys


# Looking a member up in an enumeration takes longer than the comparison.
_FINISHED, _CHUNK, _DELETION = Kind.RUN_FINISHED, Kind.CHUNK, Kind.DELETION
_CHECKPOINT, _WRITES = Kind.CHECKPOINT, Kind.WRITES

_VACUUM_PAGES = 1_000
"""What is copied while nobody else can write: 1,000 pages of 512 bytes take 10 ms."""


class _Ticket:
    """What one caller appends, and what became of it."""

    __slots__ = ("commit", "done", "drafts", "durable", "error", "staged", "wake")

    def __init__(
        self,
        drafts: Sequence[Draft],
        *,
        durable: bool = False,
        staged: bool = False,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.drafts = drafts
        self.durable = durable
        self.staged = staged  # nobody waits for it
        self.done = False
        self.commit = 0
        self.error: BaseException | None = None
        self.wake = wake

    def finish(self, error: BaseException | None = None, *, commit: int = 0) -> None:
        self.done, self.error, self.commit = True, error, commit


_writers: weakref.WeakValueDictionary[int, Writer] = weakref.WeakValueDictionary()
"""Those that are open in this process: a claim of its own that is with none of them is stale."""


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Some tickets must not be written; the transaction starts again without them."""


class Writer:
    """Commits drafts to queue.sqlite."""

    def __init__(
        self,
        path: Path,
        *,
        journal_id: str,
        keys: Keys,
        stale: Stale,
        after_commit: Callable[[int], None],
    ) -> None:
        self._path = path
        self._journal_id = journal_id
        self._keys = keys
        self.stale = stale
        self._after_commit = after_commit
        self._file_lock = locks.FileLock(path.with_name("queue.lock"))
        self.leading = threading.RLock()
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._on_loops: list[_Ticket] = []  # event loops wait for these
        self._connection: sqlite3.Connection | None = None
        self._log: Log | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._broken = False  # nobody can say whether the last transaction is in the file
        self._newest: tuple[Any, ...] = ()
        self._numbered: list[Draft] = []
        self._lent: list[tuple[Draft, str, int | None]] = []  # and whose they were
        self._untold: dict[Place, dict[str, Any]] = {}  # counts that no head has yet
        self._after: dict[Place, dict[str, Any]] = {}  # the same, once the transaction commits
        self._parents: set[str] = set()  # threads that the process this one was forked from drives
        self.driving: set[str] = set()
        """Threads that this process drives now, through this journal."""
        _writers[id(self)] = self

    # -- what callers use ---------------------------------------------------------------------

    def stage(self, drafts: Sequence[Draft]) -> None:
        """Have `drafts` written, in order, before whatever is appended next."""
        with self._lock:
            self._waiting.append(_Ticket(drafts, staged=True))

    def append(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Write what is staged and then `drafts`; return when they are committed.

        Args:
            drafts: Records; their `seq` is set.
            durable: Whether they survive a power loss when this returns (one fsync), or only the
                death of every process, until the next durable append covers them.

        Raises:
            ThreadBusyError: A claim met a living driver.
            FencedError: Another driver took the thread.
            JournalWriteError: The disk is full or fails; nothing of `drafts` is written.
        """
        self._refuse_parents(drafts)
        self._refuse_unsynced(durable=durable)
        ticket = _Ticket(drafts, durable=durable)
        with self._lock:
            self._waiting.append(ticket)
        with self.leading:
            if not ticket.done:
                self._lead()
        if ticket.error is not None:
            raise ticket.error
        if not ticket.done:  # whoever led was cut off before it knew
            raise unknown_error(self._path)
        if durable:
            self._sync(ticket.commit)

    async def append_async(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Do as `append` without blocking the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not future.done():
                if ticket.error is None:
                    future.set_result(None)
                else:
                    future.set_exception(ticket.error)

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        self._refuse_parents(drafts)
        self._refuse_unsynced(durable=durable)
        ticket = _Ticket(drafts, durable=durable, wake=wake)
        with self._lock:
            self._waiting.append(ticket)
            self._on_loops.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="notebook-agents-writer", daemon=True
                )
                self._thread.start()
        self._wake.put(None)
        await future

    def flush(self, *, durable: bool) -> None:
        """Write what is staged."""
        if self._waiting or durable:
            self.append((), durable=durable)

    def execute(self, statement: str, parameters: dict[str, Any], *, durable: bool = True) -> None:
        """Run one small statement in a transaction of its own."""
        try:
            with self.alone() as (connection, log):
                connection.execute(statement, parameters)
                commit = log.committed()
        except (sqlite3.Error, OSError) as error:
            raise write_error(error, self._path) from error
        if durable:
            self._sync(commit)

    @contextmanager
    def alone(self) -> Iterator[tuple[sqlite3.Connection, Log]]:
        """Keep everybody else from writing to the queue during the block."""
        with self.leading:
            try:
                self._file_lock.wait()
                yield self._usable()
            finally:
                self._file_lock.release()

    def vacuum(self) -> None:
        """Give the pages that trimming freed back to the file system, if little is left."""
        # Where there is no room to make room the next time will do.
        with suppress(sqlite3.OperationalError, OSError), self.alone() as (connection, log):
            if pages_in_use(connection) <= _VACUUM_PAGES:
                connection.execute("VACUUM")
                log.cut()

    def driven_here(self) -> set[str]:
        """Return the threads that this process drives, through whichever opening of the journal."""
        driving = set[str]()
        for writer in (reference() for reference in _writers.valuerefs()):
            if writer is not None and writer._journal_id == self._journal_id:
                driving |= writer.driving
        return driving

    def close(self) -> None:
        """Write what is staged and close."""
        if self._closed:
            return
        try:
            if self._waiting or self._connection is not None:  # else nothing was written
                self.flush(durable=True)
        finally:
            self._closed = True
            _writers.pop(id(self), None)
            self._wake.put(None)
            if self._thread is not None:
                self._thread.join()
            with self.leading:
                connection, log = self._connection, self._log
                self._connection = self._log = None
            self._file_lock.close()
            if connection is not None and log is not None:
                try:
                    log.sync_all()
                except OSError as error:
                    raise unsynced_error(error, self._path) from error
                finally:
                    log.close()
                    connection.close()

    def rest(self) -> None:
        """Close the connection until it is needed again; the caller leads."""
        connection, log = self._connection, self._log
        if connection is None or log is None or connection.in_transaction:
            return
        try:
            log.sync_all()
        except OSError:
            return  # whoever wants something durable from now on is told; the connection stays
        log.close()
        self._connection = self._log = None
        connection.close()

    @property
    def resting(self) -> bool:
        """Whether it has no connection."""
        return self._connection is None

    def renew(self) -> None:
        """Be usable in a forked child: forget what its parent's threads had under way."""
        self._parents |= self.driving
        self._untold = {}
        self.driving = set()
        self._waiting, self._on_loops = [], []
        self._lock = threading.Lock()
        self.leading = threading.RLock()
        self._wake = SimpleQueue()
        self._thread = None
        self._file_lock = locks.FileLock(self._path.with_name("queue.lock"))

    def _refuse_parents(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            # A deletion has the token of nobody: the transaction compares it.
            if (
                draft.token is not None
                and draft.thread in self._parents
                and draft.kind is not _DELETION
            ):
                raise FencedError(
                    f"thread {draft.thread!r} is driven by the process that this one was forked "
                    "from: nothing is recorded here, use another thread in a child process"
                )
            if draft.claim is not None:
                self._parents.discard(draft.thread)

    def _refuse_unsynced(self, *, durable: bool) -> None:
        if durable and self._log is not None and self._log.lost is not None:
            raise unsynced_error(self._log.lost, self._path)

    # -- committing ---------------------------------------------------------------------------

    def _serve(self) -> None:
        """Commit for event loops, and tell them."""
        while not self._closed:
            self._wake.get()
            try:
                with self.leading:
                    self._lead()
            finally:
                self._tell_loops()

    def _tell_loops(self) -> None:
        with self._lock:
            done = [ticket for ticket in self._on_loops if ticket.done]
            self._on_loops = [ticket for ticket in self._on_loops if not ticket.done]
        for ticket in done:
            if ticket.durable and ticket.error is None:
                try:
                    self._sync(ticket.commit)
                except JournalWriteError as error:
                    ticket.error = error
            if ticket.wake is not None:
                ticket.wake()

    def _sync(self, commit: int) -> None:
        """Return when a commit is on disk."""
        log = self._log
        if log is None:
            return
        try:
            log.sync(commit)
        except OSError as error:
            raise unsynced_error(error, self._path) from error

    def _usable(self) -> tuple[sqlite3.Connection, Log]:
        if self._closed:
            raise NotDurableError("this journal is closed: open it again with Journal.open()")
        if self._broken:
            raise unknown_error(self._path)
        if self._connection is None or self._log is None:  # at first, and after a fork
            connection = connect(self._path)
            try:
                # What SQLite cannot open to write it opens to read, and it would stay so.
                connection.execute("DELETE FROM meta WHERE false")
                self._log = Log(connection, self._path.with_name(self._path.name + "-wal"))
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        if self._log.lost is not None:
            self._connection.execute("PRAGMA wal_autocheckpoint=0")
        if self._connection.in_transaction:  # a signal's handler raised in the middle of one
            self._connection.execute("ROLLBACK")
        return self._connection, self._log

    def _lead(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            while True:
                try:
                    last, commit = self._commit([t for t in batch if not t.done])
                    break
                except _Refused:
                    continue
        except BaseException as error:
            self._settle(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for draft in self._numbered:
                kind = draft.kind
                if kind is _CHUNK or kind is _CHECKPOINT or kind is _WRITES:
                    # Only its number is needed from now on. It would hold what it refers to.
                    draft.plain, draft.refs = b"", ()
            for ticket in batch:
                if not ticket.done:
                    ticket.finish(commit=commit)
            self._after_commit(last)

    def _commit(self, batch: list[_Ticket]) -> tuple[int, int]:
        """Commit a batch; return the newest sequence number and the commit's own."""
        self._newest = ()
        self._numbered, self._lent = [], []
        durable = any(ticket.durable for ticket in batch)
        try:
            self._file_lock.wait()
            connection, log = self._usable()
            if durable:
                log.lengthen()
            connection.execute("BEGIN IMMEDIATE")
            try:
                last = self._write(connection, batch, durable=durable)
                faults.hit(Fault.COMMIT_BEFORE)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                    self._undo_numbers()
                raise
            self._untold = self._after
            commit = log.committed(last)
        finally:
            self._file_lock.release()
        faults.hit(Fault.COMMIT_AFTER)
        return last, commit

    def _write(self, connection: sqlite3.Connection, batch: list[_Ticket], *, durable: bool) -> int:
        seq, deleted, generation = connection.execute(query("queue.last_seq")).fetchone()
        if self._keys.refuse(connection, deleted, batch):
            raise _Refused
        if self.stale.refuse(connection, int(generation), batch):
            raise _Refused
        ts = clock.now_us()
        finished: list[Draft] = []
        rows: list[tuple[Any, ...]] = []
        touched: dict[Place, dict[str, Any]] = {}
        for ticket in batch:
            for draft in ticket.drafts:
                if draft.claim is not None:
                    self._claim(connection, ticket, draft, seq=seq + len(rows) + 1, ts=ts)
                if draft.kind is _FINISHED or (draft.kind is _DELETION and not draft.refs):
                    finished.append(draft)
                self._number(draft, rows, touched, seq, ts)
        connection.executemany(query("queue.append"), rows)
        if rows:
            self._newest = rows[-1]
        self._tell_heads(connection, batch, touched, durable=durable)
        for draft in finished:
            if draft.kind is _DELETION:
                claims.forget(connection, draft)
            else:
                connection.execute(
                    query("queue.release_thread"), {"thread": draft.thread, "token": draft.token}
                )
        return int(seq) + len(rows)

    def _claim(
        self,
        connection: sqlite3.Connection,
        ticket: _Ticket,
        draft: Draft,
        *,
        seq: int,
        ts: int,
    ) -> None:
        assert draft.claim is not None
        error = claims.take(
            connection, draft, draft.claim, seq=seq, ts=ts, driving=self.driven_here()
        )
        if error is not None:
            ticket.finish(error)
            raise _Refused
        self.driving.add(draft.thread)

    def _number(
        self,
        draft: Draft,
        rows: list[tuple[Any, ...]],
        touched: dict[Place, dict[str, Any]],
        last: int,
        ts: int,
    ) -> None:
        """Give a draft its number and its row, behind whatever it refers to.

        Of two records that share a new chunk either may be appended first, in whichever thread: the
        chunk is written with the one that comes first.
        """
        if draft.seq:
            return
        for ref in draft.refs:
            if not isinstance(ref, int) and not ref.seq and ref.kind is _CHUNK:
                # Another thread of the scope, or another driver, may have been about to write it.
                self._lent.append((ref, ref.thread, ref.token))
                ref.thread, ref.token = draft.thread, draft.token
                self._number(ref, rows, touched, last, ts)
        draft.seq = last + len(rows) + 1
        self._numbered.append(draft)
        key = self._keys[draft.scope]
        at = draft.ts or ts
        rows.append(seal(draft, seq=draft.seq, ts=at, journal_id=self._journal_id, key=key))
        count(touched, draft, ts)

    def _undo_numbers(self) -> None:
        """Take back the numbers of a transaction that is not in the file."""
        for draft in self._numbered:
            draft.seq = 0
        for draft, thread, token in reversed(self._lent):
            draft.thread, draft.token = thread, token
        self._numbered, self._lent = [], []

    def _tell_heads(
        self,
        connection: sqlite3.Connection,
        batch: list[_Ticket],
        touched: dict[Place, dict[str, Any]],
        *,
        durable: bool,
    ) -> None:
        """Bring the threads' heads up to date; a driver's only with its durable appends.

        A result between two intents would otherwise write a page of its own for its thread's
        counts, a fifth of what a step writes to the log. Its driver's token is compared all the
        same.
        """
        later: dict[Place, dict[str, Any]] = {}
        for place, values in touched.items():
            sums = added(self._untold.get(place), values)
            if durable or values["token"] is None or values["status"] is not None:
                told = connection.execute(query("queue.touch_thread"), sums).rowcount == 1
            else:
                later[place] = sums
                row = connection.execute(query("queue.token"), {"thread": place[0]}).fetchone()
                told = row is not None and row[0] == place[1]
            if not told:
                self._refuse_or_add(connection, batch, values)
        if durable:
            for place, sums in self._untold.items():
                if place not in touched:
                    connection.execute(query("queue.touch_thread"), sums)
            self._after = later
        else:
            self._after = {
                **{place: sums for place, sums in self._untold.items() if place not in touched},
                **later,
            }

    def _refuse_or_add(
        self, connection: sqlite3.Connection, batch: list[_Ticket], values: dict[str, Any]
    ) -> None:
        thread, token = values["thread"], values["token"]
        head = claims.head_of(connection, thread)
        if head is None and token is None:
            connection.execute(query("queue.add_thread"), {**values, "seq": values["first"]})
            connection.execute(query("queue.touch_thread"), values)
            return
        fenced = claims.fenced(thread, head)
        self._undo_numbers()  # this transaction is not written, and chunks are whose they were
        refused = [
            ticket
            for ticket in batch
            if any(draft.thread == thread and draft.token == token for draft in ticket.drafts)
        ]
        if not refused:
            raise fenced  # nobody to leave out: the transaction cannot start again without him
        for ticket in refused:
            ticket.finish(fenced)
        raise _Refused

    def _settle(self, batch: list[_Ticket], error: BaseException) -> None:
        """After a failure: tell every caller what became of its drafts.

        An interrupt can arrive between the commit and the news of it. The rows tell: they are
        there or they are not.
        """
        waiting = [ticket for ticket in batch if not ticket.done]
        try:
            landed = self._landed()
        except (sqlite3.Error, OSError):
            self._broken = True
            for ticket in waiting:
                ticket.finish(unknown_error(self._path))
            return
        if landed:
            commit = self._usable()[1].committed(self._newest[0])  # it may not have been counted
            for ticket in waiting:
                ticket.finish(commit=commit)
            return
        self._undo_numbers()
        for ticket in waiting:
            for draft in ticket.drafts:
                if draft.claim is not None:
                    self.driving.discard(draft.thread)
            if not ticket.staged:
                ticket.finish(write_error(error, self._path))
        with self._lock:
            self._waiting = [*(t for t in waiting if t.staged), *self._waiting]

    def _landed(self) -> bool:
        """Whether the transaction that was written last is in the file."""
        if not self._newest:
            return False
        connection, _ = self._usable()
        row = connection.execute(
            "SELECT payload FROM records WHERE seq = ?", (self._newest[0],)
        ).fetchone()
        return row is not None and row[0] == self._newest[-1]  # no two seals are alike
