"""What has to hold after any damage: all is there, or it is refused and what is gone is named."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal import Journal, damage
from notebook_agents.journal.check import check
from notebook_agents.journal.inspection import Severity
from notebook_agents.journal.repair import repair
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Content:
    """Everything that a journal says."""

    records: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    threads: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def read(home: Path) -> Content:
    """Open a journal and read all of it, as anybody would."""
    content = Content()
    with Journal.open(home, create=False) as journal:
        for info in journal.threads():
            content.threads[info.thread] = (info.agent, info.status, info.run)
        records = journal.select()
        # Of a deleted thread the records are there, and stay closed.
        keyed = {scope for scope in {one.scope for one in records} if journal.wrapped_key(scope)}
        plain = journal.payloads([one.seq for one in records if one.scope in keyed])
        for one in records:
            columns = (one.ts, one.kind, one.thread, one.scope, one.run, one.ns, one.step)
            more = (one.parent, one.name, one.attempt, one.ref, one.prior, one.digest, one.refs)
            content.records[one.seq] = (*columns, *more, one.size, plain.get(one.seq))
        for thread in content.threads:
            found = {one.seq for one in journal.select(thread=thread)}
            assert found <= content.records.keys()
    return content


@dataclass(frozen=True)
class Verdict:
    """What became of a damaged journal.

    Attributes:
        noticed: Whether it was refused.
        lost: How many records did not come back.
        records: How many there were.
    """

    noticed: bool
    lost: int
    records: int


def judge(original: Path, content: Content, spoil: Callable[[Path], object], work: Path) -> Verdict:
    """Spoil a copy of a journal, read it, repair it; check what has to hold.

    Args:
        original: The journal.
        content: What is in it.
        spoil: Damages the copy that it is given.
        work: A directory for the copy; it is removed.

    Raises:
        AssertionError: Something was lost silently.
    """
    home = work / "copy"
    shutil.copytree(original, home)
    try:
        spoil(home)
        spoilt = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
        try:
            found = read(home)
        except JournalDamagedError as error:
            assert damage.repair_command(home) in str(error), error
            assert "\n" not in str(error)
        else:
            assert found == content, f"silently different: {_difference(content, found)}"
            return Verdict(noticed=False, lost=0, records=len(content.records))
        # DuckDB folds its own log back when it opens a file in which it finds nothing wrong yet.
        later = {path.name: path.read_bytes() for path in home.glob("journal.*.duckdb*")}
        return _repair(home, content, spoilt | later)
    finally:
        shutil.rmtree(home)


def _repair(home: Path, content: Content, spoilt: dict[str, bytes]) -> Verdict:
    assert not check(home).sound
    planned = repair(home, dry_run=True)
    assert planned.rungs
    done = repair(home)
    assert done.sound, done.findings
    for name in done.aside:
        before = name.partition(".damaged-")[0]
        assert (home / name).read_bytes() == spoilt[before], f"{before} was changed"
    if done.severity is Severity.CATASTROPHIC:  # the keys are gone: what is there stays closed
        assert not done.complete
        return Verdict(noticed=True, lost=len(content.records), records=len(content.records))
    found = read(home)
    missing = content.records.keys() - found.records.keys()
    restored = {  # a thread is not deleted any more where its deletion is what was lost
        content.records[seq][2] for seq in missing if content.records[seq][1] is Kind.DELETION
    }
    for seq, record in found.records.items():
        if record[2] not in restored:
            assert record == content.records.get(seq), f"record {seq} is another one"
    named = {one.seq for one in done.lost}
    told = f"lost {sorted(missing)}, named {sorted(named)}, beyond {done.beyond}"
    assert named <= missing, told
    for seq in missing - named:
        assert done.beyond is not None, told
        assert done.beyond.first <= seq <= (done.beyond.last or seq), told
    assert done.complete or missing or done.beyond is not None, told
    for one in done.lost:
        assert one.thread in (None, content.records[one.seq][2])
    if not missing:
        assert found.threads == content.threads
    again = repair(home)
    assert not [rung for rung in again.rungs if rung.name != "refresh"], again.rungs
    return Verdict(noticed=True, lost=len(missing), records=len(content.records))


def _difference(one: Content, other: Content) -> str:
    gone = sorted(one.records.keys() - other.records.keys())
    other_ones = [seq for seq in other.records if other.records[seq] != one.records.get(seq)]
    threads = {
        name: (said, other.threads.get(name))
        for name, said in one.threads.items()
        if other.threads.get(name) != said
    }
    return f"records {gone} gone, {other_ones} other ones, threads {threads}"
