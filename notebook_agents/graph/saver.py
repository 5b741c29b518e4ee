"""`JournalSaver`: the journal as a plain LangGraph checkpointer."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from notebook_agents.errors import CompactedError, UsageError
from notebook_agents.graph import retention
from notebook_agents.graph.checkpoints import Line, Reader, encode_checkpoint, encode_writes
from notebook_agents.graph.codec import StateCodec, strict_serializer
from notebook_agents.graph.history import BATCH, KINDS, History, Place, delta_history
from notebook_agents.graph.newest import Newest, named, page
from notebook_agents.journal import Draft
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.copying import copy_thread
from notebook_agents.journal.deleting import settled
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        CheckpointMetadata,
        DeltaChannelHistory,
    )

    from notebook_agents.journal import Journal, Record


_HELD = 32
"""Of how many threads and namespaces a saver remembers the values that it stored, in order to tell
what changed since."""


class JournalSaver(BaseCheckpointSaver[int]):
    """Keeps a graph's checkpoints in a journal.

    Under an `Agent` this happens by itself. Alone (`graph.compile(checkpointer=saver)`) it is a
    checkpointer like LangGraph's own: state survives, growing values are stored once and
    everything is sealed, but steps are not journaled, so a node that returned may run again after
    a kill. Every `put` and `put_writes` is on disk when it returns.

    Args:
        journal: An open journal.
        allow: Types of one's own that may come back out of the state, besides LangGraph's.
    """

    def __init__(self, journal: Journal, *, allow: Iterable[tuple[str, ...] | type] = ()) -> None:
        self.allow = tuple(allow)
        super().__init__(serde=strict_serializer(self.allow))
        self.journal = journal
        self._lines: dict[tuple[str, str], Line] = {}
        self._held: deque[Line] = deque()
        self._newest = Newest(journal)

    # -- writing ------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint.

        Raises:
            ValueNotKeptError: A state value cannot be kept; its channel is named.
        """
        self._store(partial(self._checkpoint_drafts, config, checkpoint, metadata))
        return stored_config(config, checkpoint)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint without blocking the event loop; see `put`."""
        await self._store_async(partial(self._checkpoint_drafts, config, checkpoint, metadata))
        return stored_config(config, checkpoint)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task writes.

        Raises:
            ValueNotKeptError: A value cannot be kept; its channel is named.
        """
        self._store(partial(self._writes_drafts, config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task writes without blocking the event loop; see `put_writes`."""
        await self._store_async(partial(self._writes_drafts, config, writes, task_id, task_path))

    # -- keeping less, keeping twice -----------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with all it holds, an agent's runs included.

        Raises:
            ThreadBusyError: A living process drives it.
        """
        self.journal.delete_thread(str(thread_id))
        self._forget(str(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread without blocking the event loop; see `delete_thread`."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's checkpoints and pending writes to a new thread.

        The copy shares the content with its source and outlives it. Of an agent's thread the
        conversation is copied, not the runs.

        Raises:
            UnknownThreadError: There is no such thread.
            ThreadExistsError: There is a thread of the new name.
        """
        copy_thread(self.journal, str(source_thread_id), str(target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread without blocking the event loop; see `copy_thread`."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints, with their writes, whose metadata has one of these `run_id`s.

        They are not shown any more. What the checkpoints that stay are built on stays readable for
        them: values that did not change, and what a DeltaChannel is rebuilt from. Nothing is
        deleted if one thread refuses.

        Args:
            run_ids: LangGraph's run ids, in every thread of the journal.

        Raises:
            ThreadBusyError: A living process drives one of the threads.
            RunUnfinishedError: An agent's unfinished run rests on one of the checkpoints.
        """
        wanted = set(map(str, run_ids))
        self._delete(lambda: retention.without_runs(self.journal, self._codec, wanted))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete runs' checkpoints without blocking the event loop; see `delete_for_runs`."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the older checkpoints of threads, or the threads. Unknown threads are passed over.

        Args:
            thread_ids: Which threads; nothing is deleted if one of them refuses.
            strategy: "keep_latest" keeps the newest checkpoint of each namespace with its pending
                writes, open interrupts among them, and the ancestors that its DeltaChannels are
                rebuilt from; an unfinished run of an agent can go on. "delete" deletes the
                threads, as `delete_thread` does.

        Raises:
            UsageError: There is no such strategy.
            ThreadBusyError: A living process drives one of the threads.
            RunUnfinishedError: "delete", and an agent's run on one of them is unfinished.
        """
        threads = list(dict.fromkeys(map(str, thread_ids)))
        if strategy == "delete":
            retention.check_finished(self.journal, threads)
            for thread in threads:
                self.journal.delete_thread(thread, check=retention.check_run)
                self._forget(thread)
        elif strategy == "keep_latest":
            self._delete(lambda: retention.without_older(self.journal, self._codec, threads))
        else:
            raise UsageError(
                f"there is no strategy {strategy!r} to prune threads with: give 'keep_latest' or "
                "'delete'"
            )

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Prune threads without blocking the event loop; see `prune`."""
        await asyncio.to_thread(self.prune, thread_ids, strategy=strategy)

    def _delete(self, drafts: Callable[[], Sequence[Draft]]) -> None:
        for thread in {draft.thread for draft in settled(self.journal, drafts)}:
            self._forget(thread)

    def _forget(self, thread: str) -> None:
        """Let the next checkpoint of a thread refer to none that this process stored before."""
        for line in list(self._lines):
            if line[0] == thread:
                self._lines.pop(line, None)

    # -- reading ------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that `config` names, or the newest of its thread and namespace.

        Raises:
            SealError: A record was altered, or its key is missing.
        """
        thread, ns = _place(config)
        wanted = get_checkpoint_id(config)
        self._bring_up()
        if not wanted:
            return self._newest.get(thread, ns, self._codec)
        with self.journal.reading():
            history = named(self.journal, thread, ns, wanted)
        record = _find(history, thread, ns, wanted)
        if record is None:
            return None
        reader = Reader(self.journal, self._codec)
        return reader.checkpoint_tuples([(record, history.writes(record))])[0]

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Do as `get_tuple` without blocking the event loop."""
        return await asyncio.to_thread(self.get_tuple, config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, newest first.

        Args:
            config: Whose: a thread, a namespace, one checkpoint; None for all threads.
            filter: Metadata that must be equal.
            before: Only checkpoints older than this one.
            limit: At most so many.

        Yields:
            Each with its pending writes.
        """
        configurable = (config or {}).get("configurable", {})
        thread = None if config is None else str(configurable["thread_id"])
        wanted = get_checkpoint_id(config) if config else None
        until = get_checkpoint_id(before) if before else None
        ns = configurable.get("checkpoint_ns")
        history = None
        if thread is not None and limit is not None and not filter and not wanted:
            self._bring_up()
            with self.journal.reading():
                history = page(self.journal, thread, ns, max(limit, 0), until=until)
        history = history or History(self._select(thread, ns))
        chosen = [
            history.shown[place]
            for place in sorted(history.shown, reverse=True)
            if (not wanted or place.id == wanted) and (not until or place.id < until)
        ]
        reader = Reader(self.journal, self._codec)
        left = len(chosen) if limit is None else limit
        size = BATCH if filter else min(BATCH, max(left, 1))
        for start in range(0, len(chosen), size):
            if left <= 0:
                return
            batch = chosen[start : start + size]
            if filter:
                reader.preload(batch)
                batch = [record for record in batch if _matches(reader.metadata(record), filter)]
            found = [(record, history.writes(record)) for record in batch[:left]]
            left -= len(found)
            yield from reader.checkpoint_tuples(found)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Do as `list` without blocking the event loop."""
        found = await asyncio.to_thread(
            lambda: [*self.list(config, filter=filter, before=before, limit=limit)]
        )
        for checkpoint in found:
            yield checkpoint

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what DeltaChannels are rebuilt from: writes since the nearest stored value.

        Checkpoints that `delete_for_runs` took out of sight still count.
        """
        thread, ns = _place(config)
        history = History(self._select(thread, ns))
        record = _find(history, thread, ns, get_checkpoint_id(config))
        if record is None:
            return {channel: {"writes": []} for channel in channels}
        with self.journal.reading():
            return delta_history(history, record, channels, Reader(self.journal, self._codec))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Do as `get_delta_channel_history` without blocking the event loop."""
        return await asyncio.to_thread(
            self.get_delta_channel_history, config=config, channels=channels
        )

    # -- what a driver does differently ---------------------------------------------------------

    @property
    def _codec(self) -> StateCodec:
        return StateCodec(self.serde)

    def _columns(self) -> dict[str, Any]:
        """Return what every record of this saver carries."""
        return {}

    def _bring_up(self) -> None:
        """Have what has come in committed, so that it is read."""

    def _select(self, thread: str | None, ns: str | None) -> Sequence[Record]:
        """Return what a history is made of, of one thread or of all."""
        self._bring_up()
        return self.journal.select(thread=thread, kinds=KINDS, ns=ns)

    def _store(self, drafts: Callable[[], Sequence[Draft]]) -> None:
        """Append drafts; once more where what they refer to was compacted away meanwhile."""
        try:
            self._append(drafts())
        except CompactedError:
            self._lines.clear()
            self._append(drafts())

    def _append(self, drafts: Sequence[Draft]) -> None:
        with self._newest.appended.remembering(drafts):
            self.journal.append(drafts, durable=True)

    async def _store_async(self, drafts: Callable[[], Sequence[Draft]]) -> None:
        """Do as `_store` without blocking the event loop."""
        try:
            await self._append_async(drafts())
        except CompactedError:
            self._lines.clear()
            await self._append_async(drafts())

    async def _append_async(self, drafts: Sequence[Draft]) -> None:
        with self._newest.appended.remembering(drafts):
            await self.journal.append_async(drafts, durable=True)

    # -- drafts ---------------------------------------------------------------------------------

    def _checkpoint_drafts(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Sequence[Draft]:
        thread, ns = _place(config)
        draft = self._draft(Kind.CHECKPOINT, thread, ns)
        draft.ref, draft.prior = checkpoint["id"], get_checkpoint_id(config)
        draft.attempt = metadata.get("step")
        full = get_checkpoint_metadata(config, metadata)
        run_id = full.get("run_id")
        draft.name = None if run_id is None else str(run_id)  # found without opening any payload
        encoder = self._encoder(draft)
        line = self._lines.setdefault((thread, ns), Line())
        with line.lock:
            if draft.token is None:  # nobody drives it: another process may have deleted it
                head = self.journal.head(thread)
                line.begin(None if head is None else head.first_seq)
            encode_checkpoint(
                line,
                encoder,
                draft,
                checkpoint,
                full,
                codec=self._codec,
            )
        self._hold(line)
        return [*encoder.new, draft]

    def _hold(self, line: Line) -> None:
        """Remember that a line holds on to its values; those of the last few do so."""
        with suppress(ValueError):
            self._held.remove(line)
        self._held.append(line)
        if len(self._held) > _HELD:
            self._held.popleft().let_go()

    def _writes_drafts(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Sequence[Draft]:
        thread, ns = _place(config)
        draft = self._draft(Kind.WRITES, thread, ns)
        draft.ref, draft.parent, draft.name = get_checkpoint_id(config), task_id, task_path
        encoder = self._encoder(draft)
        encode_writes(encoder, draft, writes)
        return [*encoder.new, draft]

    def _draft(self, kind: Kind, thread: str, ns: str) -> Draft:
        head = None if self._columns() else self.journal.head(thread)
        scope = thread if head is None else head.scope
        return Draft(
            **{"kind": kind, "thread": thread, "scope": scope, "ns": ns, **self._columns()}
        )

    def _encoder(self, draft: Draft) -> Encoder:
        chunks = self.journal.chunks(draft.scope)
        draft.key = chunks.key
        return Encoder(
            self._codec,
            chunks,
            thread=draft.thread,
            scope=draft.scope,
            token=draft.token,
        )


def _place(config: RunnableConfig) -> tuple[str, str]:
    configurable = config.get("configurable", {})
    return str(configurable["thread_id"]), configurable.get("checkpoint_ns") or ""


def stored_config(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    """Return the config that names a checkpoint just stored."""
    thread, ns = _place(config)
    return {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint["id"],
        }
    }


def _find(history: History, thread: str, ns: str, checkpoint_id: str | None) -> Record | None:
    """Return the shown checkpoint of that id, or the newest of the namespace."""
    if checkpoint_id:
        return history.shown.get(Place(checkpoint_id, ns, thread))
    return history.newest().get(ns)


def _matches(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(metadata.get(key) == value for key, value in wanted.items())
