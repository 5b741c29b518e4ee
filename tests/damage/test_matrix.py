"""Every file of a journal, spoilt page by page: nothing is ever lost silently."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import duckdb
import pytest
from crash.processes import fork

import notebook_agents as na
from damage import harm, oracle, specimens
from notebook_agents import faults
from notebook_agents.errors import JournalBusyError, JournalDamagedError
from notebook_agents.faults import Fault
from notebook_agents.journal import keycopy, locks, mark, unsynced
from notebook_agents.journal.backup import backup, restore
from notebook_agents.journal.check import check
from notebook_agents.journal.repair import repair

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = 3
"""Damages to one file of one specimen in the suite; `python -m tests.damage` has no end."""
CASES = [
    ("closed", "queue.sqlite"),
    ("closed", "journal.1.duckdb"),
    ("closed", "queue.mark"),
    ("closed", "keys.copy"),
    ("killed", "queue.sqlite"),
    ("killed", "queue.sqlite-wal"),
    ("killed_early", "queue.sqlite-wal"),
    ("killed_in_burst", "journal.1.duckdb.wal"),
    ("killed_in_burst", "queue.sqlite-wal"),
    ("killed_after_burst", "journal.1.duckdb.wal"),
    ("deleting", "queue.sqlite-wal"),
]


@pytest.mark.parametrize(("name", "file"), CASES, ids=lambda part: part)
def test_a_file_spoilt_page_by_page(shelf, tmp_path, name, file):
    """All is read back, or it is refused, repaired, and exactly what is gone is named."""
    home, content = shelf(name)
    dice = random.Random(4)
    every = list(harm.each_page(home, file, dice))
    missing = every.pop()
    for spoilt in [*dice.sample(every, min(SAMPLE, len(every))), missing]:
        oracle.judge(home, content, spoilt.do, tmp_path)


def test_a_flipped_bit_in_the_log_costs_one_record_at_most(shelf, tmp_path):
    """SQLite drops every commit behind it; a repair brings them back."""
    home, content = shelf("killed")
    frames = harm.pages(home, "queue.sqlite-wal")[1:]
    for at, _ in random.Random(2).sample(frames, 4):
        spoilt = harm.Harm("queue.sqlite-wal", "flip", at + 300, 5)
        verdict = oracle.judge(home, content, spoilt.do, tmp_path)
        assert verdict.noticed
        assert verdict.lost <= 1


@pytest.mark.parametrize("name", ["closed", "killed"])
def test_nothing_is_lost_with_the_queue_where_its_keys_are_copied(shelf, tmp_path, name):
    """Without queue.sqlite comes back what DuckDB has, and what is in the queue's log."""
    home, content = shelf(name)
    spoilt = harm.Harm("queue.sqlite", "missing")
    verdict = oracle.judge(home, content, spoilt.do, tmp_path)
    with duckdb.connect(str(home / "journal.1.duckdb"), read_only=True) as connection:
        (archived,) = connection.execute("SELECT count(*) FROM records").fetchone()
    assert verdict.lost == (0 if name == "killed" else len(content.records) - archived)


def test_without_the_queue_and_the_copy_of_its_keys_it_is_catastrophic(copy):
    """Records that nobody can open are kept for the day on which the keys come back."""
    home = copy("closed")
    for name in ("queue.sqlite", "keys.copy"):
        (home / name).unlink()
    done = repair(home)
    assert done.severity == "catastrophic"
    assert not done.complete
    assert _rows(home) == done.records > 0


def _rows(home: Path) -> int:
    """Count a journal's records without opening any."""
    with na.Journal.open(home, create=False) as journal:
        return len(journal.select())


# -- files of different times ------------------------------------------------------------------


def _later(home: Path, *, ingest: bool) -> None:
    with na.Journal.open(home) as journal:
        specimens._work(journal, 3)
        if ingest:
            journal.ingest()


