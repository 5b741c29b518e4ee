"""The journal: one directory, two engines, one interface.

Above this module nobody knows which engine holds a record.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal, Self

from notebook_agents import faults, settings
from notebook_agents.errors import (
    JournalBusyError,
    KeyMissingError,
    NoJournalError,
    NotDurableError,
    SealError,
    ThreadBusyError,
    UnknownThreadError,
)
from notebook_agents.faults import Fault
from notebook_agents.journal.archive import Archive
from notebook_agents.journal.queue import Head, Queue
from notebook_agents.journal.records import Draft, Record, open_payload
from notebook_agents.journal.sql import query
from notebook_agents.journal.values import Chunks
from notebook_agents.journal.writer import Writer
from notebook_agents.model import Kind
from notebook_agents.sealing import DataKey, KeyRing, load_ring, wrapped_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from notebook_agents.model import ThreadInfo

Mode = Literal["shared", "exclusive"]

_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


class Journal:
    """The record of what agents meant to do, did, and knew.

    A journal is a directory. Any number of processes may have one open; each appends to a small
    SQLite file, and DuckDB takes the records over in bursts. Use `open`.

    Attributes:
        home: The directory.
        id: The journal's own name; every record is sealed to it.
    """

    def __init__(self, home: Path, *, mode: Mode, create: bool) -> None:
        self.home = home
        self.mode = mode
        self._queue = Queue(home, create=create)
        self.id = self._queue.journal_id
        self._keys: dict[str, DataKey] = {}
        self._chunks: dict[str, Chunks] = {}
        self._ring: KeyRing | None = None
        self._keys_lock = threading.RLock()
        self._writer = Writer(
            self._queue.path,
            journal_id=self.id,
            key=self._keys.__getitem__,
            after_commit=self._after_commit,
        )
        self._archive = Archive(self._queue, exclusive=mode == "exclusive")
        self._burst_thread: threading.Thread | None = None
        self._ingested_at = self._queue.bounds()[0]
        self._closed = False
        _open_journals.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        mode: Mode = "shared",
        *,
        create: bool = True,
    ) -> Journal:
        """Open the journal in a directory, or make one there.

        Args:
            path: The directory. None: NOTEBOOK_AGENTS_HOME, the nearest `.notebook_agents` here or
                above, or a new one here.
            mode: "shared": any number of processes at once. "exclusive": this process keeps DuckDB
                open, and no other can use the journal's history until it closes.
            create: Whether a missing journal is made.

        Raises:
            NoJournalError: There is none and `create` is false.
            JournalFormatError: The path is no journal, or one of a newer version.
            JournalDamagedError: A file cannot be read.
            JournalBusyError: Another process has it open exclusively (mode "exclusive" only).
        """
        return cls(settings.journal_home(path, create=create), mode=mode, create=create)

    # -- appending ----------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Append records in order; see `Writer.append` for what `durable` means and raises."""
        self._prepare(drafts)
        self._writer.append(drafts, durable=durable)

    async def append_async(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        """Append without blocking the event loop."""
        self._prepare(drafts)
        await self._writer.append_async(drafts, durable=durable)

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

    # -- reading ------------------------------------------------------------------------------

    def threads(self) -> list[ThreadInfo]:
        """Return every thread, the one with the newest record first; never opens DuckDB."""
        self._check_open()
        return [head.info() for head in self._queue.heads()]

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
        return self._queue.head(thread)

    def select(
        self,
        *,
        thread: str | None = None,
        scope: str | None = None,
        kinds: Iterable[Kind] | None = None,
        ns: str | None = None,
        ref: str | None = None,
        step: str | None = None,
        name: str | None = None,
    ) -> list[Record]:
        """Return matching records in order, without payloads: queue and DuckDB together.

        Of a thread only what came after its deletion is returned.
        """
        self._check_open()
        after = 0
        if thread is not None:
            head = self.head(thread)
            if head is None:
                return []
            after = head.first_seq - 1
        filters = {
            "after": after,
            "thread": thread,
            "scope": scope,
            "kinds": None if kinds is None else ",".join(kinds),
            "ns": ns,
            "ref": ref,
            "step": step,
            "name": name,
        }
        recent, first = self._queue.select(**filters)
        if first <= after + 1:
            return recent
        return [*self._archive.select(before=first, **filters), *recent]

    def payloads(self, seqs: Sequence[int]) -> dict[int, bytes]:
        """Return the opened payloads of the numbered records; those that are nowhere are left out.

        Raises:
            SealError: One does not open.
        """
        self._check_open()
        if not seqs:
            return {}
        records = self._queue.by_seq(seqs)
        first, _ = self._queue.bounds()
        found = {record.seq for record in records}
        older = [seq for seq in seqs if seq not in found and seq < first]
        if older:
            records.extend(self._archive.by_seq(older))
        return {
            record.seq: open_payload(
                record, journal_id=self.id, key=self.data_key(record.scope, create=False)
            )
            for record in records
        }

    def reading(self) -> AbstractContextManager[None]:
        """Let the reads in the block share one burst, if they need one at all."""
        return self._archive.lingering()

    def payload(self, seq: int) -> bytes:
        """Return one opened payload.

        Raises:
            SealError: It does not open, or the record is gone.
        """
        found = self.payloads([seq])
        if seq not in found:
            raise SealError(f"record {seq} is missing from {self.home}: put its files back")
        return found[seq]

    def chunks(self, scope: str) -> Chunks:
        """Return the known chunks of a scope."""
        with self._keys_lock:
            if scope not in self._chunks:
                records = self.select(scope=scope, kinds=[Kind.CHUNK]) if self._has(scope) else []
                known = {record.digest: record.seq for record in records if record.digest}
                self._chunks[scope] = Chunks(self.data_key(scope), known)
            return self._chunks[scope]

    def sql(
        self, statement: str, parameters: dict[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Answer a query over the whole journal; see schema.sql for its table and views."""
        self.ingest()
        with self._archive.burst() as connection:
            return connection.execute(statement, parameters or {}).fetchall()

    # -- keys ---------------------------------------------------------------------------------

    def data_key(self, scope: str, *, create: bool = True) -> DataKey:
        """Return the key of a scope; make one for a new scope.

        Raises:
            KeyMissingError: The master key that wraps it is not here, or the key was deleted.
        """
        with self._keys_lock:
            key = self._keys.get(scope)
            if key is None:
                key = self._keys[scope] = self._load_key(scope, create=create)
            return key

    def wrapped_key(self, scope: str) -> bytes | None:
        """Return a scope's data key as it is stored, or None where it was deleted or never made."""
        return self._queue.key(scope)

    def _load_key(self, scope: str, *, create: bool) -> DataKey:
        context = f"{self.id}\0{scope}".encode()
        wrapped = self._queue.key(scope)
        other = wrapped or self._queue.any_key()
        if self._ring is None:
            self._ring = load_ring(create=other is None)
            if self._ring.created_at is not None:
                sys.stderr.write(
                    f"notebook-agents: made a master key, {self._ring.created_at}: keep a copy\n"
                )
        if wrapped is None:
            if not create:
                raise KeyMissingError(
                    f"the key of thread {scope!r} was deleted from {self.home}: its contents "
                    "cannot be read any more"
                )
            if other is not None:
                self._ring.get(wrapped_by(other))  # a journal keeps to the keys it has
            fresh = self._ring.current.wrap(os.urandom(32), context)
            self._writer.execute(query("queue.add_key"), {"scope": scope, "wrapped": fresh})
            wrapped = self._queue.key(scope)
            assert wrapped is not None
        return DataKey(self._ring.get(wrapped_by(wrapped)).unwrap(wrapped, context))

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the parent of this process."""
        return self._closed

    # -- DuckDB -------------------------------------------------------------------------------

    def ingest(self) -> int:
        """Have DuckDB take everything that is in the queue; return its newest number."""
        self._check_open()
        self._writer.flush(durable=True)
        newest = self._archive.ingest()
        self._writer.execute(query("queue.trim"), {"upto": newest})
        faults.hit(Fault.INGEST_TRIMMED)
        self._writer.vacuum()
        self._ingested_at = newest
        return newest

    def _after_commit(self, last: int) -> None:
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

    # -- closing, forking ---------------------------------------------------------------------

    def close(self) -> None:
        """Write what is staged, wait for a burst, close both files."""
        if self._closed:
            return
        if self._burst_thread is not None and self._burst_thread is not threading.current_thread():
            self._burst_thread.join()
        self._closed = True
        _open_journals.discard(self)
        try:
            self._writer.close()
        finally:
            self._archive.close()
            self._queue.close()

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
            raise ThreadBusyError(
                f"thread {thread!r} is being driven by process "
                f"{head.driver.pid if head.driver else '?'}: stop it there, then {then}"
            )
        return head

    def delete_thread(self, thread: str) -> None:
        """Delete a thread: its records are unreadable from now on.

        Its data key is deleted with it unless a copy or a fork shares the key, so that no copy of
        the records in the current files can be opened. Their space comes back with a compaction.

        Raises:
            ThreadBusyError: A living process drives it.
        """
        head = self.at_rest(thread, then="delete the thread")
        if head is None:
            return
        self.append(
            [Draft(kind=Kind.DELETION, thread=thread, scope=head.scope, token=None)], durable=True
        )
        self._writer.execute(query("queue.forget_thread"), {"thread": thread})
        with self._keys_lock:
            self._chunks.pop(head.scope, None)
            self._writer.execute(query("queue.delete_key"), {"scope": head.scope})
            if self.wrapped_key(head.scope) is None:
                self._keys.pop(head.scope, None)

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

    def _has(self, scope: str) -> bool:
        return self._queue.scope_users(scope) > 0

    def _prepare(self, drafts: Sequence[Draft]) -> None:
        """Have the data keys at hand: making one is a transaction of its own."""
        self._check_open()
        for draft in drafts:
            if draft.scope not in self._keys:
                self.data_key(draft.scope)

    def _check_open(self) -> None:
        if self._closed:
            raise NotDurableError(
                f"the journal in {self.home} is closed: open it again with Journal.open()"
            )

    def _abandon(self) -> None:
        """In a forked child: leave the parent's connections alone, take new ones when needed."""
        for kept in (
            *self._writer.abandon(),
            *self._archive.abandon(),
            *self._queue.abandon(),
        ):
            # One reference too many, so that nothing closes it when the child's interpreter goes.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._keys_lock = threading.RLock()
        self._chunks = {}  # some of them are the parent's to commit
        self._burst_thread = None
        if self.mode == "exclusive":
            self._closed = True  # DuckDB belongs to the parent for as long as it lives
            return
        try:
            self._queue = Queue(self.home, create=False)
        except NoJournalError:
            self._closed = True
            return
        self._archive = Archive(self._queue, exclusive=False)


def _before_fork() -> None:
    """Wait for the end of a commit and of a burst: no child is born in the middle of one."""
    for journal in list(_open_journals):
        journal._archive.bursting.acquire()
        journal._writer.leading.acquire()


def _after_fork_in_parent() -> None:
    for journal in list(_open_journals):
        journal._writer.leading.release()
        journal._archive.bursting.release()


def _after_fork_in_child() -> None:
    for journal in list(_open_journals):
        journal._abandon()


def _close_all() -> None:
    for journal in list(_open_journals):
        journal.close()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
# Not a `with` around anything: a kernel has no end that it could be put around. DuckDB aborts the
# process if a thread is busy in it when the interpreter goes, so bursts are joined first.
atexit.register(_close_all)
