"""What a repair keeps, names and survives, beyond the matrix of damages."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from crash.processes import fork

import notebook_agents as na
from damage import harm, oracle
from notebook_agents.errors import JournalDamagedError, JournalWriteError
from notebook_agents.journal import check as checking
from notebook_agents.journal import keycopy
from notebook_agents.journal.check import check
from notebook_agents.journal.repair import repair

if TYPE_CHECKING:
    from pathlib import Path


def _cut_log(home: Path, pages: int) -> None:
    """Cut the last pages of the queue's log off."""
    at, _ = harm.pages(home, "queue.sqlite-wal")[-pages]
    harm.Harm("queue.sqlite-wal", "cut", at).do(home)


def _kill_repair_at_first_rename(home: Path, log: Path) -> None:
    def mend() -> None:
        sys.addaudithook(lambda event, given: event == "os.rename" and _die(str(given[1])))
        repair(home)

    def _die(name: str) -> None:
        if ".damaged-" in name:
            os.kill(os.getpid(), signal.SIGKILL)

    assert fork(mend, log).end() == -signal.SIGKILL


# -- what is lost ------------------------------------------------------------------------------


def test_where_the_mark_is_damaged_too_a_lost_end_is_not_passed_over(copy, shelf):
    """How much was behind the newest record cannot be known then: from where on is said."""
    home = copy("killed")
    _cut_log(home, 20)
    harm.Harm("queue.mark", "zero", 40, 32).do(home)
    done = repair(home)
    newest = max(oracle.read(home).records)
    assert newest < max(shelf("killed")[1].records)
    assert done.beyond is not None
    assert (done.beyond.first, done.beyond.last) == (newest + 1, None)
    assert not done.complete
    assert f"may be lost: records from {newest + 1} on" in done.findings[-1].what


def test_a_thread_that_was_being_driven_is_named_where_the_end_is_not_known(copy):
    """Its records are the likeliest to be gone."""
    home = copy("killed")
    harm.Harm("queue.mark", "cut", 10).do(home)
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE threads SET driver_pid = 1, driver_host = 'h', driver_boot = 'b', "
            "driver_started = 1, driver_since = 1 WHERE thread = 'asker-2'"
        )
    done = repair(home)
    assert done.beyond is not None
    assert done.beyond.driven == ("asker-2",)
    assert "'asker-2'" in done.findings[-1].what


def test_a_number_in_a_damaged_head_makes_up_no_losses(copy, shelf):
    """The mark says how far the queue had come; a head, which is not sealed, does not go beyond."""
    home = copy("closed")
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute("UPDATE threads SET last_seq = last_seq + 128 WHERE thread = 'asker-2'")
    done = repair(home)
    assert done.lost == []
    assert done.complete
    assert oracle.read(home) == shelf("closed")[1]


def test_a_lost_record_is_counted_once(copy):
    """One that is named with its thread is not counted again as one that the thread lacks."""
    home = copy("closed")
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        seq, thread = connection.execute(
            "SELECT seq, thread FROM records WHERE kind = 'step_returned'"
        ).fetchone()
        connection.execute("UPDATE records SET size = size + 1 WHERE seq = ?", [seq])
    done = repair(home)
    assert [(one.seq, one.thread) for one in done.lost] == [(seq, thread)]
    assert done.unnamed == {}
    assert f"lost: 1 record of thread {thread!r}: {seq}" in [one.what for one in done.findings]


def test_what_a_killed_repair_lost_is_named_by_the_one_that_ends_it(copy, tmp_path):
    """Records that stood at the end are named nowhere else."""
    home, other = copy("killed"), copy("killed", "other")
    for one in (home, other):
        _cut_log(one, 20)
    expected = repair(other)
    assert expected.lost
    _kill_repair_at_first_rename(home, tmp_path / "log")
    assert stat.S_IMODE((home / "repair.json").stat().st_mode) == 0o600
    done = repair(home)
    assert done.lost == expected.lost
    assert not done.complete
    assert {name.partition(".damaged-")[0] for name in done.aside} == {
        name.partition(".damaged-")[0] for name in expected.aside
    }


