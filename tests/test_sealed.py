"""Records that somebody put in the place of others: none is unpickled, the rest is usable.

Each holds a pickle that makes a file when it is loaded. They are put where the journal reads them:
in the queue beside a process that has it open, and in DuckDB's file.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from support.checks import State, add, chain, says, told

import notebook_agents as na
from notebook_agents import errors, pickling
from notebook_agents.journal.check import check
from notebook_agents.journal.values import pack
from notebook_agents.sealing import DataKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLUMNS = (
    *("seq", "ts", "kind", "thread", "scope", "run", "ns", "step", "parent", "name", "attempt"),
    *("ref", "prior", "digest", "refs", "size", "payload"),
)
Row = dict[str, Any]


@dataclass
class Trap:
    """Makes a file when it is unpickled."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return _spring, (str(self.path),)


def _spring(path: str) -> str:
    Path(path).touch()
    return path


def run(home: Path, sprung: Path, thread: str) -> None:
    """Run an agent whose answer is a trap."""

    def answer(state: State) -> Any:
        return {"at": Trap(sprung)}

    with na.Journal.open(home) as journal:
        na.Agent(chain(answer), "trapped", journal, allow=[Trap]).run({"n": 1}, thread=thread)
    sprung.unlink(missing_ok=True)


class Place:
    """Where records lie: in the queue, or in DuckDB's file."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, name

    def _connect(self) -> Any:
        if self.name == "queue":
            return sqlite3.connect(self.home / "queue.sqlite")
        return duckdb.connect(str(self.home / "journal.1.duckdb"))

    def end(self, thread: str) -> Row:
        """Return the record with a run's answer."""
        ask = f"SELECT {', '.join(COLUMNS)} FROM records WHERE kind = 'run_finished' AND thread = ?"
        with closing(self._connect()) as connection:
            rows = connection.execute(ask, [thread]).fetchall()
        return dict(zip(COLUMNS, rows[-1], strict=True))

    def put(self, seq: int, columns: Row) -> None:
        """Change a record."""
        columns = {name: value for name, value in columns.items() if name != "seq"}
        names = ", ".join(f"{name} = ?" for name in columns)
        with closing(self._connect()) as connection:
            connection.execute(
                f"UPDATE records SET {names} WHERE seq = ?", [*columns.values(), seq]
            )
            connection.commit()


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """Name the file that the trap makes."""
    return tmp_path / "sprung"


@pytest.fixture(params=["queue", "duckdb"])
def place(request: pytest.FixtureRequest, home: Path, sprung: Path) -> Iterator[Place]:
    """A journal with two trapped runs and another one; whoever has it open hides what is done."""
    found = Place(home, request.param)
    for thread in ("t", "u"):
        run(home, sprung, thread)
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "adder", journal).run({"n": 1}, thread="fine")
        if found.name == "duckdb":
            na.Agent(chain(add), "adder", journal).run({"n": 1}, thread="newest")
            journal.ingest()
        if found.name == "queue":
            yield found
    if found.name == "duckdb":
        yield found


def refused(place: Place, seq: int, sprung: Path, cli: Any) -> None:
    """Check that a record of thread t is refused by name, and everything else works."""
    home = place.home
    with na.Journal.open(home) as journal:
        with pytest.raises(errors.SealError) as caught:
            _ = na.Run(journal, "t", 1, allow=[Trap]).value
        says(caught.value, f"record {seq}", "'t'")
        assert not isinstance(caught.value, errors.KeyMissingError)
        assert na.Run(journal, "fine", 1).value["n"] == 2
        agent = na.Agent(chain(add), "adder", journal)
        assert agent.run({"n": 5}, thread="fine", new=True).value["n"] == 6
        assert {"t", "u", "fine"} <= {info.thread for info in journal.threads()}
        found = [finding for finding in check(home).findings if (seq, seq) in finding.seqs]
        assert [str(finding.severity) for finding in found] == ["major"]
    shown = cli("show", "t", "--journal", str(home))
    assert f"record {seq}" in shown.out + shown.err
    assert not sprung.exists()


def test_untouched_it_would_spring(place: Place, sprung: Path) -> None:
    """The control: the pickle in these records does what it says."""
    with na.Journal.open(place.home) as journal:
        assert na.Run(journal, "t", 1, allow=[Trap]).value["at"] == str(sprung)
    assert sprung.exists()


def _flipped(end: Row, _: Place) -> Row:
    half = len(end["payload"]) // 2
    payload = bytes(end["payload"])
    return {"payload": payload[:half] + bytes([payload[half] ^ 1]) + payload[half + 1 :]}


