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
import os
import sqlite3
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, faults
from notebook_agents.errors import (
    FencedError,
    JournalWriteError,
    NotDurableError,
    ThreadBusyError,
)
from notebook_agents.faults import Fault
from notebook_agents.journal import locks
from notebook_agents.journal.log import Log
from notebook_agents.journal.queue import Head, connect
from notebook_agents.journal.records import Claim, Draft, seal
from notebook_agents.journal.sql import query
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from notebook_agents.sealing import DataKey


# Looking a member up in an enumeration takes longer than the comparison.
_INTENDED, _RETURNED = Kind.STEP_INTENDED, Kind.STEP_RETURNED
_STARTED, _FINISHED, _CHUNK = Kind.RUN_STARTED, Kind.RUN_FINISHED, Kind.CHUNK

_Place = tuple[str, int | None]
"""A thread and the token of who writes to it."""


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


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Some tickets must not be written; the transaction starts again without them."""


class Writer:
    """Commits drafts to queue.sqlite."""

    def __init__(
        self,
        path: Path,
        *,
        journal_id: str,
        key: Callable[[str], DataKey],
        after_commit: Callable[[int], None],
    ) -> None:
        self._path = path
        self._journal_id = journal_id
        self._key = key
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
        self._newest: tuple[Any, ...] = ()
        self._numbered: list[Draft] = []
        self._untold: dict[_Place, dict[str, Any]] = {}  # counts that no head has yet
        self._after: dict[_Place, dict[str, Any]] = {}  # the same, once the transaction commits
        self._parents: set[str] = set()  # threads that the process this one was forked from drives
        self.driving: set[str] = set()
        """Threads that this process drives now; a claim of its own that is not here is stale."""

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
        ticket = _Ticket(drafts, durable=durable)
        with self._lock:
            self._waiting.append(ticket)
        with self.leading:
            if not ticket.done:
                self._lead()
        if ticket.error is not None:
            raise ticket.error
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

    def execute(self, statement: str, parameters: dict[str, Any]) -> None:
        """Run one small statement in a transaction of its own."""
        with self.leading:
            try:
                self._file_lock.wait()
                connection, log = self._usable()
                connection.execute(statement, parameters)
                commit = log.committed()
            finally:
                self._file_lock.release()
        self._sync(commit)

    def vacuum(self) -> None:
        """Give the pages that trimming freed back to the file system."""
        with self.leading:
            try:
                self._file_lock.wait()
                connection, log = self._usable()
                connection.execute("VACUUM")  # little is left after a trim, so this is quick
                log.cut()
            finally:
                self._file_lock.release()

    def close(self) -> None:
        """Write what is staged and close."""
        if self._closed:
            return
        try:
            self.flush(durable=True)
        finally:
            self._closed = True
            self._wake.put(None)
            if self._thread is not None:
                self._thread.join()
            if self._connection is not None and self._log is not None:
                self._log.close()
                self._connection.close()
            self._file_lock.close()

    def abandon(self) -> list[Any]:
        """Forget, in a forked child, what belongs to the parent; return what must not be closed."""
        kept = [self._connection, self._log]
        self._connection = self._log = None
        self._parents |= self.driving
        self._untold = {}
        self.driving = set()
        self._waiting, self._on_loops = [], []
        self._lock = threading.Lock()
        self.leading = threading.RLock()
        self._wake = SimpleQueue()
        self._thread = None
        self._file_lock = locks.FileLock(self._path.with_name("queue.lock"))
        return kept

    def _refuse_parents(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            if draft.token is not None and draft.thread in self._parents:
                raise FencedError(
                    f"thread {draft.thread!r} is driven by the process that this one was forked "
                    "from: nothing is recorded here, use another thread in a child process"
                )
            if draft.claim is not None:
                self._parents.discard(draft.thread)

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
            raise _as_write_error(error, self._path) from error

    def _usable(self) -> tuple[sqlite3.Connection, Log]:
        if self._closed:
            raise NotDurableError("this journal is closed: open it again with Journal.open()")
        if self._connection is None or self._log is None:  # at first, and after a fork
            self._connection = connect(self._path)
            self._log = Log(self._connection, self._path.with_name(self._path.name + "-wal"))
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
                if draft.kind is _CHUNK:
                    draft.plain = b""  # only its number is needed from now on
            for ticket in batch:
                if not ticket.done:
                    ticket.finish(commit=commit)
            self._after_commit(last)

    def _commit(self, batch: list[_Ticket]) -> tuple[int, int]:
        """Commit a batch; return the newest sequence number and the commit's own."""
        self._newest = ()
        self._numbered = []
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
            commit = log.committed()
        finally:
            self._file_lock.release()
        faults.hit(Fault.COMMIT_AFTER)
        return last, commit

    def _write(self, connection: sqlite3.Connection, batch: list[_Ticket], *, durable: bool) -> int:
        seq = int(connection.execute(query("queue.last_seq")).fetchone()[0])
        ts = clock.now_us()
        finished: list[Draft] = []
        rows: list[tuple[Any, ...]] = []
        touched: dict[_Place, dict[str, Any]] = {}
        for ticket in batch:
            for draft in ticket.drafts:
                if draft.claim is not None:
                    following = seq + len(rows) + 1
                    self._claim(connection, ticket, draft, draft.claim, seq=following, ts=ts)
                elif draft.kind is _FINISHED:
                    finished.append(draft)
                self._number(draft, rows, touched, seq, ts)
        connection.executemany(query("queue.append"), rows)
        if rows:
            self._newest = rows[-1]
        self._tell_heads(connection, batch, touched, durable=durable)
        for draft in finished:
            connection.execute(
                query("queue.release_thread"), {"thread": draft.thread, "token": draft.token}
            )
        return seq + len(rows)

    def _number(
        self,
        draft: Draft,
        rows: list[tuple[Any, ...]],
        touched: dict[_Place, dict[str, Any]],
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
                ref.token = draft.token  # it may be left over from a driver whose append failed
                self._number(ref, rows, touched, last, ts)
        draft.seq = last + len(rows) + 1
        self._numbered.append(draft)
        key = self._key(draft.scope)
        at = draft.ts or ts
        rows.append(seal(draft, seq=draft.seq, ts=at, journal_id=self._journal_id, key=key))
        _count(touched, draft, ts)

    def _undo_numbers(self) -> None:
        """Take back the numbers of a transaction that is not in the file."""
        for draft in self._numbered:
            draft.seq = 0
        self._numbered = []

    def _tell_heads(
        self,
        connection: sqlite3.Connection,
        batch: list[_Ticket],
        touched: dict[_Place, dict[str, Any]],
        *,
        durable: bool,
    ) -> None:
        """Bring the threads' heads up to date; a driver's only with its durable appends.

        A result between two intents would otherwise write a page of its own for its thread's
        counts, a fifth of what a step writes to the log. Its driver's token is compared all the
        same.
        """
        later: dict[_Place, dict[str, Any]] = {}
        for place, values in touched.items():
            sums = _added(self._untold.get(place), values)
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
        row = connection.execute(query("queue.thread"), {"thread": thread}).fetchone()
        if row is None and token is None:
            connection.execute(query("queue.add_thread"), {**values, "seq": values["first"]})
            connection.execute(query("queue.touch_thread"), values)
            return
        by = "it was deleted" if row is None else _describe(Head(row))
        fenced = FencedError(
            f"this process no longer drives thread {thread!r} ({by}): nothing it does from now on "
            "is recorded, stop it and look at the other one"
        )
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

    def _claim(
        self,
        connection: sqlite3.Connection,
        ticket: _Ticket,
        draft: Draft,
        claim: Claim,
        *,
        seq: int,
        ts: int,
    ) -> None:
        row = connection.execute(query("queue.thread"), {"thread": draft.thread}).fetchone()
        if row is None:
            connection.execute(
                query("queue.add_thread"),
                {"thread": draft.thread, "scope": draft.scope, "seq": seq, "ts": ts},
            )
        elif claim.fresh or (Head(row).driven and not self._stale(Head(row))):
            ticket.finish(
                ThreadBusyError(
                    f"thread {draft.thread!r} is being driven by {_describe(Head(row))}: wait for "
                    "it, stop it there, or use another thread"
                )
            )
            raise _Refused
        connection.execute(
            query("queue.claim_thread"),
            {
                "thread": draft.thread,
                "agent": claim.agent,
                "run": claim.run,
                "session": claim.session,
                "notebook": claim.notebook,
                "pid": os.getpid(),
                "host": locks.host_name(),
                "boot": locks.boot_id(),
                "started": locks.process_started(os.getpid()),
                "ts": ts,
            },
        )
        claim.token = 1 if row is None else Head(row).token + 1
        self.driving.add(draft.thread)

    def _stale(self, head: Head) -> bool:
        """Whether a claim is this process's own, left behind by a run that was cut off."""
        driver = head.driver
        return (
            driver is not None
            and driver.pid == os.getpid()
            and driver.host == locks.host_name()
            and head.thread not in self.driving
        )

    def _settle(self, batch: list[_Ticket], error: BaseException) -> None:
        """After a failure: tell every caller what became of its drafts.

        An interrupt can arrive between the commit and the news of it. The rows tell: they are
        there or they are not.
        """
        waiting = [ticket for ticket in batch if not ticket.done]
        if self._landed():
            commit = self._usable()[1].committed()  # it may not have been counted
            for ticket in waiting:
                ticket.finish(commit=commit)
            return
        self._undo_numbers()
        for ticket in waiting:
            for draft in ticket.drafts:
                if draft.claim is not None:
                    self.driving.discard(draft.thread)
            if not ticket.staged:
                ticket.finish(_as_write_error(error, self._path))
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


def _count(touched: dict[_Place, dict[str, Any]], draft: Draft, ts: int) -> None:
    """Add a draft to what its thread's head is told."""
    values = touched.get((draft.thread, draft.token))
    if values is None:
        values = touched[(draft.thread, draft.token)] = {
            "thread": draft.thread,
            "scope": draft.scope,
            "token": draft.token,
            "first": draft.seq,
            "ts": ts,
            "records": 0,
            "intended": 0,
            "returned": 0,
            "status": None,
        }
    values["seq"] = draft.seq
    values["records"] += 1
    if draft.kind is _INTENDED:
        values["intended"] += 1
    elif draft.kind is _RETURNED:
        values["returned"] += 1
    elif draft.kind is _FINISHED:
        values["status"] = draft.name
    elif draft.kind is _STARTED and draft.attempt == 1:  # the head has the newest run's counts
        values["intended"] = values["returned"] = 0


def _added(before: dict[str, Any] | None, values: dict[str, Any]) -> dict[str, Any]:
    """Return a thread's counts with those that its head was not told yet."""
    if before is None:
        return values
    sums = {name: before[name] + values[name] for name in ("records", "intended", "returned")}
    return {**values, **sums}


def _describe(head: Head) -> str:
    driver = head.driver
    if driver is None:
        return "nobody now"
    where = f" in {driver.notebook}" if driver.notebook else ""
    return (
        f"process {driver.pid} on {driver.host}{where} since {driver.since:%Y-%m-%d %H:%M:%S} UTC"
    )


def _as_write_error(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, sqlite3.Error | OSError):
        return JournalWriteError(
            f"the journal in {path.parent} could not be written ({error}): nothing of this step "
            "was recorded; free some space or mend the disk, then resume"
        )
    return error
