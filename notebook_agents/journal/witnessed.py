"""A thread's records for whoever has to prove something with them: authenticated, page by page.

What `Journal.select` gives are columns as they are stored. Here each record's seal is opened, so
that its columns are known to be what a holder of the thread's key wrote, at this place, in this
journal.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from notebook_agents.errors import UnknownThreadError
from notebook_agents.journal.compacted import joined
from notebook_agents.journal.records import decompress
from notebook_agents.journal.values import lost_record
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from notebook_agents.journal.records import Record
    from notebook_agents.journal.store import Journal

_PAGE = 2_000  # records; DuckDB is let go of between pages, so that nobody waits for it
_VALUES = 64  # chunks that are read at a time: one may have megabytes
_REMEMBERED = 50_000  # digests of chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What of a thread is not there any more.

    Attributes:
        deletions: The numbers and times of the deletions of a whole thread of this name. Their key
            went with it, so nobody can tell whether they are as they were written.
        hidden: How many of its records prunings hid; none of them is a step's.
        lost: The ranges of numbers, whosever they were, that a repair found nowhere.
    """

    deletions: tuple[tuple[int, int], ...]
    hidden: int
    lost: tuple[tuple[int, int], ...]


def missing(journal: Journal, thread: str, *, upto: int) -> Missing:
    """Return what is not there any more of a thread, up to record `upto`.

    Raises:
        UnknownThreadError: There is no thread of this name, and none that was deleted is known.
    """
    head = journal.head(thread)
    gone = [record for record in journal.select(kinds=[Kind.DELETION]) if record.seq <= upto]
    whole = [(r.seq, r.ts) for r in gone if r.thread == thread and not r.refs]
    if head is None and not whole:
        journal.thread(thread)  # raises
        raise UnknownThreadError(f"thread {thread!r} was deleted a moment ago: ask again")
    born = whole[-1][0] if whole else 0
    hidden = {ref for r in gone if r.thread == thread and r.seq > born for ref in r.refs}
    first = upto if head is None else head.first_seq
    lost = [(max(a, first), min(b, upto)) for a, b in joined(journal.queue.lost())]
    return Missing(
        deletions=tuple(whole),
        hidden=len(hidden),
        lost=tuple((a, b) for a, b in lost if a <= b),
    )


class Witnessed(NamedTuple):
    """A record whose seal was opened.

    Attributes:
        record: Its columns.
        plain: Its payload as it was encoded; empty where it has none.
    """

    record: Record
    plain: bytes


def witnessed(
    journal: Journal,
    thread: str,
    *,
    kinds: Iterable[Kind],
    upto: int,
    run: int | None = None,
    name: str | None = None,
) -> Iterator[list[Witnessed]]:
    """Yield a thread's records in order, a page at a time, as far as number `upto`.

    Raises:
        SealError: One does not open; the KeyMissingError of a missing key is one.
        JournalDamagedError: One is nowhere.
    """
    seen, kinds = 0, tuple(kinds)
    while True:
        page = journal.select(
            thread=thread, since=seen, kinds=kinds, run=run, name=name, limit=_PAGE
        )
        wanted = [record.seq for record in page if record.seq <= upto]
        sealed = {record.seq: record for record in journal.sealed(wanted)}
        for seq in wanted:
            if seq not in sealed:
                raise lost_record(seq)
        yield [Witnessed(sealed[seq], _plain(journal.opened(sealed[seq]))) for seq in wanted]
        if len(page) < _PAGE or len(wanted) < len(page):
            return
        seen = page[-1].seq


def forks_of(journal: Journal, thread: str, *, name: str) -> list[str]:
    """Return the names of the threads that begin with a past of this one, by their `name`d mark."""
    marks = journal.select(kinds=[Kind.DECISION], name=name)
    return sorted({mark.thread for mark in marks if mark.parent == thread} - {thread})


class Digests:
    """SHA-256 of values, however they are stored.

    Of a record: of its encoded payload, and behind it, for each record that it refers to, in order,
    that one's digest (32 bytes). So what a value is cut into counts, and where it lies does not.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: dict[int, bytes] = {}

    def of(self, found: Witnessed) -> str:
        """Return the digest of a record's value in hex."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        refs = found.record.refs
        self._learn(refs)
        return self._digest(found.plain, refs).hex()

    def _digest(self, plain: bytes, refs: Sequence[int]) -> bytes:
        sum_ = hashlib.sha256(plain)
        for ref in refs:
            sum_.update(self._known[ref])
        return sum_.digest()

    def _learn(self, seqs: Sequence[int]) -> None:
        wanted = [seq for seq in dict.fromkeys(seqs) if seq not in self._known]
        for start in range(0, len(wanted), _VALUES):
            some = wanted[start : start + _VALUES]
            parts = self._journal.parts(some)
            for seq in some:
                if seq not in parts:
                    raise lost_record(seq)
                refs, payload = parts.pop(seq)
                self._learn(refs)
                self._known[seq] = self._digest(_plain(payload), refs)


def _plain(payload: bytes) -> bytes:
    return decompress(payload) if payload else b""
