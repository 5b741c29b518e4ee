"""Compactions that do not come to their end: killed, interrupted, out of room."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from test_compact import GONE, STAYS, files, grow, line, said, there
from test_journal import names

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.errors import JournalBusyError, JournalWriteError
from notebook_agents.faults import Fault
from notebook_agents.journal import Draft
from notebook_agents.journal.backup import backup, restore
from notebook_agents.journal.check import check
from notebook_agents.journal.compact import compact
from notebook_agents.journal.repair import repair
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.syscalls import Shim

FAULTS = [fault for fault in Fault if fault.name.startswith("COMPACT")]
CONFIG: Any = {"configurable": {"thread_id": "plain", "checkpoint_ns": ""}}


def put(journal: na.Journal, number: int, value: str) -> None:
    """Store a checkpoint of thread `plain` that has one value."""
    checkpoint: Any = {
        "v": 4,
        "ts": "",
        "id": f"{number:032}",
        "versions_seen": {},
        "channel_values": {"x": value},
        "channel_versions": {"x": number},
    }
    na.JournalSaver(journal).put(CONFIG, checkpoint, {}, {})


def got(journal: na.Journal) -> Any:
    """Return that value."""
    found = na.JournalSaver(journal).get_tuple(CONFIG)
    assert found is not None
    return found.checkpoint["channel_values"]["x"]


def fill(home: Path) -> None:
    """Make a journal: some deleted, one made anew, some pruned, some shared, the rest whole."""
    with na.Journal.open(home) as journal:
        grow(journal, STAYS, 1, 2)
        grow(journal, GONE, 1)
        grow(journal, "again", 1, 2, 3)
        journal.delete_thread("again")
        journal.ingest()
        grow(journal, "again", 4)
        put(journal, 1, line(1))
        put(journal, 2, line(2))
        grow(journal, "pruned", *range(5))
        na.JournalSaver(journal).copy_thread("again", "copy")
        na.JournalSaver(journal).prune(["pruned", "plain"])
        journal.delete_thread(GONE)
        journal.delete_thread("again")


def compacting(home: Path, at: Fault, act: Callable[[], None]) -> None:
    """Compact, and act at a fault point."""
    with na.Journal.open(home) as journal:
        faults.arm(lambda fault: act() if fault is at else None)
        try:
            compact(journal)
        finally:
            faults.arm(None)


def kill() -> None:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)


def whole(home: Path) -> None:
    """Check that a journal that was filled lacks nothing, can be gone on with, and be compacted."""
    with na.Journal.open(home, create=False) as journal:
        put(journal, 3, line(1))  # the value of a checkpoint that may be gone or may go
        assert grow(journal, "pruned", 5) == [line(n) for n in range(6)]
    with na.Journal.open(home) as journal:
        journal.ingest()
        assert got(journal) == line(1)
        assert grow(journal, STAYS) == [line(1), line(2)]
        assert grow(journal, "copy") == [line(4)]
    assert check(home).findings == []
    with na.Journal.open(home) as journal:
        assert compact(journal).erased
        assert files(home) == {f"journal.{journal.generation}.duckdb"}
        assert grow(journal, "pruned") == [line(n) for n in range(6)]
    assert there(home, [GONE.encode()]) == []
    assert check(home).findings == []


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_a_fault_point(home: Path, fault: Fault, dies: Callable[..., None]) -> None:
    """Nobody misses anything, nobody refers to what is gone, and it can be done again."""
    fill(home)
    dies(lambda: compacting(home, fault, kill))
    whole(home)


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_and_looked_at(home: Path, fault: Fault, dies: Callable[..., None]) -> None:
    """The first opening after the kill finds nothing wrong, with DuckDB or without."""
    fill(home)
    dies(lambda: compacting(home, fault, kill))
    assert check(home).findings == []
    with na.Journal.open(home) as journal:
        assert files(home) == {f"journal.{journal.generation}.duckdb"}


OTHER = {
    Fault.COMPACT_NOTED: ".compacting.journal.2.duckdb",
    Fault.COMPACT_RENAMED: "journal.2.duckdb",
    Fault.COMPACT_SWITCHED: "journal.1.duckdb",
}
"""The file that does not count where a compaction was killed."""


@pytest.mark.parametrize("fault", OTHER)
def test_killed_and_the_other_file_damaged(
    home: Path, fault: Fault, dies: Callable[..., None]
) -> None:
    """The file that does not count is not looked at."""
    fill(home)
    dies(lambda: compacting(home, fault, kill))
    (home / OTHER[fault]).write_bytes(b"nothing" * 4096)
    whole(home)


@pytest.mark.parametrize("fault", OTHER)
def test_killed_and_the_queue_lost(home: Path, fault: Fault, dies: Callable[..., None]) -> None:
    """A repair finds the living records, and brings back none of those that are gone."""
    fill(home)
    with na.Journal.open(home) as journal:
        last = journal.ingest()
    dies(lambda: compacting(home, fault, kill))
    (home / "queue.sqlite").unlink()
    made = repair(home)
    assert (made.sound, made.lost) == (True, [])
    with na.Journal.open(home) as journal:
        assert journal.newest() >= last
        assert journal.head(GONE) is None
    for path in [path for path in home.iterdir() if ".damaged-" in path.name]:
        path.unlink()
    whole(home)


@pytest.mark.parametrize("fault", [Fault.COMPACT_RENAMED, Fault.COMPACT_SWITCHED])
def test_killed_and_the_note_damaged(home: Path, fault: Fault, dies: Callable[..., None]) -> None:
    """The queue says which file counts; the other one is left, and named."""
    fill(home)
    dies(lambda: compacting(home, fault, kill))
    (home / "compact.json").write_bytes(b"nothing")
    with na.Journal.open(home) as journal:
        assert compact(journal).generation == 3
        assert grow(journal, STAYS) == [line(1), line(2)]
    left = {Fault.COMPACT_RENAMED: "journal.2.duckdb", Fault.COMPACT_SWITCHED: "journal.1.duckdb"}
    assert files(home) == {"journal.3.duckdb", left[fault]}
    assert [left[fault] in finding.what for finding in check(home).findings] == [True]


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("fault", [Fault.COMPACT_RENAMED, Fault.COMPACT_SWITCHED])
def test_killed_and_restored(
    home: Path, fault: Fault, newer: bool, dies: Callable[..., None]
) -> None:
    """A backup from before takes the place of both files."""
    fill(home)
    made = backup(home)
    dies(lambda: compacting(home, fault, kill))
    report = restore(made.path, home, newer=newer)
    assert report.gap is None
    shutil.rmtree(home / "backups")
    for path in [path for path in home.iterdir() if ".replaced-" in path.name]:
        path.unlink()
    whole(home)


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("fault", FAULTS)
def test_ended_by_ctrl_c(home: Path, fault: Fault, mode: Any) -> None:
    """The same journal object goes on, with one file; nothing half made is left."""
    fill(home)

    def fail() -> None:
        raise KeyboardInterrupt

    with na.Journal.open(home, mode) as journal:
        faults.arm(lambda at: fail() if at is fault else None)
        try:
            with pytest.raises(KeyboardInterrupt):
                compact(journal)
        finally:
            faults.arm(None)
        journal.ingest()
        assert grow(journal, STAYS) == [line(1), line(2)]
        generation = journal.generation
    assert files(home) == {f"journal.{generation}.duckdb"}
    whole(home)


FULL = """
import errno, os, pathlib, shutil
from notebook_agents.errors import JournalWriteError
from notebook_agents.journal import Journal
from notebook_agents.journal.check import check
from notebook_agents.journal.compact import compact
from support.syscalls import fail, mend, room
from test_compact import files
from test_compact_kills import fill, whole
home = pathlib.Path(os.environ["NA_ROOT"])
fill(home)
kept = home.with_name("kept")
shutil.copytree(home, kept)
for number, trouble in enumerate((
    lambda: room(0),
    lambda: room(30_000),
    lambda: room(90_000),
    lambda: fail("write", ".compacting.", errno.ENOSPC, skip=2),
    lambda: fail("sync", ".compacting.", errno.EIO),
    lambda: fail("rename", "journal.2.duckdb", errno.EIO),
    lambda: fail("create", "compact.json", errno.ENOSPC),
    lambda: fail("write", "queue.sqlite", errno.ENOSPC),
    lambda: fail("unlink", "journal.1.duckdb", errno.EIO),
)):
    with Journal.open(home) as journal:
        journal.ingest()
        trouble()
        try:
            compact(journal)
            print("compacted")
        except JournalWriteError as error:
            print("refused")
        mend()
        assert not list(home.glob(".compacting*")), number
        journal.ingest()
        assert files(home) == {f"journal.{journal.generation}.duckdb"}, (number, files(home))
    whole(home)
    shutil.rmtree(home)
    shutil.copytree(kept, home)
