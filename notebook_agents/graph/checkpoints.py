"""Checkpoints as records: what of a graph's state is stored, and what is referred to.

A checkpoint names every channel's value by a tree (see `journal.values`). A channel that did not
change refers to the record that has it; a list that grew refers to the record with its first
elements and adds the new ones.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, CheckpointTuple, writes_sort_key

from notebook_agents.graph.codec import keep_error
from notebook_agents.graph.private import ERROR
from notebook_agents.journal import Record
from notebook_agents.journal.values import (
    DELTA,
    LIST,
    SAME,
    Decoder,
    Node,
    beginning,
    lost_record,
    pack,
    unpack,
)
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint, PendingWrite

    from notebook_agents.graph.appended import Own
    from notebook_agents.graph.codec import StateCodec
    from notebook_agents.journal import Draft, Journal
    from notebook_agents.journal.chunking import Encoder, Kept

    Shown = Record | Own  # a checkpoint's record, or one of what was written for it

_INLINE_BELOW = 100  # characters
_GROWTH = 32
"""After so many new elements a list is written out again, so that reading takes one more record
and not a chain of them."""


_RECORD, _FEW, _CALLS = 2048, 16, 32
"""About how many bytes a record with its tree takes in memory, and how many do not matter; after so
many calls a reader forgets what it does not need."""


class _Stored(NamedTuple):
    """Where a channel's value was stored last."""

    kept: Kept
    at: Draft  # the record that has it, in whatever form
    base: Draft  # the record that has the whole list, if it is one
    elements: list[Node] | None  # that list's trees


@dataclass(eq=False)
class Line:
    """The newest checkpoint of one thread and namespace that this process stored."""

    checkpoint_id: str | None = None
    channels: dict[str, _Stored] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, first: int | None) -> None:
        """Forget what was stored in a thread of that name that was deleted since.

        Args:
            first: The thread's first number; None where it is not there.
        """
        stored = [seq for one in self.channels.values() for seq in (one.at.seq, one.base.seq)]
        if any(seq and (first is None or seq < first) for seq in stored):  # 0: on its way
            self.checkpoint_id, self.channels = None, {}

    def let_go(self) -> None:
        """Hold on to the values no longer; the next checkpoint serialises them again."""
        with self.lock:
            self.channels = {
                channel: one._replace(kept=replace(one.kept, watch=None, pages=[]))
                for channel, one in self.channels.items()
            }


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
    straight = draft.prior is not None and draft.prior == line.checkpoint_id
    kept: dict[str, _Stored] = {}
    trees: dict[str, Node] = {}
    for channel, value in values.items():
        if channel in inline:
            continue
        before = line.channels.get(channel) if straight else None
        what = f"state value {channel!r} of thread {draft.thread!r}"
        now = encoder.encode_again(value, what, before and before.kept)
        if before is not None and now.node == before.kept.node:
            trees[channel] = (SAME, encoder.refer(before.at))
            kept[channel] = before._replace(kept=now)
            continue
        trees[channel], kept[channel] = _grown(now, before, draft, encoder)
    head = codec.dumps({**checkpoint, "channel_values": inline}, "the checkpoint")
    meta = codec.dumps(metadata, f"the metadata of a checkpoint of thread {draft.thread!r}")
    draft.plain = pack((head, meta, trees))
    draft.refs, draft.size = encoder.refs, encoder.size + len(head[1]) + len(meta[1])
    line.checkpoint_id, line.channels = draft.ref, kept


