"""A journal that is missing, newer, locked or altered, or something else: said, not guessed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from support.checks import State, add, ask, chain, says, told

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.journal import mark
from notebook_agents.journal.check import check
from notebook_agents.journal.repair import repair
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# -- no journal, or something else -------------------------------------------------------------


def test_no_journal_here(tmp_path, monkeypatch, cli):
    """Where there is none, it is said where it was looked for and how to make one: exit code 2."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("NOTEBOOK_AGENTS_HOME")
    for call in (
        lambda: na.Journal.open(create=False),
        na.unfinished,
        na.resume,
        lambda: na.resume("t"),
    ):
        with pytest.raises(errors.NoJournalError) as caught:
            call()
        says(caught.value, empty, "run an agent", "NOTEBOOK_AGENTS_HOME")
    for command in (["list"], ["show", "t"], ["resume"], ["resume", "t"]):
        told(cli(*command, cwd=empty), 2, empty, "--journal")
    assert list(empty.iterdir()) == []


def test_no_journal_in_the_named_directory(tmp_path, cli):
    """A directory that was named and is none is named back, and is not made."""
    missing = tmp_path / "missing"
    with pytest.raises(errors.NoJournalError) as caught:
        na.Journal.open(missing, create=False)
    says(caught.value, missing)
    told(cli("list", "--journal", str(missing)), 2, missing)
    assert not missing.exists()


def test_directory_without_a_journal(tmp_path, cli):
    """A directory with other things in it is no journal, and nothing is put into it."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(errors.NoJournalError) as caught:
        na.Journal.open(tmp_path / "other", create=False)
    says(caught.value, tmp_path / "other", "queue.sqlite")
    told(cli("list", "--journal", str(tmp_path / "other")), 2, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("create", [True, False])
def test_path_is_a_file(tmp_path, create):
    """A file is no journal, whether one may be made or not; its content stays."""
    path = tmp_path / "analysis.ipynb"
    path.write_text("{}")
    with pytest.raises((errors.JournalFormatError, errors.NoJournalError)) as caught:
        na.Journal.open(path, create=create)
    says(caught.value, path, "is a file", "directory")
    assert path.read_text() == "{}"


def test_path_is_a_file_on_the_command_line(tmp_path, cli, agents):
    """The commands say the same, whether they read or run."""
    path = tmp_path / "analysis.ipynb"
    path.write_text("{}")
    run = ["run", f"{agents}:counter", "--input", '{"n": 1}']
    for command in (["list"], ["show", "t"], run):
        ended = cli(*command, "--journal", str(path))
        assert ended.code in (2, 6), ended.err
        told(ended, ended.code, path, "is a file")


@pytest.mark.parametrize("content", ["garbage", "a database"])
def test_a_file_that_is_no_journal(home, cli, content):
    """A queue.sqlite that is something else is refused with exit code 6 and stays as it is."""
    home.mkdir()
    path = home / "queue.sqlite"
    if content == "garbage":
        path.write_bytes(b"not a database at all " * 100)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(errors.JournalFormatError) as caught:
            na.Journal.open(home, create=create)
        says(caught.value, path, "another directory")
    told(cli("list", "--journal", str(home)), 6, path)
    assert path.read_bytes() == before


def _number(home: Path, version: int, *, closed: bool) -> None:
    """Write a format number, as a version would that closed the journal, or was killed."""
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version={version}")
        journal_id = dict(connection.execute("SELECT key, value FROM meta"))["journal"]
        seq = connection.execute("SELECT max(seq) FROM records").fetchone()[0]
    if closed:
        digest = mark.digest_of(home / "queue.sqlite")
        mark.rest(home, journal_id=journal_id, seq=seq, generation=1, digest=digest)
    else:
        mark.begin(home, journal_id=journal_id, newest=seq, generation=1)


def test_newer_queue(home, journal, done, cli):
    """A journal that a newer version closed is refused with exit code 6 and says to upgrade."""
    journal.close()
    _number(home, 2, closed=True)
    with pytest.raises(errors.JournalFormatError) as caught:
        na.Journal.open(home)
    says(caught.value, home, "format 2", "upgrade")
    assert "damaged" not in str(caught.value)
    for command in (["list", "--journal"], ["journal", "check"], ["journal", "repair"]):
        told(cli(*command, str(home)), 6, "format 2", "upgrade")

    _number(home, 1, closed=True)
    with na.Journal.open(home) as again:
        assert na.Run(again, "t", 1).value["n"] == 2


def test_a_format_number_that_is_damaged(home, journal, done, cli):
    """Where nothing tells it from a newer version's both are said; the check knows by the seals."""
    journal.close()
    _number(home, 1 + 2**20, closed=False)
    with pytest.raises(errors.JournalFormatError) as caught:
        na.Journal.open(home)
    command = f"notebook-agents journal check {home}"
    says(caught.value, home, f"format {1 + 2**20}", "upgrade", "damaged", command)
    told(cli("list", "--journal", str(home)), 6, "upgrade", command)
    looked = cli("journal", "check", str(home))
    assert looked.code == 6
    assert "and its newest record is of format 1" in looked.out
    assert f"journal repair {home}" in looked.out
    assert cli("journal", "repair", str(home)).code == 0
    with na.Journal.open(home) as again:
        assert na.Run(again, "t", 1).value["n"] == 2


