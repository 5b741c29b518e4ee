"""Checkpoints as records: what of a graph's state is stored, and what is referred to.

A checkpoint names every channel's value by a tree (see `journal.values`). A channel that did not
change refers to the record that has it; a list that grew refers to the record with its first
elements and adds the new ones.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, CheckpointTuple, writes_sort_key

from notebook_agents.graph.codec import keep_error
from notebook_agents.graph.private import ERROR
from notebook_agents.journal.values import (
    DELTA,
    LIST,
    SAME,
    Decoder,
    Encoder,
    Node,
    pack,
    spread,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint, PendingWrite

    from notebook_agents.graph.codec import StateCodec
    from notebook_agents.journal import Draft, Journal, Record

_INLINE_BELOW = 100  # characters
_GROWTH = 32
"""After so many new elements a list is written out again, so that reading takes one more record
and not a chain of them."""


class _Stored(NamedTuple):
    """Where a channel's value was stored last."""

    version: Any
    at: Draft  # the record that has it, in whatever form
    base: Draft  # the record that has the whole list, if it is one
    elements: list[Node] | None  # that list's trees


@dataclass
class Line:
    """The newest checkpoint of one thread and namespace that this process stored."""

    checkpoint_id: str | None = None
    channels: dict[str, _Stored] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def encode_checkpoint(
    line: Line,
    encoder: Encoder,
    draft: Draft,
    checkpoint: Checkpoint,
    metadata: Any,
    *,
    codec: StateCodec,
) -> None:
    """Fill `draft` with a checkpoint; `encoder.new` must be appended before it.

    Raises:
        ValueNotKeptError: A channel's value cannot be kept; the message names the channel.
    """
    values = checkpoint["channel_values"]
    inline = {channel: value for channel, value in values.items() if _is_inline(value)}
    versions = checkpoint["channel_versions"]
    straight = draft.prior is not None and draft.prior == line.checkpoint_id
    kept: dict[str, _Stored] = {}
    trees: dict[str, Node] = {}
    for channel, value in values.items():
        if channel in inline:
            continue
        version = versions.get(channel)
        before = line.channels.get(channel) if straight else None
        if before is not None and version is not None and before.version == version:
            trees[channel] = (SAME, encoder.refer(before.at))
            kept[channel] = before
            continue
        tree = encoder.encode(value, f"state value {channel!r} of thread {draft.thread!r}")
        trees[channel], kept[channel] = _grown(tree, before, version, draft, encoder)
    head = codec.dumps({**checkpoint, "channel_values": inline}, "the checkpoint")
    meta = codec.dumps(metadata, f"the metadata of a checkpoint of thread {draft.thread!r}")
    draft.plain = pack((head, meta, trees))
    draft.refs, draft.size = encoder.refs, encoder.size + len(head[1]) + len(meta[1])
    line.checkpoint_id, line.channels = draft.ref, kept


def _grown(
    tree: Node, before: _Stored | None, version: Any, draft: Draft, encoder: Encoder
) -> tuple[Node, _Stored]:
    """Return how a channel's new tree is stored, and what to remember of it."""
    if tree[0] != LIST:
        return encoder.placed(tree), _Stored(version, draft, draft, None)
    elements = tree[1]
    if before is not None and before.elements is not None:
        keep = _common(before.elements, elements)
        if keep and len(elements) - keep <= _GROWTH:
            new = encoder.placed_all(elements[keep:])
            stored: Node = (DELTA, encoder.refer(before.base), keep, new)
            return stored, before._replace(version=version, at=draft)
    return encoder.placed(tree), _Stored(version, draft, draft, elements)


def _common(old: list[Node], new: list[Node]) -> int:
    """Return how many elements two lists have in common at their beginning."""
    count = 0
    for left, right in zip(old, new, strict=False):
        if left != right:
            break
        count += 1
    return count


def _is_inline(value: Any) -> bool:
    """Whether a value is so small and plain that it stands in the record as it is."""
    kind = type(value)
    if kind in (str, bytes):
        return len(value) < _INLINE_BELOW
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    return value is None or kind in (bool, float)


def _is_short(value: Any) -> bool:
    """Whether a value is a list of one or two of these, as a node returns it for a reducer."""
    return type(value) is list and len(value) <= 2 and all(map(_is_inline, value))


