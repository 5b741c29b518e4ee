"""`JournalSaver`: the journal as a plain LangGraph checkpointer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from notebook_agents.graph.checkpoints import Line, Reader, encode_checkpoint, encode_writes
from notebook_agents.graph.codec import StateCodec, strict_serializer
from notebook_agents.journal import Draft
from notebook_agents.journal.values import Encoder
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, CheckpointMetadata

    from notebook_agents.journal import Journal, Record

_LIST_BATCH = 50


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
        super().__init__(serde=strict_serializer(allow))
        self.journal = journal
        self._lines: dict[tuple[str, str], Line] = {}

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
        self._append(self._checkpoint_drafts(config, checkpoint, metadata))
        return stored_config(config, checkpoint)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint without blocking the event loop; see `put`."""
        await self._append_async(self._checkpoint_drafts(config, checkpoint, metadata))
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
        self._append(self._writes_drafts(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task writes without blocking the event loop; see `put_writes`."""
        await self._append_async(self._writes_drafts(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread; see `Journal.delete_thread`."""
        self.journal.delete_thread(str(thread_id))
        for thread, ns in list(self._lines):
            if thread == str(thread_id):
                del self._lines[thread, ns]

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread without blocking the event loop."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    # -- reading ------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that `config` names, or the newest of its thread and namespace.

        Raises:
            SealError: A record was altered, or its key is missing.
        """
        thread, ns = _place(config)
        wanted = get_checkpoint_id(config)
        records = self.journal.select(thread=thread, kinds=(Kind.CHECKPOINT, Kind.WRITES), ns=ns)
        checkpoints = _newest_by_id(records)
        record = checkpoints.get(wanted or max(checkpoints, default=""))
        if record is None:
            return None
        writes = [r for r in records if r.kind is Kind.WRITES and r.ref == record.ref]
        return Reader(self.journal, self._codec).checkpoint_tuple(
            record, writes, all_refs={r.seq: r for r in records}
        )

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
        if config is None:
            threads = [info.thread for info in self.journal.threads()]
        else:
            threads = [str(configurable["thread_id"])]
        wanted = get_checkpoint_id(config) if config else None
        until = get_checkpoint_id(before) if before else None
        left = limit
        for thread in threads:
            for found in self._list_thread(
                thread, configurable.get("checkpoint_ns"), wanted, until, filter, left
            ):
                yield found
                if left is not None:
                    left -= 1
            if left == 0:
                return

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

    def _list_thread(
        self,
        thread: str,
        ns: str | None,
        wanted: str | None,
        until: str | None,
        metadata: dict[str, Any] | None,
        limit: int | None,
    ) -> Iterator[CheckpointTuple]:
        records = self.journal.select(thread=thread, kinds=(Kind.CHECKPOINT, Kind.WRITES), ns=ns)
        by_seq = {record.seq: record for record in records}
        writes: dict[tuple[str | None, str | None], list[Record]] = {}
        for record in records:
            if record.kind is Kind.WRITES:
                writes.setdefault((record.ns, record.ref), []).append(record)
        newest = {
            (record.ref or "", record.ns or ""): record
            for record in records
            if record.kind is Kind.CHECKPOINT
            and (wanted is None or record.ref == wanted)
            and (until is None or (record.ref or "") < until)
        }
        chosen = [newest[place] for place in sorted(newest, reverse=True)]
        reader = Reader(self.journal, self._codec)
        given = 0
        for start in range(0, len(chosen), _LIST_BATCH):
            batch = chosen[start : start + _LIST_BATCH]
            reader.preload(batch)
            for record in batch:
                if limit is not None and given >= limit:
                    return
                if metadata and not _matches(reader.metadata(record), metadata):
                    continue
                given += 1
                yield reader.checkpoint_tuple(
                    record, writes.get((record.ns, record.ref), ()), all_refs=by_seq
                )

    # -- what a driver does differently ---------------------------------------------------------

    @property
    def _codec(self) -> StateCodec:
        return StateCodec(self.serde)

    def _columns(self) -> dict[str, Any]:
        """Return what every record of this saver carries."""
        return {}

    def _append(self, drafts: Sequence[Draft]) -> None:
        self.journal.append(drafts, durable=True)

    async def _append_async(self, drafts: Sequence[Draft]) -> None:
        await self.journal.append_async(drafts, durable=True)

    # -- drafts ---------------------------------------------------------------------------------

    def _checkpoint_drafts(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Sequence[Draft]:
        thread, ns = _place(config)
        draft = self._draft(Kind.CHECKPOINT, thread, ns)
        draft.ref, draft.prior = checkpoint["id"], get_checkpoint_id(config)
        draft.attempt = metadata.get("step")
        encoder = self._encoder(draft)
        line = self._lines.setdefault((thread, ns), Line())
        with line.lock:
            encode_checkpoint(
                line,
                encoder,
                draft,
                checkpoint,
                get_checkpoint_metadata(config, metadata),
                codec=self._codec,
            )
        return [*encoder.new, draft]

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
        return Encoder(
            self._codec,
            self.journal.chunks(draft.scope),
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


def _newest_by_id(records: Sequence[Record]) -> dict[str, Record]:
    """Return checkpoints by id; of two with the same id the one stored last."""
    return {record.ref or "": record for record in records if record.kind is Kind.CHECKPOINT}


def _matches(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(metadata.get(key) == value for key, value in wanted.items())