def test_a_format_number_over_records_that_nobody_here_can_open(
    home, journal, done, tmp_path, monkeypatch
):
    """Without the key it stays open which of the two it is, and nothing is repaired."""
    journal.close()
    _number(home, 3, closed=False)
    _without_the_key(monkeypatch, tmp_path, None)
    for look in (check, repair):
        with pytest.raises(errors.JournalFormatError, match="format 3"):
            look(home)


def _in_duckdb(home: Path, statement: str) -> None:
    with duckdb.connect(str(home / "journal.1.duckdb")) as connection:
        connection.execute(statement)


def test_newer_archive(home, journal, done, cli):
    """A DuckDB file of a newer version is refused when it is needed: exit code 6."""
    journal.ingest()
    journal.close()
    _in_duckdb(home, "UPDATE meta SET value = '2' WHERE key = 'format'")
    with na.Journal.open(home) as again:
        assert again.thread("t").status is RunStatus.SUCCEEDED  # the list never opens DuckDB
        with pytest.raises(errors.JournalFormatError) as caught:
            _ = na.Run(again, "t", 1).value
    says(caught.value, "journal.1.duckdb", "format 2", "upgrade")
    told(cli("show", "t", "--journal", str(home)), 6, "format 2", "upgrade")

    _in_duckdb(home, "UPDATE meta SET value = '1' WHERE key = 'format'")
    with na.Journal.open(home) as again:
        assert na.Run(again, "t", 1).value["n"] == 2


def test_two_journals_files_mixed(home, journal, done, tmp_path, cli):
    """The two files of a journal belong together; those of two journals are told apart."""
    journal.ingest()
    journal.close()
    with na.Journal.open(tmp_path / "other") as other:
        na.Agent(chain(add), "counter", other).run({"n": 7}, thread="t")
        other.ingest()
    own = (home / "journal.1.duckdb").read_bytes()
    shutil.copy(tmp_path / "other" / "journal.1.duckdb", home / "journal.1.duckdb")
    with na.Journal.open(home) as mixed, pytest.raises(errors.JournalDamagedError) as caught:
        _ = na.Run(mixed, "t", 1).value
    says(caught.value, "journal.1.duckdb", "queue.sqlite", f"journal repair {home}")
    told(cli("show", "t", "--journal", str(home)), 6, "another journal")

    (home / "journal.1.duckdb").write_bytes(own)
    with na.Journal.open(home) as again:
        assert na.Run(again, "t", 1).value["n"] == 2


def test_archive_that_duckdb_cannot_open(home, journal, done, cli):
    """A DuckDB file with a damaged header is named, and what to do about it: exit code 6."""
    journal.ingest()
    journal.close()
    path = home / "journal.1.duckdb"
    damaged = bytearray(path.read_bytes())
    damaged[:64] = bytes(64)
    path.write_bytes(damaged)
    with na.Journal.open(home) as again, pytest.raises(errors.JournalDamagedError) as caught:
        again.select(thread="t")
    says(caught.value, path.name, f"journal repair {home}")
    told(cli("show", "t", "--journal", str(home)), 6, path.name)


# -- keys --------------------------------------------------------------------------------------


def _without_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str | None) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    if key is not None:
        monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", key)


@pytest.mark.parametrize("key", ["11" * 32, None], ids=["wrong", "missing"])
def test_wrong_or_missing_key(home, journal, done, tmp_path, monkeypatch, cli, key):
    """Without the key nothing opens and nothing is added; the key is said, and where to put it."""
    journal.close()
    with monkeypatch.context() as elsewhere:
        _without_the_key(elsewhere, tmp_path, key)
        with na.Journal.open(home) as locked:
            assert [info.thread for info in locked.threads()] == ["t"]
            agent = na.Agent(chain(add), "counter", locked)
            for call in (
                lambda: na.Run(locked, "t", 1).value,
                lambda: agent.run({"n": 1}, thread="t"),
                lambda: agent.run({"n": 1}, thread="new"),
            ):
                with pytest.raises(errors.KeyMissingError) as caught:
                    call()
                says(caught.value, "NOTEBOOK_AGENTS_KEY", "put the key file")
            assert [info.thread for info in locked.threads()] == ["t"]
        told(cli("show", "t", "--journal", str(home)), 6, "NOTEBOOK_AGENTS_KEY")
        assert not (tmp_path / "elsewhere").exists()  # a new key would not open it either
    with na.Journal.open(home) as again:
        assert na.Run(again, "t", 1).value["n"] == 2