def _mixed(new: Path, old: Path, files: tuple[str, ...]) -> None:
    for name in files:
        shutil.copy(old / name, new / name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("journal.1.duckdb",), "older than queue.sqlite"),
        (("queue.sqlite",), "not as it was"),
        (("queue.sqlite", "queue.mark"), "older than its DuckDB file"),
    ],
    ids=["older DuckDB", "older queue", "older queue and mark"],
)
def test_files_of_different_times(copy, files, words):
    """Of a file that was put back to an older state the missing numbers are named."""
    old, new = copy("closed", "old"), copy("closed", "new")
    _later(new, ingest=True)
    content = oracle.read(_copied(new))
    _mixed(new, old, files)
    with pytest.raises(JournalDamagedError, match=words) as caught:
        oracle.read(new)
    assert f"journal repair {new}" in str(caught.value)
    done = repair(new)
    found = oracle.read(new)
    missing = content.records.keys() - found.records.keys()
    assert {one.seq for one in done.lost} == missing
    assert bool(missing) == (files == ("journal.1.duckdb",))


def _copied(home: Path) -> Path:
    target = home.with_name(f"{home.name}-copied")
    shutil.copytree(home, target)
    return target


def test_an_older_queue_of_a_killed_process(copy, tmp_path):
    """The mark says how far the queue had come, also when its last user was killed."""
    old, new = copy("closed", "old"), copy("closed", "new")

    def work() -> None:
        specimens._work(na.Journal.open(new), 3)
        os.kill(os.getpid(), signal.SIGKILL)

    fork(work, tmp_path / "log").end()
    (new / "queue.sqlite-wal").unlink()
    _mixed(new, old, ("queue.sqlite",))
    before = mark.read(old).committed
    with pytest.raises(JournalDamagedError, match=rf"newest records \({before + 1}–"):
        na.Journal.open(new)
    assert repair(new).lost[0].seq == before + 1


def test_a_whole_directory_put_back_is_not_noticed(copy):
    """What ARCHITECTURE.md says cannot be noticed: everything is older, and agrees."""
    assert check(copy("closed")).sound


def test_a_stale_generation(copy):
    """A queue that names a DuckDB file that is not there does not begin a new history."""
    home = copy("closed")
    (home / "journal.1.duckdb").rename(home / "journal.2.duckdb")
    with pytest.raises(JournalDamagedError, match=r"journal\.1\.duckdb is missing"):
        na.Journal.open(home)
    done = repair(home)
    assert done.sound
    assert done.complete


# -- backups -----------------------------------------------------------------------------------


def _backed_up(home: Path) -> oracle.Content:
    """Back a journal up, go on with it, and return what is in it then."""
    backup(home)
    _later(home, ingest=True)
    return oracle.read(_copied(home))


def test_what_is_lost_comes_back_from_a_backup_and_the_rest_stays(copy):
    """Only records that are nowhere else are taken from it; newer ones are not given up for it."""
    home = copy("closed")
    content = _backed_up(home)
    with duckdb.connect(str(home / "journal.1.duckdb")) as connection:
        connection.execute("DELETE FROM records WHERE seq IN (3, 7, 8)")
    done = repair(home)
    assert [rung.name for rung in done.rungs] == ["rebuild", "backup"]
    assert done.rungs[1].did.startswith("3 records came from")
    assert done.complete
    assert oracle.read(home) == content
    assert check(home).findings == []


def test_a_journal_of_which_nothing_is_left_is_its_backup(copy):
    """Where no file can be read there is what was backed up, and no record of it is lost."""
    home = copy("closed")
    content = oracle.read(_copied(home))
    backup(home)
    for path in home.iterdir():
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    repair(home)
    assert oracle.read(home) == content


def test_a_backup_of_another_history_is_not_mixed_in(copy):
    """After a restore without newer records numbers are given again: what is older is taken."""
    home = copy("closed")
    early = backup(home)
    _later(home, ingest=True)
    late = backup(home)
    restore(early.path, home, newer=False)
    _later(home, ingest=True)
    with duckdb.connect(str(max(home.glob("journal.*.duckdb")))) as connection:
        connection.execute("DELETE FROM records WHERE seq = ?", [early.last + 2])
        connection.execute("DELETE FROM records WHERE seq = 3")
    done = repair(home)
    assert done.sound
    assert [one.seq for one in done.lost] == [early.last + 2]
    assert done.rungs[1].did == f"1 record came from {late.path}"
    assert late.last > early.last + 2


