"""What a deletion sets free: records that nothing needs any more, chunks included.

FORMAT.md says what a rewriting of the files may leave out ("Hidden records"); this counts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.journal.copying import NEEDED, hidden
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.records import Record
    from notebook_agents.journal.store import Journal


class Scope:
    """The records that share a data key: a thread's, its forks' and copies'.

    Args:
        journal: The journal.
        scope: Which.
        without: The numbers of records that count as hidden.
    """

    def __init__(self, journal: Journal, scope: str, without: Set[int] = frozenset()) -> None:
        self._journal = journal
        records = journal.select(scope=scope)
        names = dict.fromkeys(record.thread for record in records)
        heads = {name: head for name in names if (head := journal.head(name)) is not None}
        self.threads = [name for name, head in heads.items() if head.scope == scope]
        self._heads: dict[str, Head] = {name: heads[name] for name in self.threads}
        # A deleted thread's chunks are its forks'.
        self._records = [
            record for record in records if record.kind is Kind.CHUNK or self._lives(record)
        ]
        self._needed = self._roots(without)

    def freed(self, gone: Iterable[int] = (), *, thread: str | None = None) -> tuple[int, int]:
        """Return how many records are needed only for these, and the bytes of their payloads.

        Args:
            gone: The numbers of records.
            thread: The name of a thread that goes with all its records, or None.
        """
        rest = self._needed.difference(gone)
        if thread is not None:
            theirs = {r.seq for r in self._records if r.thread == thread}
            rest -= theirs
        free = self._reached(self._needed) - self._reached(rest)
        return weigh(self._journal, sorted(free))

    def _lives(self, record: Record) -> bool:
        head = self._heads.get(record.thread)
        return head is not None and record.seq >= head.first_seq

    def _roots(self, without: Set[int]) -> set[int]:
        """Return the records that are needed for their own sake."""
        told = [r for r in self._records if r.kind is Kind.DELETION and r.refs]
        unseen = hidden(told) | without
        needed: set[int] = set()
        for record in told:
            if record.name == NEEDED:
                needed.update(record.refs)
            else:
                needed.difference_update(record.refs)
        needed -= without
        return {
            r.seq
            for r in self._records
            if r.kind is not Kind.CHUNK
            and (r.seq not in unseen or r.seq in needed or self._may_go_on(r))
        }

    def _may_go_on(self, record: Record) -> bool:
        """Whether a record belongs to its thread's newest run, and that is unfinished."""
        head = self._heads[record.thread]
        return bool(head.run) and record.run == head.run and not RunStatus(head.status).finished

    def _reached(self, roots: Set[int]) -> set[int]:
        """Return what these records are built on, themselves included."""
        found = set(roots)
        for record in reversed(self._records):  # a record refers to smaller numbers only
            if record.seq in found and record.kind is not Kind.DELETION:
                found.update(record.refs)
        return found


def weigh(journal: Journal, seqs: Sequence[int]) -> tuple[int, int]:
    """Return how many of the numbered records there are, and the bytes of their sealed payloads."""
    first, _ = journal.queue.bounds()
    recent = [seq for seq in seqs if seq >= first]
    older = [seq for seq in seqs if seq < first]
    count, size = journal.queue.weigh(recent)
    if older:
        more, bytes_ = journal._archive.weigh(older)
        count, size = count + more, size + bytes_
    return count, size
