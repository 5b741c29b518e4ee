"""Two histories that gave the same numbers to different records are never taken for one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from test_backup import fill, held, listing
from test_journal import note

from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal import Journal, mark
from notebook_agents.journal.backup import Backup, backup, restore
from notebook_agents.journal.backup_files import read_backup
from notebook_agents.journal.check import check
from notebook_agents.journal.repair import repair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Dies = Callable[[Callable[[], object]], None]


def lose_end(home: Path, dies: Dies, elsewhere: Path) -> Backup:
    """Back up records 1 to 10 and lose 7 to 10: a repair that does not see the backup."""
    fill(home, "a")

    def writes() -> None:
        journal = Journal.open(home)
        journal.append([note("kept", thread="a")], durable=True)
        shutil.copy(home / "queue.sqlite-wal", elsewhere.with_suffix(".log"))
        for number in range(4):
            journal.append([note(f"old{number}", thread="a")], durable=True)
        backup(home, elsewhere)
        os.kill(os.getpid(), signal.SIGKILL)

    dies(writes)
    shutil.move(elsewhere.with_suffix(".log"), home / "queue.sqlite-wal")
    done = repair(home)
    assert [one.seq for one in done.lost] == [7, 8, 9, 10]
    (made,) = (path for path in elsewhere.iterdir() if path.is_dir())
    return read_backup(made)


def lose_record(home: Path, seq: int) -> None:
    """Have a record be nowhere; the mark, which would say that somebody changed it, goes too."""
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute("DELETE FROM records WHERE seq = ?", [seq])
    (home / mark.FILE).unlink(missing_ok=True)


def spoil_archive(home: Path) -> None:
    """Have nobody read the DuckDB file any more."""
    for path in home.glob("journal.*.duckdb"):
        path.write_bytes(b"nothing" * 4096)


def test_newer_records_under_lost_numbers_are_not_skipped(
    home: Path, dies: Dies, tmp_path: Path
) -> None:
    """A backup that has the lost records is refused: nothing is changed, a sentence says so."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    fill(home, "b", count=6)
    before, files = held(home), listing(home)
    with pytest.raises(JournalDamagedError, match="from record 7 on") as caught:
        restore(made.path, home, newer=True)
    assert "--no-newer" in str(caught.value)
    assert str(home) in str(caught.value)
    assert held(home) == before
    assert {name: listing(home)[name] for name in files if name != "queue.mark"} == {
        name: files[name] for name in files if name != "queue.mark"
    }


def test_what_was_written_under_lost_numbers_is_named_when_it_is_given_up(
    home: Path, dies: Dies, tmp_path: Path
) -> None:
    """Without the newer ones the backup comes back whole, and each record that does not is told."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    fill(home, "b", count=6)
    report = restore(made.path, home, newer=False)
    assert (report.given_up, report.complete) == ({"b": 6}, False)
    assert held(home)["a"][-1] == "old3"


def test_a_backup_brings_the_lost_end_back_as_long_as_nothing_was_written_since(
    home: Path, dies: Dies, tmp_path: Path
) -> None:
    """Then no number was given twice."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    report = restore(made.path, home, newer=True)
    assert report.complete
    assert held(home)["a"][-1] == "old3"
    assert check(home).sound


@pytest.mark.parametrize("newer", [True, False])
def test_backups_of_an_end_that_a_restore_gave_up(home: Path, newer: bool) -> None:
    """A restored journal counts on from the backup's end, too."""
    fill(home, "a")
    first = backup(home)
    fill(home, "a")
    second = backup(home)
    restore(first.path, home, newer=False)
    fill(home, "b", count=7)
    if newer:
        with pytest.raises(JournalDamagedError, match="from record 6 on"):
            restore(second.path, home, newer=True)
        assert len(held(home)["b"]) == 7
    else:
        assert restore(second.path, home, newer=False).given_up == {"b": 7}
        assert held(home).keys() == {"a"}