def test_a_repaired_journal_with_losses_is_backed_up_and_restored(copy):
    """The numbers that a repair found nowhere are known to a backup and after a restore."""
    home = copy("closed")
    early = backup(home)
    shutil.move(early.path, home.with_name("elsewhere"))
    _later(home, ingest=False)
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute("DELETE FROM records WHERE seq = ?", [early.last + 2])
    done = repair(home)
    assert [one.seq for one in done.lost] == [early.last + 2]
    content = oracle.read(_copied(home))
    late = backup(home)
    for made in (home.with_name("elsewhere"), late.path):
        report = restore(made, home, newer=True)
        assert report.complete
        assert oracle.read(home) == content
        assert check(home).sound


@pytest.mark.parametrize("name", ["closed", "killed"])
def test_a_restored_journal_is_whole(copy, name):
    """Its mark and the copy of its keys are those of what was restored; nothing is found in it."""
    home = copy(name)
    made = backup(home)
    content = oracle.read(_copied(home))
    with na.Journal.open(home) as journal:
        journal.delete_thread("counter-1")
    restore(made.path, home, newer=False)
    assert oracle.read(home) == content
    assert check(home).findings == []
    assert keycopy.read(home)[1].keys() >= {"counter-1"}


def test_a_restore_ends_a_repair_that_was_killed(copy, tmp_path):
    """What the repair would have renamed is not renamed over what was restored."""
    home = copy("closed")
    made = backup(home)
    content = oracle.read(_copied(home))
    harm.Harm("queue.sqlite", "flip", 2000, 1).do(home)

    def mend() -> None:
        sys.addaudithook(lambda event, given: event == "os.rename" and _die_after(str(given[1])))
        repair(home)

    def _die_after(name: str) -> None:
        if ".damaged-" in name:
            os.kill(os.getpid(), signal.SIGKILL)

    assert fork(mend, tmp_path / "log").end() == -signal.SIGKILL
    assert (home / "repair.json").exists()
    restore(made.path, home, newer=True)
    assert oracle.read(home) == content
    assert repair(home).rungs == []


