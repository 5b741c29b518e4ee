"""The newest checkpoint of a thread, without reading its history.

What is read is that checkpoint, its pending writes, what its values refer to, and the deletions
behind it: no more for a thread of a million records, or beside a million others. Whoever asks again
reads what others committed since, and decodes. What is remembered is as large as the checkpoints,
for a while three times as large, and 4 MB of what was appended last (`appended.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.graph.appended import Appended
from notebook_agents.graph.checkpoints import Reader
from notebook_agents.graph.history import KINDS, History
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langgraph.checkpoint.base import CheckpointTuple

    from notebook_agents.graph.checkpoints import Shown
    from notebook_agents.graph.codec import StateCodec
    from notebook_agents.journal import Journal, Record

_REMEMBERED = 4
"""Of how many threads and namespaces the newest checkpoint is remembered: as large as it is."""


@dataclass(slots=True)
class _Known:
    """What this process has read of a thread's namespace.

    Attributes:
        born: The thread's first number: another one is another thread of that name.
        seen: The newest number of all then.
        newest: The checkpoint.
        writes: The records of writes for it, and for later ones that are not stored yet.
        reader: Has the payloads.
    """

    born: int
    seen: int
    newest: Shown
    writes: list[Shown]
    reader: Reader

    def tuple(self) -> CheckpointTuple:
        """Return the checkpoint; read only what was not read before."""
        pending = [record for record in self.writes if record.ref == self.newest.ref]
        try:
            found = self.reader.decoded(self.newest, pending)
        except KeyError:  # not all of it is there
            found = self.reader.checkpoint_tuples([(self.newest, pending)])[0]
        self.reader.keep([self.newest, *pending])
        return found


def named(journal: Journal, thread: str, ns: str, checkpoint_id: str) -> History:
    """Return as much of a thread's history as tells of one checkpoint."""
    kinds = [Kind.CHECKPOINT, Kind.WRITES]
    records = journal.select(thread=thread, ns=ns, ref=checkpoint_id, kinds=kinds)
    return History([*records, *_deletions(journal, thread, ns, records)])


def page(
    journal: Journal, thread: str, ns: str | None, limit: int, *, until: str | None
) -> History | None:
    """Return as much of a thread's history as has its newest checkpoints.

    Args:
        journal: The journal.
        thread: The thread's name.
        ns: The namespace; None for all.
        limit: How many.
        until: Only smaller ids than this one.

    Returns:
        The history; None where some of them are hidden, so that more have to be looked at.
    """
    newest = journal.newest_checkpoints(thread, ns, limit, until=until)
    of = [record.ref or "" for record in newest]
    writes = journal.select(thread=thread, ns=ns, any_ref=of, kinds=[Kind.WRITES])
    records = sorted((*newest, *writes), key=lambda record: record.seq)
    history = History([*records, *_deletions(journal, thread, ns, records)])
    return history if len(history.shown) == len(newest) else None


def _deletions(
    journal: Journal, thread: str, ns: str | None, records: Sequence[Record]
) -> list[Record]:
    """Return the deletions that may name these: what they name has smaller numbers."""
    if not records:
        return []
    since = min(record.seq for record in records)
    return journal.select(thread=thread, ns=ns, kinds=[Kind.DELETION], since=since)


class Newest:
    """Reads the newest checkpoints of threads, and remembers the last few.

    No lock, which a forked child could find taken for good: whoever takes something out of
    what is remembered has it alone, and others read anew meanwhile.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.appended = Appended()
        # By thread, namespace, and serialiser: LangGraph clones a saver for each graph that is
        # compiled with it, and the clones share this and differ in which types may come back.
        self._known: OrderedDict[tuple[str, str, object], _Known] = OrderedDict()

    def __reduce__(self) -> tuple[type[Newest], tuple[Journal]]:
        return Newest, (self._journal,)  # a definition may hold a saver: nothing is remembered

    def get(self, thread: str, ns: str, codec: StateCodec) -> CheckpointTuple | None:
        """Return the shown checkpoint with the largest id, or None where there is none.

        Raises:
            SealError: A record was altered, or its key is missing.
        """
        place = (thread, ns, codec.serializer)
        known = self._again(self._known.pop(place, None), thread, ns)
        if known is not None:
            found = known.tuple()
        else:
            with self._journal.reading():
                known = self._first(thread, ns, codec)
                if known is None:
                    return self._among_hidden(thread, ns, codec)
                found = known.tuple()
        self._known[place] = known
        if len(self._known) > _REMEMBERED:
            with suppress(KeyError):  # others took all of them out
                self._known.popitem(last=False)
        return found

    def _first(self, thread: str, ns: str, codec: StateCodec) -> _Known | None:
        """Read what is to know; None where the newest checkpoint is hidden, or there is none."""
        seen, head = self._journal.newest(), self._journal.head(thread)
        first = self._journal.newest_checkpoints(thread, ns, 1)
        if head is None or not first:
            return None
        newest = first[0]
        writes = self._journal.select(
            thread=thread, ns=ns, kinds=[Kind.WRITES], least_ref=newest.ref
        )
        gone = _deletions(self._journal, thread, ns, [newest, *writes])
        history = History([newest, *writes, *gone])
        if newest.seq not in {record.seq for record in history.shown.values()}:
            return None
        hidden = {seq for deletion in gone for seq in deletion.refs}
        writes = [record for record in writes if record.seq not in hidden]
        reader = Reader(self._journal, codec)
        return _Known(head.first_seq, seen, newest, [*writes], reader)

    def _again(self, known: _Known | None, thread: str, ns: str) -> _Known | None:
        """Bring what is known up to date; None where it has to be read anew."""
        if known is None:
            return None
        seen = self._journal.newest()
        if known.seen == seen:  # nothing at all was appended, no deletion either
            return known
        own = self.appended.select(known.seen, seen, thread=thread, ns=ns)
        records: Sequence[Shown]
        if own is not None:
            known.reader.take(own)
            records = [one for one in own if one.kind in KINDS]
        else:  # others appended, too
            head = self._journal.head(thread)
            if head is None or head.first_seq != known.born:
                return None
            records = self._journal.select(thread=thread, ns=ns, kinds=KINDS, since=known.seen)
        for record in records:
            if record.kind is Kind.DELETION:
                return None
            if record.kind is Kind.WRITES:
                known.writes.append(record)
            elif (record.ref or "") >= (known.newest.ref or ""):
                known.newest = record
        least = known.newest.ref or ""
        known.writes = [record for record in known.writes if (record.ref or "") >= least]
        known.seen = seen
        return known

    def _among_hidden(self, thread: str, ns: str, codec: StateCodec) -> CheckpointTuple | None:
        """Look for a shown checkpoint among all that there are, where the newest is hidden."""
        history = History(self._journal.select(thread=thread, kinds=KINDS, ns=ns))
        record = history.newest().get(ns)
        if record is None:
            return None
        reader = Reader(self._journal, codec)
        return reader.checkpoint_tuples([(record, history.writes(record))])[0]