"""


def test_out_of_room_or_on_a_failing_disk(home: Path, shim: Shim) -> None:
    """It is refused in one sentence, what it began is removed, and it can be done afterwards."""
    assert shim.run(FULL, home).split().count("refused") >= 7


def test_without_room_it_does_not_begin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others would meet the full disk, too."""
    fill(home)
    total = shutil.disk_usage(home)
    with na.Journal.open(home) as journal, monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: total._replace(free=100))
        with pytest.raises(JournalWriteError, match=r"no room to compact.* 100 are free"):
            compact(journal)
        assert compact(journal, dry_run=True).dry_run
    whole(home)


def test_two_at_once(
    home: Path, forked: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits, and names who compacts if that takes too long."""
    fill(home)
    monkeypatch.setattr("notebook_agents.journal.compact._WAIT_SECONDS", 0.0)
    ended: list[int] = []

    def second() -> None:
        with na.Journal.open(home) as other, pytest.raises(JournalBusyError) as refused:
            compact(other)
        assert f"process {os.getppid()} is compacting" in str(refused.value)

    with na.Journal.open(home) as journal:
        compact(journal, progress=lambda *_: ended or ended.append(forked(second)))
    assert ended == [0]
    whole(home)


def test_a_run_goes_on_while_others_compact(home: Path, forked: Callable[..., int]) -> None:
    """What a driver may refer to stays: pruned, deleted and compacted in the middle of its run."""
    fill(home)

    def elsewhere() -> None:
        with na.Journal.open(home) as other:
            other.delete_thread("copy")
            assert compact(other).generation == 2

    with na.Journal.open(home) as journal:
        chunk = Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"\0x", digest=b"x" * 16)
        claim = na.journal.records.Claim(agent="a", run=1, session=1, notebook=None)
        start = Draft(kind=Kind.RUN_STARTED, thread="t", scope="t", run=1, name="a", claim=claim)
        start.attempt, start.digest = 1, b"d" * 16
        journal.append([start, chunk], durable=True)
        assert forked(elsewhere) == 0
        journal.append([said("step", token=claim.token, refs=[chunk])], durable=True)
        assert journal.payload(chunk.seq) == b"\0x"
        assert compact(journal).generation == 3
        assert journal.payload(chunk.seq) == b"\0x"
        assert names(journal)[-1] == "step"


def test_who_follows_sees_each_record_that_stays(home: Path) -> None:
    """Numbers that a compaction took out are passed over, whether or not they were seen."""
    fill(home)
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        followed = journal.follow(since=0, seconds=0)
        seen = [next(followed).seq]
        compact(other)
        seen += [record.seq for record in followed]
        living = [record.seq for record in journal.select()]
        assert set(living) <= set(seen)
        assert seen == sorted(set(seen))
        other.append([said("new")], durable=True)
        assert [r.name for r in journal.follow(since=seen[-1], seconds=0)] == ["new"]
        assert [r.seq for r in journal.follow(since=0, seconds=0)] == [*living, journal.newest()]


def test_a_backup_from_before_that_newer_records_cannot_be_put_behind(home: Path) -> None:
    """Some that came in between are gone: the restore says that the newer ones are given up."""
    with na.Journal.open(home) as journal:
        grow(journal, STAYS, 1)
    made = backup(home)
    with na.Journal.open(home) as journal:
        grow(journal, GONE, 1)
        journal.delete_thread(GONE)
        compact(journal)
        journal.append([said("newer")], durable=True)
    report = restore(made.path, home, newer=True)
    assert report.replayed == 0
    assert report.gap is not None
    assert report.given_up["t"] == 1
    assert check(home).findings == []