# -- keys --------------------------------------------------------------------------------------


def _name_another_master(wrapped: bytes) -> bytes:
    said = json.loads(wrapped)
    said["master"] = said["master"][:-1] + ("0" if said["master"][-1] != "0" else "1")
    return json.dumps(said).encode()


def _alter_key(home: Path) -> None:
    """Alter what names the master key of one stored key."""
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        (wrapped,) = connection.execute(
            "SELECT wrapped FROM keys WHERE scope = 'asker-2'"
        ).fetchone()
        connection.execute(
            "UPDATE keys SET wrapped = ? WHERE scope = 'asker-2'", [_name_another_master(wrapped)]
        )


@pytest.mark.parametrize("name", ["closed", "killed"])
def test_a_key_that_names_another_master_key_comes_back_from_the_copy(copy, shelf, name):
    """It looks like one whose master key is elsewhere; the copy opens, and stays."""
    home = copy(name)
    _alter_key(home)
    with pytest.raises(JournalDamagedError):
        na.Journal.open(home)
    assert repair(home).complete
    assert oracle.read(home) == shelf(name)[1]


def test_check_names_a_key_that_is_altered_while_others_use_the_journal(copy):
    """The copy is not written anew from the altered one."""
    home = copy("closed")
    with na.Journal.open(home):
        _alter_key(home)
        found = check(home)
    assert any("the key of scope 'asker-2' is altered" in one.what for one in found.findings)
    assert not found.sound


def test_the_copy_of_the_keys_is_put_aside_where_nothing_else_can_be_read(copy):
    """What cannot be read today may be read one day: no key is thrown away."""
    home = copy("closed")
    keys = (home / "keys.copy").read_bytes()
    for name in ("queue.sqlite", "journal.1.duckdb"):
        (home / name).write_bytes(bytes(3000))
    (home / "queue.mark").unlink()
    done = repair(home)
    assert [rung.name for rung in done.rungs] == ["anew"]
    (aside,) = (name for name in done.aside if name.startswith("keys.copy"))
    assert (home / aside).read_bytes() == keys


def test_a_deleted_key_does_not_come_back_from_an_older_page(copy):
    """The log has the deletion, the file below it still the key."""
    home = copy("deleting")
    harm.Harm("journal.1.duckdb", "flip", 5000, 1).do(home)
    at, _ = harm.pages(home, "queue.sqlite-wal")[-3]
    harm.Harm("queue.sqlite-wal", "flip", at + 300, 1).do(home)
    assert repair(home).sound
    assert "counter-1" not in keycopy.read(home)[1]
    with na.Journal.open(home) as journal:
        assert journal.wrapped_key("counter-1") is None


# -- the repair itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marker",
    [
        "[]",
        '{"qhase": "switching"}',
        '{"phase": "switching"}',
        '{"phase": "building", "built": ["../outside"]}',
        '{"phase": "building", "built": [".."]}',
        '{"phase": "switching", "moves": [["queue.sqlite", "../q"]], "removes": ["../outside"]}',
    ],
)
def test_a_marker_that_is_damaged_or_leads_out_of_the_directory(copy, shelf, tmp_path, marker):
    """It is not followed, and the journal is looked at as if there were none."""
    home = copy("closed")
    outside = tmp_path / "outside"
    outside.touch()
    (home / "repair.json").write_text(marker)
    done = repair(home)
    assert [rung.name for rung in done.rungs] == ["finish"]
    assert outside.exists()
    assert oracle.read(home) == shelf("closed")[1]


