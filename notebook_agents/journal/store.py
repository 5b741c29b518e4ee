"""The journal: one directory, two engines, one interface.

Above this module nobody knows which engine holds a record.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from notebook_agents import faults, settings
from notebook_agents.errors import (
    JournalBusyError,
    JournalError,
    KeyMissingError,
    NotDurableError,
    SealError,
    ThreadBusyError,
    UnknownThreadError,
)
from notebook_agents.faults import Fault
from notebook_agents.journal import integrity
from notebook_agents.journal.archive import Archive
from notebook_agents.journal.claims import busy, left_behind
from notebook_agents.journal.compacted import Stale
from notebook_agents.journal.deleting import settled, whole
from notebook_agents.journal.expiry import Expiry
from notebook_agents.journal.follow import follow
from notebook_agents.journal.forks import open_journals, opening
from notebook_agents.journal.keys import Keys
from notebook_agents.journal.leases import Leases
from notebook_agents.journal.payloads import numbered, opened
from notebook_agents.journal.queue import Head, Queue
from notebook_agents.journal.records import Draft, Record, open_payload, record_of
from notebook_agents.journal.schedule import Schedule
from notebook_agents.journal.sql import Filters, query
from notebook_agents.journal.trimming import trim
from notebook_agents.journal.values import Chunks, complete
from notebook_agents.journal.wrapped import WrappedKeys
from notebook_agents.journal.writer import Writer
from notebook_agents.model import Kind

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import duckdb

    from notebook_agents.model import ThreadInfo
    from notebook_agents.sealing import DataKey

Mode = Literal["shared", "exclusive"]

_logger = logging.getLogger("notebook_agents.journal")


class Journal:
    """The record of what agents meant to do, did, and knew.

    A journal is a directory. Any number of processes may have one open; each appends to a small
    SQLite file, and DuckDB takes the records over in bursts. Use `open`.

    Attributes:
        home: The directory.
        id: The journal's own name; every record is sealed to it.
    """

    def __init__(self, home: Path, *, mode: Mode, create: bool, scheduled: bool = True) -> None:
        with opening:
            self._open(home, mode=mode, create=create, scheduled=scheduled)

    def _open(self, home: Path, *, mode: Mode, create: bool, scheduled: bool) -> None:
        self.home = home
        self.mode = mode
        self._backups = Schedule(home, wanted=scheduled)  # first: it may refuse its settings
        self.expiry = Expiry(self, wanted=scheduled)
        self._queue = Queue(home, create=create)
        self.id = self._queue.journal_id
        self._chunks: dict[str, Chunks] = {}
        self._keys = Keys(
            lambda scope: self._chunks.pop(scope, None), lambda *one: self._wrapped.unwrap(*one)
        )
        self._born: dict[str, int] = {}  # the first number of each thread that was looked at
        self._keys_lock = threading.RLock()
        self._writer = Writer(
            self._queue.path,
            journal_id=self.id,
            keys=self._keys,
            stale=Stale(self._queue.generation(), self._chunks.clear),
            after_commit=self._after_commit,
        )
        self._wrapped = WrappedKeys(self._queue, self._writer)
        try:
            if self._queue.after_kill:
                integrity.after_kill(self._queue, self.stored_key)
            self._archive = Archive(self._queue, exclusive=mode == "exclusive")
        except BaseException:
            self._queue.close()
            raise
        self.leases = Leases(self._queue, self._writer)
        self._burst_thread: threading.Thread | None = None
        self._ingested_at = self._queue.bounds()[0]
        self._closed = self._closing = False
        self._holding, self._holds = threading.Lock(), 0
        open_journals.add(self)
        self.expiry.begin()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        mode: Mode = "shared",
        *,
        create: bool = True,
        scheduled: bool = True,
    ) -> Journal:
        """Open the journal in a directory, or make one there.

        Args:
            path: The directory. None: NOTEBOOK_AGENTS_HOME, the nearest `.notebook_agents` here or
                above, or a new one here.
            mode: "shared": any number of processes at once. "exclusive": this process keeps DuckDB
                open, and no other can use the journal's history until it closes.
            create: Whether a missing journal is made.
            scheduled: Whether backups are made when NOTEBOOK_AGENTS_BACKUP_HOURS asks for them, and
                old threads deleted when NOTEBOOK_AGENTS_TTL does.

        Raises:
            NoJournalError: There is none and `create` is false.
            JournalFormatError: The path is no journal, or one of a newer version.
            JournalDamagedError: A file cannot be read.
            JournalBusyError: Another process has it open exclusively (mode "exclusive" only).
        """
        home = settings.journal_home(path, create=create)
        return cls(home, mode=mode, create=create, scheduled=scheduled)

    # -- appending ----------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Append records in order; see `Writer.append` for what `durable` means and raises."""
        claims = self._prepare(drafts)
        try:
            self._writer.append(drafts, durable=durable)
        except ThreadBusyError as error:
            self.leases.ask(error)
            raise
        if claims:
            self.leases.look()

    async def append_async(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Append without blocking the event loop."""
        claims = self._prepare(drafts)
        try:
            await self._writer.append_async(drafts, durable=durable)
        except ThreadBusyError as error:
            self.leases.ask(error)
            raise
        if claims:
            self.leases.look()

    def stage(self, drafts: Sequence[Draft]) -> None:
        """Have records written before whatever this process appends next."""
        self._prepare(drafts)
        self._writer.stage(drafts)

    def flush(self, *, durable: bool = True) -> None:
        """Write what is staged."""
        self._check_open()
        self._writer.flush(durable=durable)

    def release(self, thread: str, token: int) -> None:
        """Give a thread back without an end of its run: it is orphaned from now on."""
        head = None if self._closed else self._queue.head(thread)
        if head is None or head.token == token:  # else this process has taken it up again
            self._writer.driving.discard(thread)
        if not self._closed:
            self._writer.flush(durable=True)
            self._writer.execute(query("queue.release_thread"), {"thread": thread, "token": token})

    @property
    def driving(self) -> set[str]:
        """The threads that this process drives now."""
        return self._writer.driving

    def left_behind(self, head: Head) -> bool:
        """Whether a thread's claim is this process's own, and nothing here drives it any more."""
        return left_behind(head, self._writer.driven_here())

    # -- reading ------------------------------------------------------------------------------

    def threads(self) -> list[ThreadInfo]:
        """Return every thread, the one with the newest record first; never opens DuckDB."""
        self._check_open()
        return self._queue.infos()

    def heads(self) -> list[Head]:
        """Return every thread's head, the one with the newest record first."""
        self._check_open()
        return self._queue.heads()

    def thread(self, name: str) -> ThreadInfo:
        """Return one thread.

        Raises:
            UnknownThreadError: There is no such thread.
        """
        head = self.head(name)
        if head is None:
            raise UnknownThreadError(
                f"there is no thread {name!r} in {self.home}: `notebook-agents list` shows those "
                "that there are"
            )
        return head.info()

    def head(self, thread: str) -> Head | None:
        """Return a thread's head, or None."""
        self._check_open()
        self._writer.stale.look(self._queue.generation())
        head = self._queue.head(thread)
        if head is None or self._born.get(thread) != head.first_seq:
            scope = thread if head is None else head.scope
            if scope in self._keys:  # another process may have deleted the thread
                self._keys.check(scope, self._queue.key(scope))
            if head is not None:
                self._born[thread] = head.first_seq
        return head

    def select(
        self,
        *,
        thread: str | None = None,
        since: int = 0,
        limit: int | None = None,
        **filters: Unpack[Filters],
    ) -> list[Record]:
        """Return matching records in order, without payloads: queue and DuckDB together.

        Of a thread only what came after its deletion is returned, of all only what came after
        record `since`, and of that the first `limit`. DuckDB is not opened if that is in the queue.
        """
        self._check_open()
        after = self._behind(thread, since)
        if after is None:
            return []
        wanted = {"thread": thread, "after": after, "limit": limit, **filters}
        recent, first = self._queue.select(**wanted)
        if first <= after + 1:
            return recent
        return [*self._archive.select(before=first, **wanted), *recent][:limit]

    def newest_checkpoints(
        self, thread: str, ns: str | None, limit: int, *, until: str | None = None
    ) -> list[Record]:
        """Return a thread's checkpoints with the largest ids, in that order, with their payloads.

        At most `limit`, hidden or not, of one namespace or (None) of all, with ids below `until`.
        """
        self._check_open()
        if (after := self._behind(thread, 0)) is None:
            return []
        wanted = {"thread": thread, "ns": ns, "after": after, "until": until, "limit": limit}
        recent, first = self._queue.newest(**wanted)
        if first > after + 1:
            recent += self._archive.newest(before=first, **wanted)
        recent.sort(key=lambda one: (one.ref or "", one.ns or "", one.seq), reverse=True)
        return recent[:limit]

    def _behind(self, thread: str | None, since: int) -> int | None:
        """Return behind which number to look; None where the thread is not there."""
        if thread is None:
            return since
        head = self.head(thread)
        return None if head is None else max(since, head.first_seq - 1)

    def newest(self) -> int:
        """Return the number of the newest record; 0 where there is none."""
        self._check_open()
        return self._queue.last()

    def version(self) -> tuple[int, int]:
        """Return what changes when anything is committed, by whichever process."""
        self._check_open()
        return self._queue.version()

    def follow(
        self,
        since: int | None = None,
        *,
        thread: str | None = None,
        seconds: float | timedelta | None = None,
    ) -> Iterator[Record]:
        """Yield records as they are committed, by whichever process; within a tenth of a second.

        They have no payloads; `payload(record.seq)` opens one. DuckDB is opened only for what has
        left the queue already.

        Args:
            since: The number of the record behind which to begin; None: only what comes from now.
            thread: Whose; None for all threads.
            seconds: When to end if nothing more comes; None is never. From the call on.

        Yields:
            The records, in order, none twice and none left out.

        Raises:
            NotDurableError: The journal was closed.
        """
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        yield from follow(self, since, thread, seconds)

    def payloads(self, seqs: Sequence[int]) -> dict[int, bytes]:
        """Return opened payloads by number, not of what is nowhere; SealError if one is spoilt."""
        return {seq: payload for seq, (_, payload) in self.parts(seqs).items()}

    def parts(self, seqs: Sequence[int]) -> dict[int, tuple[Sequence[int], bytes]]:
        """Return references and opened payload of each of the numbered records; see `payloads`."""
        self._check_open()
        return opened(self, numbered(self._queue, self._archive, seqs))

    def sealed(self, seqs: Sequence[int]) -> list[Record]:
        """Return the numbered records with their payloads, sealed, in no order."""
        self._check_open()
        rows = numbered(self._queue, self._archive, seqs)
        return [record_of(row, self.home) for row in rows]

    def opened(self, record: Record) -> bytes:
        """Return the payload of a record that was read with it; SealError if it does not open."""
        key = self.data_key(record.scope, create=False)
        try:
            return open_payload(record, journal_id=self.id, key=key)
        except SealError:
            if self._keys.check(record.scope, self._queue.key(record.scope)):
                raise
            # The thread was deleted and made anew by another process: it has another key now.
            key = self.data_key(record.scope, create=False)
            return open_payload(record, journal_id=self.id, key=key)

    def reading(self) -> AbstractContextManager[None]:
        """Let the reads in the block share one burst, if they need one at all."""
        return self._archive.lingering()

    def payload(self, seq: int) -> bytes:
        """Return one opened payload.

        Raises:
            SealError: It does not open, or the record is gone.
        """
        if seq not in (found := self.payloads([seq])):
            raise SealError(f"record {seq} is missing from {self.home}: put its files back")
        return found[seq]

    def chunks(self, scope: str) -> Chunks:
        """Return the known chunks of a scope."""
        if (found := self._chunks.get(scope)) is not None:
            return found
        # Not under the keys' lock: who reads the history wants that, and this wants the history.
        born = self._queue.scope_born(scope)
        records = self.select(scope=scope, kinds=[Kind.CHUNK], since=born - 1) if born else []
        with self._keys_lock:
            return self._chunks.setdefault(scope, Chunks(self.data_key(scope), complete(records)))

    def sql(
        self, statement: str, parameters: dict[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Answer a query over the whole journal; see schema.sql for its table and views."""
        self.ingest()
        with self._archive.burst(foreign=True) as connection:
            return connection.execute(statement, parameters or {}).fetchall()

    # -- keys ---------------------------------------------------------------------------------

    def data_key(self, scope: str, *, create: bool = True) -> DataKey:
        """Return the key of a scope; make one for a new scope.

        Raises:
            KeyMissingError: The master key that wraps it is not here, or the key was deleted.
        """
        with self._keys_lock:
            known = self._keys.get(scope)
            return known or self._keys.add(scope, *self._wrapped.load(scope, create=create))

    def wrapped_key(self, scope: str) -> bytes | None:
        """Return a scope's data key as it is stored, or None where it was deleted or never made."""
        return self._queue.key(scope)

    def stored_key(self, scope: str) -> DataKey:
        """Return a scope's key where there is one, and make none."""
        if self._queue.key(scope) is None:
            raise KeyMissingError(f"there is no key of {scope!r}: its contents were deleted")
        return self.data_key(scope, create=False)

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the parent of this process."""
        return self._closed or self._closing

    @property
    def queue(self) -> Queue:
        """The SQLite side, for checks."""
        return self._queue

    # -- DuckDB -------------------------------------------------------------------------------

    def ingest(self) -> int:
        """Have DuckDB take everything that is in the queue; return its newest number."""
        self._check_open()
        self._writer.flush(durable=True)
        newest = self._archive.ingest()
        trim(self._writer, self._queue, newest)
        faults.hit(Fault.INGEST_TRIMMED)
        self._writer.vacuum()
        self._ingested_at = newest
        return newest

    def burst(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open DuckDB's file as it is, for whoever copies or examines it."""
        self._check_open()
        return self._archive.burst()

    @property
    def generation(self) -> int:
        """The number of DuckDB's file."""
        return self._queue.generation()

    def _after_commit(self, last: int) -> None:
        self._backups.after_commit(last)
        grown = last - self._ingested_at
        if grown < settings.INGEST_RECORDS and (
            grown % 64 or self._queue.backlog_bytes() < settings.INGEST_BYTES
        ):
            return
        if self._burst_thread is None or not self._burst_thread.is_alive():
            self._ingested_at = last  # asked for; the burst sets what it reached
            self._burst_thread = threading.Thread(
                target=self._background_ingest, name="notebook-agents-burst", daemon=True
            )
            self._burst_thread.start()

    def _background_ingest(self) -> None:
        try:
            self.ingest()
        except (JournalBusyError, NotDurableError):
            return  # another process has DuckDB, or this journal was closed; the queue keeps them
        except JournalError as error:  # whoever asks for the history is told so too
            _logger.warning("records stay in the queue of %s: %s", self.home, error)

    # -- closing, forking ---------------------------------------------------------------------

    def close(self) -> None:
        """Write what is staged, wait for a burst, close both files.

        Where steps of a run that was left still run in this process, the last of them
        closes: what they return is recorded.
        """
        with self._holding:
            self._closing = True
            if self._holds:
                return
        self._close()

    def hold(self) -> None:
        """Have `close` put off until `let_go`."""
        with self._holding:
            self._holds += 1

    def let_go(self) -> None:
        """Undo a `hold`, and close if that was asked for in the meantime."""
        with self._holding:
            self._holds -= 1
            last = self._closing and not self._holds
        if last:
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self.expiry.close()
        self.leases.close()
        if self._burst_thread is not None and self._burst_thread is not threading.current_thread():
            self._burst_thread.join()
        self._backups.wait()
        self._closed = True
        last = 0
        try:
            self._writer.close()
            _, last = self._queue.bounds()
        finally:
            self._archive.close()
            self._queue.close()
            open_journals.discard(self)
        self._backups.at_close(last)

    def at_rest(self, thread: str, *, then: str) -> Head | None:
        """Return the head of a thread that nobody drives; None where there is no such thread.

        Args:
            thread: The thread's name.
            then: What its driver's end would allow, for the message.

        Raises:
            ThreadBusyError: A living process drives it.
        """
        head = self.head(thread)
        if head is not None and head.driven:
            error = busy(head, f"stop it there, then {then}")
            self.leases.ask(error)
            raise error
        return head

    def delete_thread(
        self, thread: str, *, check: Callable[[Head], object] = lambda _: None
    ) -> bool:
        """Delete a thread: its records are unreadable from now on.

        Its data key is deleted with it unless a copy or a fork shares the key, so that no copy of
        the records in the current files can be opened. Their space comes back with a compaction.

        Args:
            thread: The thread's name.
            check: Raises if the thread must stay. Nobody has taken the thread between its last
                call and the deletion.

        Returns:
            Whether there was such a thread.

        Raises:
            ThreadBusyError: A living process drives it.
        """
        gone = settled(self, lambda: whole(self, thread, check))
        for draft in gone:
            with self._keys_lock:
                self._chunks.pop(draft.scope, None)
                self._keys.check(draft.scope, self.wrapped_key(draft.scope))
                self._wrapped.forget_copy(draft.scope)
        return bool(gone)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Journal {self.home} {'closed' if self._closed else self.mode}>"

    def _prepare(self, drafts: Sequence[Draft]) -> bool:
        """Have the data keys at hand: making one is a transaction of its own.

        Returns:
            Whether a draft claims its thread.
        """
        self._check_open()
        claims = False
        for draft in drafts:
            if draft.scope not in self._keys:
                fresh = draft.scope == draft.thread and draft.kind is not Kind.DELETION
                self.data_key(draft.scope, create=fresh)
            if draft.claim is not None:
                claims = True
        return claims

    def _check_open(self) -> None:
        if self._closed:
            raise NotDurableError(
                f"the journal in {self.home} is closed: open it again with Journal.open()"
            )

    def _renew(self) -> None:
        """In a forked child: have locks, threads and connections of its own."""
        left = not self._writer.resting
        self._writer.renew()
        self._queue.renew()
        for kept in self._archive.abandon():
            # One reference too many, so that nothing closes it when the child's interpreter goes.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._keys_lock = threading.RLock()
        self._chunks.clear()  # some of them are the parent's to commit
        self._holding, self._holds = threading.Lock(), 0
        self._burst_thread = None
        self._backups = Schedule(self.home, wanted=False)
        self.expiry = Expiry(self, wanted=False)
        # DuckDB belongs to the parent for as long as it lives; so does what could not be closed.
        self._closed = self._closed or self.mode == "exclusive" or left
        self._archive = Archive(self._queue, exclusive=False)
        self.leases = Leases(self._queue, self._writer)