def _grown(
    now: Kept, before: _Stored | None, draft: Draft, encoder: Encoder
) -> tuple[Node, _Stored]:
    """Return how a channel's new tree is stored, and what to remember of it."""
    tree = now.node
    if tree[0] != LIST:
        return encoder.placed(tree), _Stored(now, draft, draft, None)
    elements = tree[1]
    if before is not None and before.elements is not None:
        keep = _common(before.elements, elements)
        if keep and len(elements) - keep <= _GROWTH:
            new = encoder.placed_all(elements[keep:])
            stored: Node = (DELTA, encoder.refer(before.base), keep, new)
            return stored, before._replace(kept=now, at=draft)
    return encoder.placed(tree), _Stored(now, draft, draft, elements)


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
    """Reads checkpoints back, several with the same few reads of payloads."""

    def __init__(self, journal: Journal, codec: StateCodec) -> None:
        self._journal = journal
        self._codec = codec
        self._decoder = Decoder(codec, journal.parts)
        self._payloads: dict[int, list[Any]] = {}
        self._refs: dict[int, Sequence[int]] = {}
        self._room, self._calls = -1, 0

    def preload(self, records: Iterable[Shown]) -> None:
        """Read the payloads of several records at once, but of those that came with theirs."""
        seqs = set()
        for record in records:
            if isinstance(record, Record) and record.payload is not None:
                self._open(record)
            else:
                seqs.add(record.seq)
        self._read(seqs)

    def _open(self, record: Record) -> None:
        if record.seq not in self._payloads:
            self._payloads[record.seq] = unpack(self._journal.opened(record))
            self._refs[record.seq] = record.refs

    def _read(self, seqs: set[int]) -> None:
        missing = seqs.difference(self._payloads)
        if not missing:
            return
        for seq, (refs, payload) in self._journal.parts(sorted(missing)).items():
            self._payloads[seq] = unpack(payload)
            self._refs[seq] = refs
        if lost := missing.difference(self._payloads):
            raise lost_record(min(lost))

    def take(self, own: Iterable[Own]) -> None:
        """Have records without reading them."""
        for one in own:
            if one.kind is Kind.CHUNK:
                self._decoder.take(one.seq, one.refs, one.plain)
            else:
                self._payloads[one.seq], self._refs[one.seq] = unpack(one.plain), one.refs

    def keep(self, records: Iterable[Shown]) -> None:
        """Forget all but what these records, just read, are made of.

        That takes as long as they are large, so it is put off until there is as much to forget,
        and for so many calls.
        """
        self._calls += 1
        held = self._decoder.held + len(self._payloads) * _RECORD
        if self._room < 0:  # it has read nothing but what it was first asked for
            self._room = 2 * (held + _FEW * _RECORD)
        if held <= self._room and self._calls < _CALLS:
            return
        wanted = {record.seq for record in records}
        for _ in range(2):  # a record, the one it refers to, and that one's base
            wanted |= {seq for at in wanted for seq in self._refs[at] if seq in self._payloads}
        self._payloads = {seq: self._payloads[seq] for seq in wanted}
        self._refs = {seq: self._refs[seq] for seq in wanted}
        self._decoder.keep({seq for refs in self._refs.values() for seq in refs})
        self._calls = 0
        self._room = 2 * (self._decoder.held + (_FEW + len(self._payloads)) * _RECORD)

    def metadata(self, record: Shown) -> dict[str, Any]:
        """Return a checkpoint's metadata."""
        self.preload([record])
        loaded: dict[str, Any] = self._codec.loads(*self._payloads[record.seq][1])
        return loaded

    def held(self, record: Shown) -> set[str]:
        """Return the channels that have a value in a checkpoint."""
        return {*self._head(record)["channel_values"], *self._payloads[record.seq][2]}

    def open_channels(self, record: Shown) -> set[str]:
        """Return the DeltaChannels of a checkpoint whose values its ancestors have."""
        counted = self.metadata(record).get("counters_since_delta_snapshot") or {}
        return counted.keys() & self._head(record)["channel_versions"].keys() - self.held(record)

    def checkpoint_tuples(
        self, wanted: Sequence[tuple[Shown, Sequence[Shown]]]
    ) -> list[CheckpointTuple]:
        """Return checkpoints with their pending writes, in at most four reads of payloads.

        Args:
            wanted: Checkpoints, each with the records of its pending writes in order.
        """
        with self._journal.reading():
            self.preload(record for one, writes in wanted for record in (one, *writes))
            self._read_bases([record for record, _ in wanted])
            trees = [
                tree
                for record, _ in wanted
                for channel in self._payloads[record.seq][2]
                for tree in self._trees(channel, record.seq)
            ]
            found = [(record, self._rows(writes)) for record, writes in wanted]
            trees += [(row.tree, row.refs) for _, rows in found for row in rows if row.tree]
            self._decoder.prefetch(trees)
        return [self._checkpoint_tuple(record, rows) for record, rows in found]

    def decoded(self, record: Shown, writes: Sequence[Shown]) -> CheckpointTuple:
        """Return a checkpoint with these pending writes; KeyError where not all was read before."""
        return self._checkpoint_tuple(record, self._rows(writes))

    def _checkpoint_tuple(self, record: Shown, rows: Sequence[_Write]) -> CheckpointTuple:
        stored, meta, trees = self._payloads[record.seq]
        head: Checkpoint = self._codec.loads(*stored)
        values = {channel: self._decoded(channel, record) for channel in trees}
        return CheckpointTuple(
            config=_config(record, record.ref),
            checkpoint={**head, "channel_values": {**head["channel_values"], **values}},
            metadata=self._codec.loads(*meta),
            parent_config=_config(record, record.prior) if record.prior else None,
            pending_writes=self._decoded_writes(rows),
        )

    def _head(self, record: Shown) -> Checkpoint:
        """Return a checkpoint with its small plain values only."""
        self.preload([record])
        loaded: Checkpoint = self._codec.loads(*self._payloads[record.seq][0])
        return loaded

    def _read_bases(self, records: Sequence[Shown]) -> None:
        """Read at once what checkpoints' values refer to: records, and the bases of those."""
        first = {
            record.refs[tree[1]]
            for record in records
            for tree in self._payloads[record.seq][2].values()
            if tree[0] in (SAME, DELTA)
        }
        self._read(first)
        self._read(
            {
                self._refs[seq][tree[1]]
                for seq in first
                for tree in self._payloads[seq][2].values()
                if tree[0] == DELTA
            }
        )

    def _trees(self, channel: str, seq: int) -> list[tuple[Sequence[Any], Sequence[int]]]:
        """Return the tree of a channel's value, or those of a list's two parts."""
        tree = self._payloads[seq][2][channel]
        if tree[0] == SAME:
            seq = self._refs[seq][tree[1]]
            tree = self._payloads[seq][2][channel]
        refs = self._refs[seq]
        if tree[0] != DELTA:
            return [(tree, refs)]
        _, place, keep, new = tree
        base = refs[place]
        old = beginning(self._payloads[base][2][channel][1], keep)
        return [((LIST, old), self._refs[base]), ((LIST, new), refs)]

    def value(self, channel: str, record: Shown) -> Any:
        """Return a channel's value in a checkpoint that has one."""
        head = self._head(record)
        if channel in head["channel_values"]:
            return head["channel_values"][channel]
        self._read_bases([record])
        self._decoder.prefetch(self._trees(channel, record.seq))
        return self._decoded(channel, record)

    def _decoded(self, channel: str, record: Shown) -> Any:
        first, *rest = [self._decoder.value(*tree) for tree in self._trees(channel, record.seq)]
        return first + rest[0] if rest else first

    def writes(
        self, records: Sequence[Shown], *, only: Container[str] | None = None
    ) -> list[PendingWrite]:
        """Return pending writes in LangGraph's order.

        Args:
            records: Those of one checkpoint, in order.
            only: The channels whose writes are wanted; None for all.
        """
        self.preload(records)
        rows = [row for row in self._rows(records) if only is None or row.channel in only]
        self._decoder.prefetch([(row.tree, row.refs) for row in rows if row.tree is not None])
        return self._decoded_writes(rows)

    def _decoded_writes(self, rows: Iterable[_Write]) -> list[PendingWrite]:
        return [
            (
                row.task,
                row.channel,
                row.value if row.tree is None else self._decoder.value(row.tree, row.refs),
            )
            for row in rows
        ]

    def _rows(self, records: Sequence[Shown]) -> list[_Write]:
        """Return the writes that count.

        Of a task's regular ones the first counts, of its special ones (an error, an interrupt, an
        answer) the last.
        """
        found: dict[tuple[str, int], _Write] = {}
        for record in records:
            small, rows = self._payloads[record.seq]
            task, path = record.parent or "", record.name or ""
            every = [
                *((index, _Write(path, task, channel, value)) for index, channel, value in small),
                *(
                    (index, _Write(path, task, channel, None, tree, record.refs))
                    for index, channel, tree in rows
                ),
            ]
            for index, write in every:
                if index < 0 or (task, index) not in found:
                    found[task, index] = write
        ordered = sorted(found, key=lambda place: writes_sort_key(found[place].path, *place))
        return [found[place] for place in ordered]


class _Write(NamedTuple):
    """One write of a task: a small plain value, or a tree."""

    path: str
    task: str
    channel: str
    value: Any
    tree: Sequence[Any] | None = None
    refs: Sequence[int] = ()


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
            what = f"state value {channel!r} of thread {draft.thread!r}"
            node = encoder.encode(value, what, channel=True)
        rows.append((index, channel, encoder.placed(node)))
    draft.plain, draft.refs, draft.size = pack((small, rows)), encoder.refs, encoder.size


def _config(record: Shown, checkpoint_id: str | None) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": record.thread,
            "checkpoint_ns": record.ns or "",
            "checkpoint_id": checkpoint_id,
        }
    }
