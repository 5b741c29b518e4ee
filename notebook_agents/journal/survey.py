"""What is left of a damaged journal: both files read as far as they can be, record by record.

A survey changes nothing. `check` shows what it finds, `repair` builds on it.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from notebook_agents.journal import compacted, damage, integrity, keycopy, lineage, mark
from notebook_agents.journal.inspection import Finding, Inspection, Numbers, Severity, ranges_of
from notebook_agents.journal.integrity import Seals
from notebook_agents.journal.remains import ArchiveRemains, QueueRemains, read_queue
from notebook_agents.journal.wrapped import FoundKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from notebook_agents.journal.backup_files import Backup
    from notebook_agents.journal.records import Record

_ID = re.compile(r"[a-z2-7]{26}")
_LEAP = 1_000_000
"""A number that is further behind the newest record than this is itself damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A record that is nowhere.

    Attributes:
        seq: Its number.
        thread: Whose it was, where that can still be read.
        kind: What it was, where that can still be read.
    """

    seq: int
    thread: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """Records that there may have been, of which nothing is left to tell.

    Attributes:
        first: The first number that one can have had.
        last: The last one; None where nothing says how far the queue had come.
        driven: The threads that were being driven as far as is known; any other may be meant too.
    """

    first: int
    last: int | None = None
    driven: tuple[str, ...] = ()

    def words(self) -> str:
        """Return what is known of them."""
        whose = "of any thread"
        if self.driven:
            whose += f", first of those being driven ({', '.join(map(repr, self.driven))})"
        if self.last is not None:
            which = damage.records([(self.first, self.last)])
            return f"may be lost: {which}, {whose}; not synced when the host or its disk failed"
        return (
            f"may be lost: records from {self.first} on, {whose}; how many cannot be known, "
            f"{mark.FILE} does not tell"
        )


@dataclass(slots=True)
class Survey:
    """What is left of a journal.

    Attributes:
        home: Its directory.
        journal_id: Its id; None where nothing says it.
        generation: The number of the DuckDB file that was read.
        queue: What is left of the queue.
        archive: What is left of that file.
        keys: The data keys.
        inspection: What the records say.
        expected: The newest number that there was.
        lost: The records that are nowhere and were not known to be lost.
        unnamed: Of threads whose heads count more records than there are and than `lost` names as
            theirs: how many more.
        beyond: What may be lost behind `expected`; None where nothing can be.
        findings: What is wrong.
        archive_whole: Whether that file opens and is this journal's.
        backup: A backup whose records are taken where those of the journal are not whole.
        given: The newest number that is known without the backup; None where there is no backup.
        until: The first number from which the backup is of another history, and does not take part;
            None where it is of this one, as far as the two say.
        one_history: Whether the two have the same records, where both have one.
        brought: How many records only the backup has.
        left_out: The numbers that compactions left out: no backup brings them back.
    """

    home: Path
    journal_id: str | None
    generation: int
    queue: QueueRemains
    archive: ArchiveRemains
    keys: FoundKeys
    inspection: Inspection
    expected: int = 0
    lost: list[Lost] = field(default_factory=list)
    unnamed: dict[str, int] = field(default_factory=dict)
    beyond: Beyond | None = None
    findings: list[Finding] = field(default_factory=list)
    archive_whole: bool = False
    backup: Backup | None = None
    backup_queue: QueueRemains = field(default_factory=QueueRemains)
    backup_archive: ArchiveRemains | None = None
    given: int | None = None
    until: int | None = None
    one_history: bool = True
    brought: int = 0
    left_out: compacted.Ranges = field(default_factory=list)

    def records(self) -> Iterator[Record]:
        """Yield each version of each record of all files, in the order of their numbers."""
        parts = [*_records(self.queue, self.archive), *self._backups_records()]
        merged = heapq.merge(
            *parts, key=lambda record: record.seq
        )  # of equals the first come first
        return (one for one in merged if not compacted.within(self.left_out, one.seq))

    def _backups_records(self) -> list[Iterator[Record]]:
        if self.backup_archive is None:
            return []
        parts = _records(self.backup_queue, self.backup_archive)
        if self.until is None:
            return parts
        before = self.until
        return [(record for record in part if record.seq < before) for part in parts]

    def branches(self) -> lineage.Branches:
        """Return the branches that its records are of."""
        theirs = self.backup_queue.branches
        before = [one for one in theirs if self.until is None or one[0] < self.until]
        given = [one for one in self.queue.branches if self.given is None or one[0] <= self.given]
        return [*given, *before]

    def compare(self) -> None:
        """See whether the backup is of this history: after a restore a journal may go on anew."""
        if self.backup is None:
            return
        backups = heapq.merge(*self._backups_records(), key=lambda record: record.seq)
        last: Record | None = None
        for record in heapq.merge(self.kept(), backups, key=lambda record: record.seq):
            if last is not None and last.seq == record.seq and last.payload != record.payload:
                self.one_history = False
                return
            last = record

    def close(self) -> None:
        """Close the DuckDB files."""
        self.archive.close()
        if self.backup_archive is not None:
            self.backup_archive.close()

    def kept(self) -> Iterator[Record]:
        """Yield each record that is whole, once, in order."""
        last = 0
        for record in self.records():
            if record.seq <= last or record.seq not in self.inspection.whole:
                continue
            if (
                record.seq in self.inspection.gone
                or self.inspection.seals.whole(record) is not False
            ):
                last = record.seq
                yield record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _records(queue: QueueRemains, archive: ArchiveRemains) -> list[Iterator[Record]]:
    return [
        (record for low, high in archive.ranges() for record in archive.records(low, high)),
        (one for _, versions in sorted(queue.records.items()) for one in versions),
    ]


def survey(
    home: Path,
    progress: Callable[[int, int], None] | None = None,
    backup: Backup | None = None,
    *,
    given: int | None = None,
) -> Survey:
    """Read what is left of the journal in `home`; nobody may have it open.

    Args:
        home: The directory.
        progress: Is told how many records were looked at, and of how many.
        backup: A backup of it that takes part.
        given: The newest number that is known without the backup.
    """
    said = mark.read(home)
    copied_id, copied = keycopy.read(home)
    files = integrity.archives(home)
    queue = read_queue(home)
    generation = _generation(queue, files)
    archive = ArchiveRemains(home / f"journal.{generation}.duckdb")
    saved = QueueRemains() if backup is None else read_queue(backup.path)
    journal_id = _journal_id(
        said,
        copied_id,
        queue.meta.get("journal"),
        archive.journal,
        None if backup is None else backup.journal,
    )
    keys = FoundKeys(journal_id or "", queue.keys, copied, saved.keys)
    found = Survey(
        home=home,
        journal_id=journal_id,
        generation=generation,
        queue=queue,
        archive=archive,
        keys=keys,
        inspection=Inspection(Seals(journal_id or "", keys.key, keys.wrapped)),
        backup=backup,
        backup_queue=saved,
        backup_archive=None if backup is None else ArchiveRemains(backup.archive),
        left_out=compacted.joined(queue.compacted, archive.compacted),
        given=given,
    )
    if given is not None and "journal" in queue.meta and "journal" in saved.meta:
        found.until = lineage.parting(queue.branches, saved.branches, given)
    _look(found, progress)
    _count(found, said)
    found.compare()
    return found


def _generation(queue: QueueRemains, files: dict[int, Path]) -> int:
    try:
        said = int(queue.meta["generation"])
    except (KeyError, TypeError, ValueError):
        said = 0
    if said in files or not files:
        return said or 1
    return max(files)


def _journal_id(said: mark.Mark | None, *told: Any) -> str | None:
    """Return the id that the mark confirms, else one that looks like one."""
    likely = [one for one in told if isinstance(one, str) and _ID.fullmatch(one)]
    for one in likely:
        if said is not None and mark.names(said, one):
            return one
    return max(likely, key=likely.count, default=None)


def _look(found: Survey, progress: Callable[[int, int], None] | None) -> None:
    """Look at each record; of one that both files have, at the other where the first is damaged."""
    inspection = found.inspection
    archive_rows = 0 if found.archive.connection is None else found.archive.extent()
    total = archive_rows + len(found.queue.records)
    for done, record in enumerate(found.records(), start=1):
        if progress is not None and done % 256 == 0:
            progress(done, total)
        if record.seq in inspection.whole:
            continue  # the other file has it too
        if inspection.take(record):
            inspection.closed.pop(record.seq, None)
    inspection.settle(found.queue.lost, found.left_out)
    if progress is not None:
        progress(total, total)


def _count(found: Survey, said: mark.Mark | None) -> None:
    """Say what is missing."""
    whole = found.inspection.whole
    newest = whole.ranges[-1][1] if whole.ranges else 0
    told = said.committed if said is not None and said.tells else None
    ends = [head.get("last_seq") for head in found.queue.heads.values()]
    # A head is not sealed: it says nothing beyond what the mark says.
    most = newest + _LEAP if told is None else told
    sane = [one for one in ends if isinstance(one, int) and one <= most]
    rows = 0 if found.archive.connection is None else found.archive.extent()
    if found.archive.mark <= newest + rows + _LEAP:
        sane.append(found.archive.mark)
    if said is not None:
        sane.append(integrity.must_reach(found.home, said))
    found.expected = max([newest, *sane])
    if told is None or told > found.expected:
        heads = found.queue.heads.items()
        driven = sorted(thread for thread, head in heads if head.get("driver_pid") is not None)
        found.beyond = Beyond(first=found.expected + 1, last=told, driven=tuple(driven))
    known = Numbers()
    known.insert_ranges(compacted.joined(found.queue.lost, found.left_out))
    missing = [
        seq
        for low, high in whole.gaps(found.expected)
        for seq in range(low, high + 1)
        if seq not in known
    ]
    named = found.archive.named(missing)
    for seq in missing:
        thread, kind = named.get(seq, (None, None))
        if (closed := found.inspection.closed.get(seq)) is not None:
            # What made it unreadable may be just this column: a thread that is known, or none.
            known_thread = closed.thread in found.inspection.implied
            thread, kind = closed.thread if known_thread else None, str(closed.kind)
        found.lost.append(Lost(seq=seq, thread=thread, kind=kind))
    if missing:
        found.unnamed = _unnamed(found)
    found.archive_whole = (
        found.archive.connection is not None
        and found.archive.trouble is None
        and found.archive.journal == found.journal_id
    )


def _unnamed(found: Survey) -> dict[str, int]:
    """Return how many records more the heads count than came back or are named, by thread."""
    named = Counter(one.thread for one in found.lost)
    result = {}
    for thread, head in found.queue.heads.items():
        one = found.inspection.implied.get(thread)
        if one is not None and one.deleted:
            continue  # an older version of the file still has its head
        counted = head.get("records")
        there = named[thread] + (0 if one is None else one.records)
        if isinstance(counted, int) and there < counted <= found.expected:
            result[thread] = counted - there
    return result


def lost_findings(
    lost: list[Lost], unnamed: dict[str, int], beyond: Beyond | None
) -> list[Finding]:
    """Return what is lost as findings: by thread, then what cannot be told."""
    by_thread: dict[str | None, list[int]] = {}
    for one in lost:
        by_thread.setdefault(one.thread, []).append(one.seq)
    found = []
    for thread, seqs in by_thread.items():
        whose = f"of thread {thread!r}" if thread is not None else "of a thread not known"
        found.append(
            Finding(
                severity=Severity.MAJOR,
                what=f"lost: {damage.counted(len(seqs), 'record')} {whose}: "
                f"{damage.numbers(ranges_of(seqs))}",
                seqs=ranges_of(seqs),
                thread=thread,
            )
        )
    found += [
        Finding(
            severity=Severity.MAJOR,
            what=f"thread {thread!r} lacks {count} of its records",
            thread=thread,
        )
        for thread, count in unnamed.items()
    ]
    if beyond is not None:
        found.append(Finding(severity=Severity.MAJOR, what=beyond.words()))
    return found
