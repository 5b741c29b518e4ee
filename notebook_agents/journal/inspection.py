"""Every invariant that FORMAT.md states of records, looked at one record after the other."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from notebook_agents.journal import compacted, damage
from notebook_agents.journal.heads import Implied
from notebook_agents.journal.integrity import shredded
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_agents.journal.integrity import Seals
    from notebook_agents.journal.records import Record

_STEP = ("run", "step", "name", "attempt")
_REQUIRED: dict[Kind, tuple[str, ...]] = {
    Kind.RUN_STARTED: ("run", "name", "attempt"),
    Kind.RUN_FINISHED: ("run", "name", "attempt"),
    Kind.STEP_INTENDED: _STEP,
    Kind.STEP_RETURNED: _STEP,
    Kind.STEP_LATE: _STEP,
    Kind.STEP_FAILED: _STEP,
    Kind.STEP_SUSPENDED: _STEP,
    Kind.ROUTED: _STEP,
    Kind.USAGE: _STEP,
    Kind.DECISION: ("run", "name"),
    Kind.CHECKPOINT: ("ref",),
    Kind.WRITES: ("ref", "parent"),
    Kind.CHUNK: ("digest",),
}


class Severity(StrEnum):
    """How bad something is, in the words of reports."""

    MINOR = "minor"
    """Nothing of the history is affected."""
    MAJOR = "major"
    """Some records or threads are damaged or lost; the others can be read."""
    CATASTROPHIC = "catastrophic"
    """Nothing can be read, or nothing is left."""

    @property
    def rank(self) -> int:
        """A number that is larger for what is worse."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: How bad it is.
        what: What it is, without a full stop.
        seqs: The records' numbers, as ranges; empty where it is not about records.
        thread: Whose they are; None where that is not known, or several threads'.
    """

    severity: Severity
    what: str
    seqs: tuple[tuple[int, int], ...] = ()
    thread: str | None = None


class Numbers:
    """A set of record numbers, added in order, as ranges."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def add(self, seq: int) -> None:
        """Add a number that is larger than every one before."""
        if self.ranges and self.ranges[-1][1] == seq - 1:
            self.ranges[-1] = (self.ranges[-1][0], seq)
        else:
            self.ranges.append((seq, seq))

    def insert(self, seqs: Iterable[int]) -> None:
        """Add numbers in any order."""
        both = sorted([*self.ranges, *((seq, seq) for seq in seqs)])
        self.ranges = []
        for low, high in both:
            if self.ranges and low <= self.ranges[-1][1] + 1:
                self.ranges[-1] = (self.ranges[-1][0], max(high, self.ranges[-1][1]))
            else:
                self.ranges.append((low, high))

    def __contains__(self, seq: int) -> bool:
        place = bisect_right(self.ranges, (seq, 2**63)) - 1
        return place >= 0 and self.ranges[place][0] <= seq <= self.ranges[place][1]

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.ranges)

    def insert_ranges(self, ranges: compacted.Ranges) -> None:
        """Add ranges of numbers in any order."""
        self.ranges = compacted.joined(self.ranges, ranges)

    def gaps(self, upto: int) -> list[tuple[int, int]]:
        """Return the ranges of numbers from 1 to `upto` that are not in it."""
        found, following = [], 1
        for low, high in self.ranges:
            if low > following:
                found.append((following, min(low - 1, upto)))
            following = high + 1
        if following <= upto:
            found.append((following, upto))
        return [(low, high) for low, high in found if low <= high]