def test_key_that_is_none(home, journal, done, monkeypatch, cli):
    """A variable that holds no key is refused with exit code 2, and its text is not repeated."""
    journal.close()
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "correct horse battery staple")
    with na.Journal.open(home) as again, pytest.raises(errors.UsageError) as caught:
        _ = na.Run(again, "t", 1).value
    says(caught.value, "NOTEBOOK_AGENTS_KEY", "32 bytes")
    assert "horse" not in str(caught.value)
    told(cli("show", "t", "--journal", str(home)), 2, "NOTEBOOK_AGENTS_KEY")


# -- altered records ---------------------------------------------------------------------------
# While somebody has the journal open: else the opening itself finds them (test_damage.py).


@pytest.fixture
def used(home: Path) -> Iterator[None]:
    """Have the journal open in this process."""
    with na.Journal.open(home):
        yield


@dataclass
class Trap:
    """Makes a file when it is unpickled."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return _spring, (str(self.path),)


def _spring(path: str) -> str:
    Path(path).touch()
    return path


def _agent(node: Callable[[State], Any], journal: na.Journal) -> na.Agent:
    return na.Agent(chain(node, ask), "trapped", journal, allow=[Trap])


def _rows(home: Path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        return connection.execute("SELECT seq, payload FROM records ORDER BY seq").fetchall()


def _set(home: Path, seq: int, column: str, value: object) -> None:
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute(f"UPDATE records SET {column} = ? WHERE seq = ?", (value, seq))


@pytest.fixture
def trapped(home: Path, tmp_path: Path, used: None) -> tuple[Path, Path]:
    """A waiting run with a trap in its recorded call, and the file that the trap makes."""
    sprung = tmp_path / "sprung"

    @na.step
    def call() -> Any:
        return Trap(sprung)

    def node(state: State) -> State:
        call()
        return {"n": 1}

    with na.Journal.open(home) as journal:
        _agent(node, journal).run({"n": 1}, thread="t")
    sprung.unlink(missing_ok=True)
    return home, sprung


def test_flipped_bit_in_a_payload(trapped):
    """A record whose payload was altered is named and not opened, and nothing is unpickled."""
    home, sprung = trapped
    for seq, payload in _rows(home):
        flipped = bytearray(payload)
        flipped[len(flipped) // 2] ^= 1
        _set(home, seq, "payload", bytes(flipped))
        with na.Journal.open(home) as journal, pytest.raises(errors.SealError) as caught:
            journal.payload(seq)
        says(caught.value, f"record {seq}", "'t'")
        _set(home, seq, "payload", payload)
    assert not sprung.exists()


@pytest.mark.parametrize("kind", ["step_returned", "run_started"])
def test_resume_of_an_altered_record(home, tmp_path, used, dies, cli, kind):
    """A resume that needs an altered record stops there: nothing runs, nothing is unpickled."""
    sprung, ran = tmp_path / "sprung", tmp_path / "ran"

    @na.step
    def call() -> Any:
        return Trap(sprung)

    @na.step
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def node(state: State) -> State:
        call()
        if ran.exists():
            ran.write_text("again")
        ran.touch()
        die()
        return {"n": 1}

    def program() -> None:
        with na.Journal.open(home) as journal:
            _agent(node, journal).run({"n": 1}, thread="t")

    dies(program)
    sprung.unlink(missing_ok=True)
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        seq, payload = connection.execute(
            "SELECT seq, payload FROM records WHERE kind = ?", (kind,)
        ).fetchone()
    flipped = bytes([*payload[:-1], payload[-1] ^ 1])
    _set(home, seq, "payload", flipped)
    with na.Journal.open(home) as journal:
        agent = _agent(node, journal)
        with pytest.raises(errors.SealError) as caught:
            agent.resume("t")
        says(caught.value, f"record {seq}", "'t'")
        assert journal.thread("t").status is RunStatus.ORPHANED
    assert (ran.read_text(), sprung.exists()) == ("", False)
    told(cli("resume", "t", "--journal", str(home)), 6, f"record {seq}")


@pytest.mark.parametrize(
    ("column", "value"), [("name", "other"), ("attempt", 7), ("step", "elsewhere"), ("ts", 1)]
)
def test_altered_columns_are_noticed(trapped, column, value):
    """What is readable about a record is sealed too: an altered column keeps it from opening."""
    home, _ = trapped
    seq = _rows(home)[-1][0]
    _set(home, seq, column, value)
    with na.Journal.open(home) as journal, pytest.raises(errors.SealError) as caught:
        journal.payload(seq)
    says(caught.value, f"record {seq}", "'t'")


def test_record_of_another_journal(home, used, done, journal, tmp_path):
    """A record that was copied out of another journal of the same user does not open here."""
    with na.Journal.open(tmp_path / "other") as other:
        na.Agent(chain(add), "counter", other).run({"n": 7}, thread="t")
    journal.close()
    seq, payload = _rows(tmp_path / "other")[-1]
    _set(home, seq, "payload", payload)
    with na.Journal.open(home) as again, pytest.raises(errors.SealError) as caught:
        again.payload(seq)
    says(caught.value, f"record {seq}")