def test_histories_are_told_apart_where_no_number_is_in_both(home: Path) -> None:
    """The queue begins right behind the backup, and the DuckDB file cannot be read."""
    fill(home, "a")
    first = backup(home)
    fill(home, "a")
    second = backup(home)
    restore(first.path, home, newer=False)
    fill(home, "b", count=6, ingest=True)  # leaves record 11 in the queue
    fill(home, "b")
    spoil_archive(home)
    with pytest.raises(JournalDamagedError, match="from record 6 on"):
        restore(second.path, home, newer=True)


def test_a_repair_takes_nothing_of_another_history(home: Path, tmp_path: Path, dies: Dies) -> None:
    """What is lost under a number that was given twice does not come back as somebody else's."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    fill(home, "b", count=6, ingest=True)
    fill(home, "b", count=1)
    shutil.copytree(made.path, home / "backups" / made.path.name)
    spoil_archive(home)
    done = repair(home)
    assert done.sound
    assert {one.seq for one in done.lost} >= {7, 8, 9, 10}
    with Journal.open(home) as journal:
        kept = {record.seq: record.name for record in journal.select()}
    assert not {name for name in kept.values() if name and name.startswith("old")}
    assert kept.keys() == {1, 2, 3, 4, 5, 6, 12, 13}


def test_a_repair_takes_the_lost_end_where_no_number_was_given_since(
    home: Path, tmp_path: Path, dies: Dies
) -> None:
    """Such a journal is of the backup's history from then on, for later repairs too."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    shutil.copytree(made.path, home / "backups" / made.path.name)
    for seq in (3, 8):
        lose_record(home, seq)
        assert repair(home).sound
        assert held(home)["a"][-1] == "old3"


def test_a_thread_that_only_the_backup_still_has_comes_back(home: Path, tmp_path: Path) -> None:
    """A restore fills what a repair found nowhere; the heads are those of all records."""
    fill(home, "a", "b", count=2)
    fill(home, "a", count=1)
    made = backup(home, tmp_path / "elsewhere")
    for seq in (2, 4):
        lose_record(home, seq)
    assert {one.thread for one in repair(home).lost} == {None}
    fill(home, "a", count=2)
    report = restore(made.path, home, newer=True)
    assert (report.replayed, report.complete) == (2, True)
    assert held(home) == {"a": ["a0", "a1", "a0", "a0", "a1"], "b": ["b0", "b1"]}
    found = check(home)
    assert found.sound
    assert not [one for one in found.findings if "lost" in one.what]


def test_a_journal_that_an_older_build_repaired_is_compared_record_by_record(
    home: Path, dies: Dies, tmp_path: Path
) -> None:
    """It does not say since when its numbers are its own; the records themselves do."""
    made = lose_end(home, dies, tmp_path / "elsewhere")
    fill(home, "b", count=6)
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'branches'")
    (home / mark.FILE).unlink()
    with pytest.raises(JournalDamagedError, match="from record 7 on"):
        restore(made.path, home, newer=True)
    with Journal.open(home) as journal:
        journal.ingest()
        journal.append([note("c", thread="b")], durable=True)
    with pytest.raises(JournalDamagedError, match="from record 10 on"):
        restore(made.path, home, newer=True)


def test_a_damaged_record_is_no_other_history(home: Path) -> None:
    """A flipped bit in a record that the backup has whole is mended by it."""
    fill(home, "a")
    made = backup(home)
    fill(home, "a")
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        (payload,) = connection.execute("SELECT payload FROM records WHERE seq = 5").fetchone()
        payload = payload[:20] + bytes([payload[20] ^ 1]) + payload[21:]
        connection.execute("UPDATE records SET payload = ? WHERE seq = 5", [payload])
    assert restore(made.path, home, newer=True).replayed == 5
    assert len(held(home)["a"]) == 10


def test_each_branch_is_written_down_once(home: Path, dies: Dies, tmp_path: Path) -> None:
    """What a repair and a restore add says from which number on."""
    lose_end(home, dies, tmp_path / "elsewhere")
    made = backup(home)
    restore(made.path, home, newer=True)
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        (said,) = connection.execute("SELECT value FROM meta WHERE key = 'branches'").fetchone()
    assert [first for first, _ in json.loads(said)] == [7]