def test_a_deleted_key_does_not_stay_in_the_copy(copy, tmp_path, monkeypatch):
    """Not after a kill between the two, and not after a repair that had it from a backup."""
    home = copy("closed")
    backup(home)

    def work() -> None:
        monkeypatch.setattr(keycopy, "drop", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        na.Journal.open(home).delete_thread("counter-1")

    assert fork(work, tmp_path / "log").end() == -signal.SIGKILL
    assert "counter-1" in keycopy.read(home)[1]
    with na.Journal.open(home) as journal:
        assert "counter-1" not in keycopy.read(home)[1]
        journal.ingest()
    with duckdb.connect(str(home / "journal.1.duckdb")) as connection:
        connection.execute("DELETE FROM records WHERE seq = 30")
    done = repair(home)
    assert done.complete
    assert [rung.name for rung in done.rungs] == ["rebuild", "backup"]
    assert "counter-1" not in keycopy.read(home)[1]
    with na.Journal.open(home) as journal:
        assert journal.wrapped_key("counter-1") is None
        assert journal.head("counter-1") is None


def test_a_process_in_a_container_starts_no_host(copy, monkeypatch):
    """What another PID namespace of the same boot committed must be there, synced or not."""
    home = copy("killed")
    boot = locks.boot_id().partition("/")[0]
    for seen in ("1", "2"):
        monkeypatch.setattr(locks, "boot_id", lambda seen=seen: f"{boot}/{seen}")
        assert mark.read(home).same_boot
    monkeypatch.setattr(locks, "boot_id", lambda: "another/1")
    assert not mark.read(home).same_boot


def test_what_a_failed_sync_dropped_is_no_damage(copy, shelf):
    """It was committed and never acknowledged as durable: the journal goes on with what is read."""
    home = copy("killed")
    _, content = shelf("killed")
    last = max(content.records)
    with na.Journal.open(copy("killed", "other"), create=False) as journal:
        name = journal.id
    marker = mark.Marker(home, journal_id=name, newest=last, generation=1)
    marker.synced(last)
    marker.committed(last + 2)
    marker.close()
    with pytest.raises(JournalDamagedError, match="lacks its newest records"):
        na.Journal.open(home)
    unsynced.mark(home)
    assert oracle.read(home) == content
    assert not unsynced.marked(home)
    assert oracle.read(home) == content
    assert check(home).findings == []


# -- bursts ------------------------------------------------------------------------------------

_BURST = [fault for fault in Fault if fault.startswith("ingest.")]


@pytest.mark.parametrize("fault", _BURST)
def test_a_killed_burst(copy, shelf, tmp_path, fault):
    """Wherever a burst is killed, the journal opens afterwards with everything in it.

    `python -m tests.damage --bursts` kills it at each of its system calls.
    """
    _, content = shelf("killed")
    home = copy("killed")

    def burst() -> None:
        journal = na.Journal.open(home)
        faults.arm(lambda hit: hit is fault and os.kill(os.getpid(), signal.SIGKILL))
        journal.ingest()

    assert fork(burst, tmp_path / "log").end() == -signal.SIGKILL
    assert check(home).findings == []
    assert oracle.read(home) == content


@pytest.mark.parametrize("mode", ["before_truncate", "before_header", "after_free_list_write"])
def test_a_checkpoint_of_duckdb_that_fails(copy, shelf, mode):
    """DuckDB gives up in the middle of a checkpoint: nothing is doubled, nothing is gone."""
    _, content = shelf("killed")
    home = copy("killed")
    with na.Journal.open(home, mode="exclusive") as journal:
        connection = journal._archive._kept
        connection.execute(f"SET debug_checkpoint_abort = '{mode}'")
        connection.execute("SET checkpoint_threshold = '1 KB'")
        try:
            journal.ingest()
        except na.errors.JournalError as error:
            assert "nothing is lost" in str(error)
    assert oracle.read(home) == content


# -- check and repair --------------------------------------------------------------------------


def test_a_killed_repair_is_finished_by_the_next_one(copy, shelf, tmp_path):
    """Whatever step a repair is killed at, the next one brings back as much."""
    _, content = shelf("killed")
    for number in range(1, 40, 4):
        home = copy("killed", f"n{number}")
        harm.Harm("queue.sqlite-wal", "flip", 6000, 1).do(home)
        harm.Harm("journal.1.duckdb", "flip", 5000, 1).do(home)

        def mend(home: Path = home, number: int = number) -> None:
            _die_at(number)
            repair(home)

        code = fork(mend, tmp_path / "log").end()
        if code == 0:
            break
        assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
        done = repair(home)
        assert done.sound
        found = oracle.read(home)
        assert len(content.records) - len(found.records) <= 1
        assert all(record == content.records[seq] for seq, record in found.records.items())
    assert number > 5  # else it was killed nowhere
    assert code == 0


def _die_at(number: int) -> None:
    """Kill this process at its n-th rename or removal."""
    left = number

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def test_a_journal_in_use_is_not_repaired(copy):
    """A repair refuses while somebody has the journal open, and says so."""
    home = copy("closed")
    with na.Journal.open(home) as journal:
        with pytest.raises(JournalDamagedError):
            harm.Harm("journal.1.duckdb", "flip", 100, 1).do(home)
            journal.sql("SELECT 1")
        with pytest.raises(JournalBusyError, match="open in process"):
            repair(home)


def test_an_untouched_journal_is_whole_and_not_repaired(copy, shelf):
    """Nothing is found in a journal in which nothing is wrong, killed or closed."""
    for name in specimens.SPECIMENS:
        home = copy(name, name)
        assert check(home).findings == []
        assert repair(home).rungs == []
        assert oracle.read(home) == shelf(name)[1]


def test_the_commands_say_what_is_wrong_and_what_came_back(copy, cli):
    """check: exit code 6 and the command; a dry run changes nothing; repair: what is lost."""
    home = copy("killed")
    harm.Harm("queue.sqlite", "missing").do(home)
    harm.Harm("journal.1.duckdb", "cut", 9000).do(home)
    files = {path.name: path.read_bytes() for path in home.iterdir()}
    found = cli("journal", "check", str(home))
    assert found.code == 6
    assert "major" in found.out
    assert f"notebook-agents journal repair {home}" in found.out
    assert cli("list", "--journal", str(home)).code == 6
    dry = cli("journal", "repair", "--dry-run", str(home))
    assert dry.code == 1
    assert "lost: 25 records" in dry.out  # those that DuckDB had taken in
    assert {path.name: path.read_bytes() for path in home.iterdir()} == files
    done = cli("journal", "repair", "--json", str(home))
    said = json.loads(done.out)
    assert [one["record"] for one in said["lost"]] == [*range(1, 26)]
    assert said["aside"]
    assert cli("journal", "check", str(home)).code == 0
    assert cli("list", "--journal", str(home)).code == 0