class Reader:
    """Reads checkpoints of one thread back."""

    def __init__(self, journal: Journal, codec: StateCodec) -> None:
        self._journal = journal
        self._codec = codec
        self._decoder = Decoder(codec, journal.payloads)
        self._payloads: dict[int, list[Any]] = {}

    def preload(self, records: Iterable[Record]) -> None:
        """Read the payloads of several records at once, and of those they are built on."""
        wanted = [record.seq for record in records if record.seq not in self._payloads]
        for seq, payload in self._journal.payloads(wanted).items():
            self._payloads[seq] = unpack(payload)

    def metadata(self, record: Record) -> dict[str, Any]:
        """Return a checkpoint's metadata."""
        self.preload([record])
        loaded: dict[str, Any] = self._codec.loads(*self._payloads[record.seq][1])
        return loaded

    def checkpoint_tuple(
        self, record: Record, writes: Sequence[Record], *, all_refs: dict[int, Record]
    ) -> CheckpointTuple:
        """Return a checkpoint with its pending writes.

        Args:
            record: The checkpoint's record.
            writes: The records of its pending writes, in order.
            all_refs: The checkpoint records of the thread by number: values refer to them.
        """
        self.preload([record, *writes])
        head, meta, trees = self._payloads[record.seq]
        checkpoint = self._codec.loads(*head)
        self._read_bases(trees, record, all_refs)
        for channel, tree in trees.items():
            checkpoint["channel_values"][channel] = self._channel(channel, tree, record, all_refs)
        return CheckpointTuple(
            config=_config(record, record.ref),
            checkpoint=checkpoint,
            metadata=self._codec.loads(*meta),
            parent_config=_config(record, record.prior) if record.prior else None,
            pending_writes=self._writes(writes),
        )

    def _read_bases(
        self, trees: dict[str, list[Any]], record: Record, all_refs: dict[int, Record]
    ) -> None:
        """Read at once what a checkpoint's values refer to: records, and the bases of those."""
        first = {record.refs[tree[1]] for tree in trees.values() if tree[0] in (SAME, DELTA)}
        self.preload(all_refs[seq] for seq in first)
        self.preload(
            all_refs[all_refs[seq].refs[tree[1]]]
            for seq in first
            for tree in self._payloads[seq][2].values()
            if tree[0] == DELTA
        )

    def _channel(
        self, channel: str, tree: list[Any], record: Record, all_refs: dict[int, Record]
    ) -> Any:
        if tree[0] == SAME:
            record = all_refs[record.refs[tree[1]]]
            tree = self._payloads[record.seq][2][channel]
        if tree[0] != DELTA:
            return self._decoder.decode(tree, record.refs)
        _, place, keep, new = tree
        base = all_refs[record.refs[place]]
        old = spread(self._payloads[base.seq][2][channel][1])[:keep]
        front, back = (LIST, old), (LIST, new)
        self._decoder.prefetch([(front, base.refs), (back, record.refs)])
        items: list[Any] = self._decoder.decode(front, base.refs)
        return items + self._decoder.decode(back, record.refs)

    def _writes(self, records: Sequence[Record]) -> list[PendingWrite]:
        """Return pending writes.

        Of a task's regular ones the first counts, of its special ones (an error, an interrupt, an
        answer) the last.
        """
        found: dict[tuple[str, int], tuple[str, str, Any]] = {}
        for record in records:
            small, rows = self._payloads[record.seq]
            for index, channel, value in small:
                self._keep(found, record, index, channel, value)
            for index, channel, tree in rows:
                value = self._decoder.decode(tree, record.refs)
                self._keep(found, record, index, channel, value)
        ordered = sorted(found, key=lambda place: writes_sort_key(found[place][0], *place))
        return [(task, *found[task, index][1:]) for task, index in ordered]

    @staticmethod
    def _keep(
        found: dict[tuple[str, int], tuple[str, str, Any]],
        record: Record,
        index: int,
        channel: str,
        value: Any,
    ) -> None:
        place = (record.parent or "", index)
        if index < 0 or place not in found:
            found[place] = (record.name or "", channel, value)


def encode_writes(encoder: Encoder, draft: Draft, writes: Sequence[tuple[str, Any]]) -> None:
    """Fill `draft` with a task's writes; `encoder.new` must be appended before it.

    Raises:
        ValueNotKeptError: A value cannot be kept; the message names its channel.
    """
    small: list[tuple[int, str, Any]] = []
    rows: list[tuple[int, str, Node]] = []
    for place, (channel, value) in enumerate(writes):
        index = WRITES_IDX_MAP.get(channel, place)
        if _is_inline(value) or _is_short(value):
            small.append((index, channel, value))
            continue
        if channel == ERROR and isinstance(value, BaseException):
            node = encoder.leaf(*keep_error(value))
        else:
            node = encoder.encode(value, f"state value {channel!r} of thread {draft.thread!r}")
        rows.append((index, channel, encoder.placed(node)))
    draft.plain, draft.refs, draft.size = pack((small, rows)), encoder.refs, encoder.size


def _config(record: Record, checkpoint_id: str | None) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": record.thread,
            "checkpoint_ns": record.ns or "",
            "checkpoint_id": checkpoint_id,
        }
    }
