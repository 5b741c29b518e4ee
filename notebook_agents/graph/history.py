"""The checkpoints of a thread, those that deletions hide included: values are built on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from notebook_agents.journal import Draft
from notebook_agents.journal.copying import NEEDED, hidden
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite

    from notebook_agents.graph.checkpoints import Reader
    from notebook_agents.journal import Record

KINDS = (Kind.CHECKPOINT, Kind.WRITES, Kind.DELETION)
"""What a history is made of."""
BATCH = 50
"""How many checkpoints are read at once."""


class Place(NamedTuple):
    """What names a checkpoint; sorts as LangGraph's own savers list, by id first."""

    id: str
    ns: str
    thread: str


def place_of(record: Record) -> Place:
    """Return which checkpoint a record is, or belongs to."""
    return Place(record.ref or "", record.ns or "", record.thread)


class History:
    """Checkpoint, writes and deletion records, put in order.

    Of several checkpoints with one id the one stored last counts.

    Attributes:
        by_seq: Every checkpoint record by number.
        known: The checkpoint records, hidden ones included.
        shown: Those that no deletion names.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._hidden = hidden(records)
        deletions = [record for record in records if record.kind is Kind.DELETION]
        self._reserved = {
            seq for record in deletions if record.name == NEEDED for seq in record.refs
        }
        for record in deletions:
            if record.name != NEEDED:
                self._reserved.difference_update(record.refs)
        ends = {record.thread: record.seq for record in deletions if not record.refs}
        self.by_seq: dict[int, Record] = {}
        self.known: dict[Place, Record] = {}
        self.shown: dict[Place, Record] = {}
        self._writes: dict[Place, list[Record]] = {}
        for record in records:
            if record.kind is Kind.DELETION or record.seq < ends.get(record.thread, 0):
                continue
            place = place_of(record)
            if record.kind is Kind.WRITES:
                self._writes.setdefault(place, []).append(record)
                continue
            self.by_seq[record.seq] = self.known[place] = record
            if record.seq not in self._hidden:
                self.shown[place] = record

    def newest(self) -> dict[str, Record]:
        """Return the newest shown checkpoint of each namespace, of one thread."""
        found: dict[str, Record] = {}
        for place, record in self.shown.items():
            if place.ns not in found or place.id > (found[place.ns].ref or ""):
                found[place.ns] = record
        return found

    def places(self) -> list[Place]:
        """Return every checkpoint's place, also where only writes or only hidden ones are."""
        return [*self.known.keys() | self._writes.keys()]

    def writes(self, record: Record) -> list[Record]:
        """Return the records of a checkpoint's pending writes."""
        return [
            writes
            for writes in self._writes.get(place_of(record), ())
            if record.seq in self._hidden or writes.seq not in self._hidden
        ]

    def ancestors(self, record: Record) -> Iterator[list[Record]]:
        """Yield what led to a checkpoint, hidden ones too, nearest first, some at a time."""
        seen: set[Place] = set()
        batch: list[Record] = []
        place = place_of(record)
        found: Record | None = record
        while found is not None and found.prior is not None:
            place = place._replace(id=found.prior)
            found = None if place in seen else self.known.get(place)
            seen.add(place)
            if found is not None:
                batch.append(found)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def needed(self, kept: Iterable[Record], reader: Reader) -> set[int]:
        """Return the numbers of the records that the kept checkpoints' DeltaChannels rest on.

        Such a channel has no value in most checkpoints: it is rebuilt from the writes since the
        nearest one that has it.
        """
        found: set[int] = set()
        for record in kept:
            missing = reader.open_channels(record)
            for batch in self.ancestors(record) if missing else ():
                reader.preload(batch)
                for ancestor in batch:
                    found.add(ancestor.seq)
                    found.update(writes.seq for writes in self.writes(ancestor))
                    missing -= reader.held(ancestor)
                    if not missing:
                        break
                if not missing:
                    break
        return found

    def without(
        self, gone: Iterable[Place], kept: Iterable[Record], reader: Reader, *, show: bool
    ) -> list[Draft]:
        """Return the deletions that hide checkpoints of one thread with their writes.

        Args:
            gone: Which.
            kept: Those that have to stay readable; all shown ones but `gone`, or fewer.
            reader: Reads them.
            show: Whether what the kept ones' DeltaChannels rest on stays in sight, too.
        """
        places = set(gone)
        every = {**self.by_seq, **{w.seq: w for ws in self._writes.values() for w in ws}}
        named = {
            seq
            for seq, record in every.items()
            if place_of(record) in places and seq not in self._hidden
        }
        needed = self.needed(kept, reader)
        free = (named | self._reserved) - needed
        unseen = set() if show else needed & named
        return [
            draft
            for name, seqs in ((None, free), (NEEDED, unseen))
            for draft in _deletions([every[seq] for seq in sorted(seqs) if seq in every], name)
        ]


def _deletions(records: Sequence[Record], name: str | None) -> list[Draft]:
    """Return deletions that name these records, one for each namespace."""
    by_ns: dict[str | None, list[Record]] = {}
    for record in records:
        by_ns.setdefault(record.ns, []).append(record)
    return [
        Draft(
            kind=Kind.DELETION,
            thread=named[0].thread,
            scope=named[0].scope,
            ns=ns,
            name=name,
            refs=[record.seq for record in named],
        )
        for ns, named in by_ns.items()
    ]


def delta_history(
    history: History, record: Record, channels: Sequence[str], reader: Reader
) -> Mapping[str, DeltaChannelHistory]:
    """Return what DeltaChannels of a checkpoint are rebuilt from.

    Args:
        history: The thread's.
        record: The checkpoint.
        channels: Their names.
        reader: Reads it.
    """
    found: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
    result: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
    missing = set(channels)
    for batch in history.ancestors(record):
        reader.preload([r for a in batch for r in (a, *history.writes(a))])
        for ancestor in batch:
            for write in reversed(reader.writes(history.writes(ancestor), only=missing)):
                found[write[1]].append(write)
            for channel in missing & reader.held(ancestor):
                result[channel]["seed"] = reader.value(channel, ancestor)
                missing.discard(channel)
        if not missing:
            break
    for channel, writes in found.items():
        result[channel]["writes"] = writes[::-1]
    return result
