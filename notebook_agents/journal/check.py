"""`journal check`: every invariant that store/FORMAT.md states, and both engines' own checks."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import JournalDamagedError, JournalError, JournalFormatError
from notebook_agents.journal import compacted, damage, heads, integrity, keycopy, mark
from notebook_agents.journal.inspection import (
    Finding,
    Inspection,
    Severity,
    closed_findings,
    ranges_of,
    worst,
)
from notebook_agents.journal.integrity import QUEUE, Seals
from notebook_agents.journal.queue_file import connect
from notebook_agents.journal.records import FORMAT, from_row, record_of
from notebook_agents.journal.sql import query
from notebook_agents.journal.store import Journal
from notebook_agents.journal.wrapped import FoundKeys, altered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from notebook_agents.journal.queue import Head, Queue

    Progress = Callable[[int, int], None]

_SLICE = 8192  # records of DuckDB that are read in one burst, so that others get their turn


@dataclass(slots=True, kw_only=True)
class Checked:
    """What a check found.

    Attributes:
        home: The journal's directory.
        opens: Whether the journal can be used as it is.
        records: How many records were looked at.
        threads: How many threads there are.
        locked: How many scopes' records could not be opened, because their key is not here.
        findings: What is wrong.
    """

    home: Path
    opens: bool = True
    records: int = 0
    threads: int = 0
    locked: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def severity(self) -> Severity | None:
        """How bad the worst of it is; None where nothing is wrong."""
        return worst(self.findings)

    @property
    def sound(self) -> bool:
        """Whether nothing of the history is damaged or lost."""
        return self.severity in (None, Severity.MINOR)


def check(home: Path, progress: Progress | None = None) -> Checked:
    """Look at everything in a journal; others may be using it.

    Args:
        home: The journal's directory.
        progress: Is told how many records were looked at, and of how many.

    Raises:
        NoJournalError: There is none.
        JournalFormatError: It is none, or one of a newer version, or looks like one and has no
            record that could tell.
        JournalBusyError: Another process has DuckDB open for itself.
    """
    result = Checked(home=home)
    try:
        with Journal.open(home, create=False, scheduled=False) as journal:
            before = None
            while before != journal.generation:  # it was compacted while it was looked at
                before, result.findings = journal.generation, []
                _look(journal, result, progress)
    except JournalDamagedError as error:
        result.opens = False
        result.findings.append(Finding(severity=Severity.MAJOR, what=_bare(error)))
    except JournalFormatError:
        what = _misnumbered(home)
        if what is None:
            raise
        result.opens = False
        result.findings.append(Finding(severity=Severity.MAJOR, what=what))
    result.findings += _beside(home)
    return result


def _bare(error: JournalDamagedError) -> str:
    """Return what an error says is damaged, without the sentence around it."""
    what = str(error).partition(" is damaged, ")[2].rpartition(": `notebook-agents")[0]
    return what or str(error)


def _misnumbered(home: Path) -> str | None:
    """Return what is wrong where only the number of a queue's format is that of a newer version.

    Records are sealed to their format. A version with another one seals its first record together
    with the new number, so that a newest record of ours means that the number is damaged.
    """
    with suppress(JournalError, sqlite3.DatabaseError, KeyError, TypeError, ValueError):
        if integrity.at_rest(home):
            return None
        with closing(connect(home / QUEUE, reads=True)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            journal_id = dict(connection.execute(query("queue.meta")).fetchall())["journal"]
            stored = dict(connection.execute(query("queue.keys")).fetchall())
            last = connection.execute(query("queue.last_seq")).fetchone()[0]
            newest = connection.execute(query("queue.batch"), {"after": last - 1, "limit": 1})
            records = [from_row(row) for row in newest]
        keys = FoundKeys(journal_id, stored, keycopy.read(home)[1])
        seals = Seals(journal_id, keys.key, keys.wrapped)
        if version > FORMAT and any(seals.whole(record) for record in records):
            return f"{QUEUE} says format {version}, and its newest record is of format {FORMAT}"
    return None


def _look(journal: Journal, result: Checked, progress: Progress | None) -> None:
    queue = journal.queue
    if trouble := queue.trouble(thorough=True):
        raise damage.found(journal.home, f"{QUEUE} fails its check ({trouble})")
    with queue.snapshot():  # of one moment: others may append, and delete threads
        recent = list(queue.every())
        all_heads, stored = queue.heads(), queue.keys()
        left_out = queue.compacted()
    first = recent[0].seq if recent else 1
    seals = Seals(journal.id, journal.stored_key, stored)
    inspection = Inspection(seals)
    for record in _older(journal, first, len(recent), progress):
        inspection.take(record)
    for record in recent:
        inspection.take(record)
    inspection.settle(queue.lost(), left_out)
    result.records = len(inspection.whole) + len(inspection.closed)
    result.threads = len(all_heads)
    result.locked = len(seals.locked & stored.keys())  # the others were deleted
    closed = inspection.closed.values()
    inspection.whole.insert(inspection.closed)
    result.findings += [*inspection.findings, *closed_findings(closed)]
    inspection.whole.insert_ranges(left_out)
    result.findings += _gaps(queue, inspection)
    result.findings += _heads(all_heads, inspection)
    result.findings += _keys(journal, seals, {head.scope for head in all_heads}, stored)


def _older(journal: Journal, before: int, recent: int, progress: Progress | None) -> Iterator[Any]:
    """Yield what only DuckDB has, in order and with payloads, a slice a burst."""
    with journal.burst() as connection:  # also where the queue has everything: does it open?
        rows = connection.execute(query("archive.watermarks")).fetchall()
        newest = int(connection.execute(query("archive.watermark")).fetchall()[0][0])
    marks = [int(row[0]) for row in rows]
    if marks != sorted(set(marks)):
        raise damage.found(journal.home, "DuckDB's watermarks are not in order")
    for low in range(1, before, _SLICE):
        high = min(low + _SLICE, before)
        with journal.burst() as connection:
            found = connection.execute(
                query("archive.slice"), {"low": low, "high": high}
            ).fetchall()
        for n, row in enumerate(found):
            if progress is not None and n % 256 == 0:
                progress(low + n, newest + recent)
            yield record_of(row, journal.home)


def _gaps(queue: Queue, inspection: Inspection) -> list[Finding]:
    """Return the numbers that are nowhere."""
    newest = inspection.whole.ranges[-1][1] if inspection.whole.ranges else 0
    missing = {seq for low, high in inspection.whole.gaps(newest) for seq in range(low, high + 1)}
    known = {seq for low, high in queue.lost() for seq in range(low, min(high, newest) + 1)}
    found = []
    if missing - known:
        ranges = ranges_of(missing - known)
        what = f"missing: {damage.records(ranges)}"
        found.append(Finding(severity=Severity.MAJOR, what=what, seqs=ranges))
    if known:
        ranges = ranges_of(known)
        what = f"lost before an earlier repair: {damage.records(ranges)}"
        found.append(Finding(severity=Severity.MINOR, what=what, seqs=ranges))
    return found


def _heads(all_heads: list[Head], inspection: Inspection) -> list[Finding]:
    """Compare heads and claims with the records."""
    found = []
    for thread, column in heads.differences(all_heads, inspection.implied).items():
        what = "is missing or has no records" if column == "head" else f"is wrong in {column}"
        found.append(
            Finding(
                severity=Severity.MAJOR, what=f"the head of thread {thread!r} {what}", thread=thread
            )
        )
    for head in all_heads:
        if not head.claim_whole:
            what = f"the claim on thread {head.thread!r} does not say whose it is"
            found.append(Finding(severity=Severity.MAJOR, what=what, thread=head.thread))
    return found


def _keys(
    journal: Journal, seals: Seals, scopes: set[str], stored: dict[str, bytes]
) -> list[Finding]:
    """Look at the keys of these scopes, as they are stored and as they are copied."""
    found = []
    for scope in scopes:
        seals.try_key(scope)
    if gone := journal.queue.keyless() & scopes:
        what = f"lost before an earlier repair: {damage.counted(len(gone), 'key')}"
        found.append(Finding(severity=Severity.MINOR, what=what))
    for scope in sorted(scopes - stored.keys() - gone):
        what = f"the key of scope {scope!r} is missing: nothing of it can be read"
        found.append(Finding(severity=Severity.MAJOR, what=what))
    broken = seals.broken | altered(journal.home, journal.id, stored)
    for scope in sorted(broken):
        what = f"the key of scope {scope!r} is altered: nothing of it can be read"
        found.append(Finding(severity=Severity.MAJOR, what=what))
    copied_id, copied = keycopy.read(journal.home)
    stored = {scope: key for scope, key in stored.items() if journal.wrapped_key(scope) == key}
    if (
        stored
        and not broken
        and (copied_id != journal.id or any(copied.get(s) != w for s, w in stored.items()))
    ):
        what = f"{keycopy.FILE} lacks keys: without {QUEUE} nothing of them could be read"
        found.append(Finding(severity=Severity.MINOR, what=what))
    return found


def _beside(home: Path) -> list[Finding]:
    """Look at the small files, and for what does not belong here."""
    found = []
    files = integrity.archives(home)
    there = (home / compacted.NOTE).exists()  # then whoever opens DuckDB next removes one
    for generation, path in files.items():
        if generation != max(files) and not there:
            what = f"{path.name} is left over from an older generation"
            found.append(Finding(severity=Severity.MINOR, what=what))
    if (home / QUEUE).exists() and mark.read(home) is None:
        what = f"{mark.FILE} is missing or damaged: until the next run some damage goes unnoticed"
        found.append(Finding(severity=Severity.MINOR, what=what))
    for name in (QUEUE, *(path.name for path in files.values())):
        path = home / name
        if path.exists() and os.name == "posix" and path.stat().st_mode & 0o077:
            what = f"{name} can be reached by others: chmod 600 it"
            found.append(Finding(severity=Severity.MINOR, what=what))
    return found