def ranges_of(seqs: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return numbers as ranges."""
    numbers = Numbers()
    numbers.insert(seqs)
    return tuple(numbers.ranges)


@dataclass(slots=True)
class Inspection:
    """What a journal's records say when each is looked at, in the order of their numbers.

    Attributes:
        seals: Opens them.
        implied: What they imply of the heads.
        whole: The numbers of those that open, or cannot be told for lack of the key.
        closed: Those that do not open although the key is here.
        gone: The numbers of those that are not to open: their key went with their thread.
        findings: What is wrong with one of them.
        deletions: Those that delete a whole thread.
    """

    seals: Seals
    implied: dict[str, Implied] = field(default_factory=dict)
    whole: Numbers = field(default_factory=Numbers)
    closed: dict[int, Record] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    deletions: list[Record] = field(default_factory=list)
    _dangling: dict[int, list[Record]] = field(default_factory=dict)
    _below: dict[int, set[int]] = field(default_factory=dict)

    def take(self, record: Record) -> bool:
        """Look at the next record; say whether it is to be kept."""
        if self.whole.ranges and record.seq <= self.whole.ranges[-1][1]:
            self._find(record, "is there twice")
            return False
        if self.seals.whole(record) is False:
            self.closed[record.seq] = record
            if record.kind is Kind.DELETION and not record.refs:
                self.deletions.append(record)
            return False
        self.keep(record)
        return True

    def keep(self, record: Record) -> None:
        """Take a record without opening it."""
        self.whole.add(record.seq)
        missing = [name for name in _REQUIRED.get(record.kind, ()) if _lacks(record, name)]
        if missing:
            # It opens, so it is as it was written: nothing to bring back.
            self._find(record, f"has no {', '.join(missing)}", Severity.MINOR)
        if record.kind is Kind.DELETION and not record.refs:
            self.deletions.append(record)
        lost: set[int] = set()
        for ref in record.refs:
            if ref >= record.seq:
                self._find(record, f"refers to {ref}, which is not older")
            elif ref not in self.whole:
                lost.add(ref)
            else:
                lost |= self._below.get(ref, set())
        for ref in sorted(lost):
            self._dangling.setdefault(ref, []).append(record)
        if lost and record.kind is Kind.CHUNK:  # what refers to a branch needs all its parts
            self._below[record.seq] = lost
        self._imply(record)

    def settle(self, known: Iterable[tuple[int, int]], left_out: compacted.Ranges) -> None:
        """Look at what can only be told at the end.

        Args:
            known: Ranges of numbers that were lost before an earlier repair.
            left_out: Those that compactions left out; deletions still name some.
        """
        before = Numbers()
        before.ranges = sorted(known)
        self.gone = {seq for seq, one in self.closed.items() if shredded(one, self.deletions)}
        for seq in self.gone:
            del self.closed[seq]
        self.whole.insert(self.gone)
        for ref, records in self._dangling.items():
            if ref in self.whole:
                continue
            idle = compacted.within(left_out, ref)
            for record in records:
                if idle and record.kind is Kind.DELETION:
                    continue
                if not shredded(record, self.deletions):
                    severity = Severity.MINOR if ref in before else Severity.MAJOR
                    self._find(record, f"refers to record {ref}, which is lost", severity)

    def _imply(self, record: Record) -> None:
        one = self.implied.get(record.thread)
        if one is None or one.deleted:
            one = self.implied[record.thread] = Implied(
                record.thread, record.scope, record.seq, record.seq, record.ts, record.ts
            )
        one.add(record)
        one.deleted = record.kind is Kind.DELETION and not record.refs

    def _find(self, record: Record, what: str, severity: Severity = Severity.MAJOR) -> None:
        self.findings.append(
            Finding(
                severity=severity,
                what=f"record {record.seq} ({record.kind}) of thread {record.thread!r} {what}",
                seqs=((record.seq, record.seq),),
                thread=record.thread,
            )
        )


def _lacks(record: Record, name: str) -> bool:
    value: Any = getattr(record, name)
    return value is None


def worst(findings: Sequence[Finding]) -> Severity | None:
    """Return the severity of the worst of them, None where there are none."""
    return max((one.severity for one in findings), key=lambda one: one.rank, default=None)


def closed_findings(closed: Iterable[Record]) -> list[Finding]:
    """Return one finding for each thread that has records which do not open."""
    by_thread: dict[str, list[int]] = {}
    for record in closed:
        by_thread.setdefault(record.thread, []).append(record.seq)
    return [
        Finding(
            severity=Severity.MAJOR,
            what=f"not to be opened: {damage.counted(len(seqs), 'record')} of thread {thread!r}: "
            f"{damage.numbers(ranges_of(seqs))}",
            seqs=ranges_of(seqs),
            thread=thread,
        )
        for thread, seqs in by_thread.items()
    ]