def test_of_two_repairs_the_second_leaves_what_the_first_made(copy, monkeypatch):
    """Both have seen the damage; the first one's files are not put aside as damaged."""
    home = copy("closed")
    harm.Harm("queue.sqlite", "flip", 2000, 1).do(home)
    real = checking.check
    calls = 0

    def looked(at: Path, progress: Any = None) -> Any:
        nonlocal calls
        calls += 1
        found = real(at, progress)
        if calls == 1:
            repair(home)
        return found

    monkeypatch.setattr(checking, "check", looked)
    assert repair(home).rungs == []
    assert len(list(home.glob("queue.sqlite.damaged-*"))) == 1


def test_a_copy_that_a_killed_repair_made_is_removed_by_the_next_one(copy):
    """A DuckDB file can be large."""
    home = copy("closed")
    (home / ".salvage-x").mkdir()
    (home / ".salvage-x" / "journal.1.duckdb").touch()
    harm.Harm("queue.sqlite", "flip", 2000, 1).do(home)
    assert repair(home).sound
    assert not (home / ".salvage-x").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET kind = 'nonsense' WHERE seq = 3",
        "UPDATE meta SET value = 'x' WHERE key = 'format'",
        "DELETE FROM meta",
    ],
)
def test_what_no_version_wrote_is_damage(copy, shelf, statement):
    """A DuckDB file with values that nobody can have written is refused and repaired."""
    home = copy("closed")
    with duckdb.connect(str(home / "journal.1.duckdb")) as connection:
        connection.execute(statement)
    with pytest.raises(JournalDamagedError, match="journal repair"):
        oracle.read(home)
    done = repair(home)
    assert done.sound
    lost = {one.seq for one in done.lost}
    assert lost == ({3} if "nonsense" in statement else set())
    assert oracle.read(home).records.keys() == shelf("closed")[1].records.keys() - lost


@pytest.mark.parametrize(
    "column", [b"driver_since   I", b"  last_seq       I", b"    thread         T"]
)
def test_a_flipped_bit_in_the_name_of_a_column(copy, shelf, column):
    """SQLite finds nothing wrong with the file, and does not find the column."""
    home = copy("killed_early")
    content = (home / "queue.sqlite").read_bytes()
    assert column in content
    other = column.replace(b"e", b"d", 1)
    (home / "queue.sqlite").write_bytes(content.replace(column, other))
    with pytest.raises(JournalDamagedError, match="journal repair"):
        oracle.read(home)
    assert repair(home).sound
    assert oracle.read(home).records == shelf("killed_early")[1].records


def test_a_check_while_a_thread_is_deleted_finds_nothing(copy, monkeypatch):
    """Heads, keys and records are of one moment, whatever is committed meanwhile."""
    home = copy("closed")
    with na.Journal.open(home) as journal:
        journal.ingest()
        real = checking._older

        def older(*given: Any) -> Any:
            journal.delete_thread("counter-2")
            yield from real(*given)

        monkeypatch.setattr(checking, "_older", older)
        assert check(home).findings == []


def test_a_repair_that_has_no_room_says_so_and_changes_nothing(copy, shelf, monkeypatch):
    """The error is a sentence; the next repair begins again."""
    home = copy("closed")
    harm.Harm("queue.sqlite", "flip", 2000, 1).do(home)
    spoilt = (home / "queue.sqlite").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keycopy, "content", full)
        with pytest.raises(JournalWriteError, match="free some space"):
            repair(home)
    assert (home / "queue.sqlite").read_bytes() == spoilt
    with pytest.raises(JournalDamagedError, match="not come to its end"):
        na.Journal.open(home)
    assert repair(home).complete
    assert oracle.read(home) == shelf("closed")[1]


def test_words_fit_their_numbers(copy, cli):
    """One record is a record."""
    home = copy("closed")
    with duckdb.connect(str(home / "journal.1.duckdb")) as connection:
        connection.execute("DELETE FROM records WHERE seq = 3")
    done = cli("journal", "repair", str(home))
    assert "lost: 1 record of a thread not known: 3" in done.out
    assert "lost before an earlier repair: record 3" in cli("journal", "check", str(home)).out