def _other_row(end: Row, place: Place) -> Row:
    """The answer of this thread's own earlier record."""
    with closing(place._connect()) as connection:
        (payload,) = connection.execute(
            "SELECT payload FROM records WHERE thread = 't' AND kind = 'step_returned'"
        ).fetchone()
    return {"payload": payload}


def _pickled(place: Place) -> bytes:
    return pickling.dumps({"at": Trap(place.home.parent / "sprung")}, what="it")


def _unsealed(end: Row, place: Place) -> Row:
    return {"payload": b"\x00" + pack([[0, "p", _pickled(place)], None])}


def _foreign_key(end: Row, place: Place) -> Row:
    plain: bytes = _unsealed(end, place)["payload"]
    return {"payload": DataKey(b"k" * 32).seal(plain, b"")}


ATTACKS: dict[str, Callable[[Row, Place], Row]] = {
    "flipped": _flipped,
    "truncated": lambda end, _: {"payload": bytes(end["payload"])[:-1]},
    "cut to its nonce": lambda end, _: {"payload": bytes(end["payload"])[:13]},
    "another row's": _other_row,
    "another thread's": lambda _, place: {"payload": place.end("u")["payload"]},
    "another thread's, whole": lambda _, place: {
        **place.end("u"), "thread": "t"
    },
    "unsealed": _unsealed,
    "a pickle": lambda _, place: {"payload": _pickled(place)},
    "sealed with another key": _foreign_key,
    "another size": lambda end, _: {"size": end["size"] + 1},
    "another time": lambda end, _: {"ts": end["ts"] + 1},
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_record_that_was_put_there(attack: str, place: Place, sprung: Path, cli: Any) -> None:
    """Altered, cut, from elsewhere in this journal, or never sealed."""
    end = place.end("t")
    place.put(end["seq"], ATTACKS[attack](end, place))
    refused(place, end["seq"], sprung, cli)


def test_a_record_of_another_journal(place: Place, sprung: Path, tmp_path: Path, cli: Any) -> None:
    """Of the same user, under the same number and the same name."""
    run(tmp_path / "other", sprung, "t")
    theirs = Place(tmp_path / "other", "queue").end("t")
    end = place.end("t")
    place.put(end["seq"], {name: theirs[name] for name in ("payload", "size", "ts")})
    refused(place, end["seq"], sprung, cli)


def test_a_copy_of_a_journal_with_another_threads_key(place: Place, sprung: Path, cli: Any) -> None:
    """Whoever writes the queue gives thread t the wrapped key of thread u: it does not open."""
    with na.Journal.open(place.home) as journal:
        wrapped = {scope: journal.wrapped_key(scope) for scope in ("t", "u")}
        with closing(sqlite3.connect(place.home / "queue.sqlite")) as connection, connection:
            connection.execute("UPDATE keys SET wrapped = ? WHERE scope = 't'", [wrapped["u"]])
        with na.Journal.open(place.home) as other, pytest.raises(errors.SealError) as caught:
            _ = na.Run(other, "t", 1, allow=[Trap]).value
        says(caught.value, "'t'")
        assert na.Run(journal, "fine", 1).value["n"] == 2
        with closing(sqlite3.connect(place.home / "queue.sqlite")) as connection, connection:
            connection.execute("UPDATE keys SET wrapped = ? WHERE scope = 't'", [wrapped["t"]])
    assert not sprung.exists()


def test_a_record_of_an_older_thread_of_that_name(home: Path, sprung: Path, cli: Any) -> None:
    """Put back from a copy of the files from before the thread was deleted and made anew."""
    place = Place(home, "queue")
    for thread in ("t", "u"):
        run(home, sprung, thread)
    old = place.end("t")
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "adder", journal).run({"n": 1}, thread="fine")
        journal.delete_thread("t")
        run(home, sprung, "t")
        seq = place.end("t")["seq"]
        place.put(seq, old)
        refused(place, seq, sprung, cli)


def test_an_older_queue_put_back(home: Path, sprung: Path, tmp_path: Path, cli: Any) -> None:
    """The file as it once was, beside newer ones: the opening says so."""
    run(home, sprung, "t")
    shutil.copy(home / "queue.sqlite", tmp_path / "older")
    run(home, sprung, "u")
    shutil.copy(tmp_path / "older", home / "queue.sqlite")
    with pytest.raises(errors.JournalDamagedError) as caught:
        na.Journal.open(home)
    says(caught.value, "queue.sqlite", "journal repair")
    told(cli("show", "t", "--journal", str(home)), 6, "queue.sqlite")
    assert not sprung.exists()
