"""Power loss: of every state that a disk may be in afterwards, the journal makes the best.

The states are built from traces of real processes (`support/power.py`). SQLite's and DuckDB's files
are among them, as far as it is this package that syncs them.
"""

from __future__ import annotations

import json
import shutil
import stat
from typing import TYPE_CHECKING

import pytest
from support.power import Disk, build, states
from test_compact import there
from test_journal import names, note

from notebook_agents.errors import JournalDamagedError, JournalFormatError, NoJournalError
from notebook_agents.journal import Journal, keycopy, locks, unsynced
from notebook_agents.journal.backup import backups, restore
from notebook_agents.journal.check import check as examined
from notebook_agents.journal.repair import repair
from notebook_agents.journal.rotation import rotate
from notebook_agents.sealing import editing, load_ring, wrapped_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.syscalls import Shim

    Check = Callable[[Path, list[str]], None]

START = """
import os, pathlib
root = pathlib.Path(os.environ["NA_ROOT"])
os.environ["JUPYTER_DATA_DIR"] = str(root / "share" / "data")
home = root / "project" / "new" / ".notebook_agents"
from notebook_agents.journal import Journal
from support.syscalls import mark, trace
from test_journal import note

def add(journal, name):
    journal.append([note(name)], durable=True)
    mark(name)

"""


@pytest.fixture
def survives(tmp_path: Path, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a program, build each state that a power loss may leave, and check it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    left = tmp_path / "left"

    def run(program: str, check: Check, *, before: str = "", **options: int) -> int:
        if before:
            shim.run(START + before, disk)
        at_first = Disk(disk)
        trace = tmp_path / "trace"
        shim.run(f"{START}trace({str(trace)!r})\n{program}", disk)
        monkeypatch.setenv("JUPYTER_DATA_DIR", str(left / "share" / "data"))
        for module in (locks, unsynced):  # the power came back, and the host was started again
            monkeypatch.setattr(module, "boot_id", lambda: "another boot/1")
        count = 0
        for state, marks in states(at_first, trace, seed=7, **options):
            build(state, left)
            try:
                check(left / "project" / "new" / ".notebook_agents", marks)
            except BaseException as error:
                error.add_note(f"state {count}, after {marks}")
                raise
            count += 1
        return count

    return run


def holds(home: Path, acknowledged: list[str]) -> None:
    """Check that what was acknowledged is there, and that the journal can be gone on with."""
    try:
        journal = Journal.open(home, create=not acknowledged)
    except NoJournalError as error:
        raise AssertionError("the journal is gone") from error
    with journal:
        seqs = [record.seq for record in journal.select()]
        assert seqs == list(range(1, len(seqs) + 1))
        found = names(journal) if journal.head("t") else []
        assert found[: len(acknowledged)] == acknowledged
        assert len(journal.payloads(seqs)) == len(seqs)
        journal.append([note("after")], durable=True)
        assert names(journal)[-1] == "after"
    assert (home / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE((home / "queue.sqlite").stat().st_mode) == 0o600


def test_a_first_run_in_a_new_place(survives: Callable[..., int]) -> None:
    """Key, directories and journal are new: what was acknowledged is there and opens."""
    count = survives(
        """
with Journal.open(home) as journal:
    for name in "abcd":
        add(journal, name)
""",
        holds,
        every=97,
        draws=3,
    )
    assert count > 100


FILLED = """
with Journal.open(home) as journal:
    for name in "abc":
        journal.append([note(name)], durable=True)
    journal.ingest()
    for name in "de":
        journal.append([note(name)], durable=True)
"""


def test_a_burst(survives: Callable[..., int]) -> None:
    """What DuckDB took has left the queue: it is in one of the two, whenever the power goes."""

    def check(home: Path, acknowledged: list[str]) -> None:
        with Journal.open(home, create=False) as journal, journal.reading():
            found = names(journal)
            assert found[: 5 + len(acknowledged)] == [*"abcde", *acknowledged]
            assert len(journal.payloads(range(1, len(found) + 1))) == len(found)
            assert journal.ingest() == len(found)
            counted = journal.sql("SELECT count(*), max(seq) FROM records")
            assert counted == [(len(found), len(found))]

    count = survives(
        """
with Journal.open(home) as journal:
    add(journal, "f")
    journal.ingest()
    add(journal, "g")
    journal.ingest()
""",
        check,
        before=FILLED.replace("    journal.ingest()\n", ""),
        every=401,
        draws=0,
    )
    assert count > 50


def test_a_compaction(survives: Callable[..., int]) -> None:
    """Everything that lives is there, whenever the power goes; what was deleted, only before."""

    def check(home: Path, marks: list[str]) -> None:
        with Journal.open(home, create=False) as journal:
            assert names(journal) == [*"abcde"]
            assert len(journal.payloads([r.seq for r in journal.select(thread="t")])) == 5
            assert journal.ingest() == journal.newest()
            assert names(journal) == [*"abcde"]
            generation = journal.generation
        assert [path.name for path in home.glob("*.duckdb")] == [f"journal.{generation}.duckdb"]
        found = examined(home).findings  # its records have not all the columns of real ones
        assert not [one for one in found if not one.what.endswith("has no run, step, attempt")]
        if marks:
            assert there(home, [b"forgotten-thread"]) == []

    count = survives(
        """
from notebook_agents.journal.compact import compact
with Journal.open(home) as journal:
    compact(journal)
    mark("compacted")
""",
        check,
        before=FILLED
        + """
with Journal.open(home) as journal:
    journal.append([note(name, thread="forgotten-thread") for name in "xyz"], durable=True)
    journal.ingest()
    journal.delete_thread("forgotten-thread")
""",
        every=41,
        draws=1,
    )
    assert count > 20


def test_a_rotation(survives: Callable[..., int]) -> None:
    """What is wrapped with the new key is never on disk before that key is."""

    def check(home: Path, marks: list[str]) -> None:
        opens(home)
        ring = load_ring(create=False)
        if marks:
            for name in {*ring.ids} - {ring.current_id}:
                editing.remove(name)
            opens(home)
        with Journal.open(home) as journal:
            rotate(journal, ring, ring.current)

    def opens(home: Path) -> None:
        with Journal.open(home, create=False) as journal:
            records = [r.seq for thread in "tuv" for r in journal.select(thread=thread)]
            assert len(journal.payloads(records)) == 7
            wrapped = [*journal.queue.keys().values(), *keycopy.read(home)[1].values()]
            assert {wrapped_by(one) for one in wrapped} <= {*load_ring(create=False).ids}

    count = survives(
        """
from notebook_agents.journal import rotation
from notebook_agents.sealing import editing, load_ring
rotation._SLICE = 1
editing.new()
ring = load_ring()
with Journal.open(home) as journal:
    rotation.rotate(journal, ring, ring.current)
    mark("rotated")
    os._exit(0)
""",
        check,
        before=FILLED
        + """
with Journal.open(home) as journal:
    journal.append([note("x", thread=name) for name in "uv"], durable=True)
""",
        every=7,
        draws=2,
    )
    assert count > 20


def test_a_backup(survives: Callable[..., int], tmp_path: Path) -> None:
    """What is listed is whole; one that was acknowledged is listed; the journal is untouched."""

    def check(home: Path, marks: list[str]) -> None:
        found = backups(home)
        assert len(found) >= len(marks)
        for each in found:
            shutil.rmtree(tmp_path / "again", ignore_errors=True)
            assert restore(each.path, tmp_path / "again", newer=True).complete
            with Journal.open(tmp_path / "again") as journal:
                assert names(journal)[:5] == [*"abcde"]
                assert len(journal.payloads([1, 2, 3, 4, 5])) == 5
        holds(home, [*"abcde"])

    count = survives(
        """
from notebook_agents.journal.backup import backup
backup(home)
mark("backed up")
""",
        check,
        before=FILLED,
        every=9,
        draws=1,
    )
    assert count > 50


def test_backups_that_go(survives: Callable[..., int]) -> None:
    """While an old one is removed and a new one made, there is always one that is whole."""

    def check(home: Path, marks: list[str]) -> None:
        found = backups(home)
        assert found
        for each in found:
            for name, size in _sizes(each.path).items():
                assert (each.path / name).stat().st_size == size

    count = survives(
        """
os.environ["NOTEBOOK_AGENTS_BACKUP_HOURS"] = "0"
os.environ["NOTEBOOK_AGENTS_BACKUP_KEEP"] = "1"
with Journal.open(home) as journal:
    add(journal, "f")
""",
        check,
        before=FILLED + "from notebook_agents.journal.backup import backup\nbackup(home)\n",
        every=40,
        draws=1,
    )
    assert count > 50


def _sizes(path: Path) -> dict[str, int]:
    manifest = json.loads((path / "backup.json").read_bytes())
    return {name: file["bytes"] for name, file in manifest["files"].items()}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_restore(damaged: bool, survives: Callable[..., int]) -> None:
    """The old journal or the restored one, whole; once it was acknowledged, the restored one."""

    def check(home: Path, marks: list[str]) -> None:
        try:
            journal = Journal.open(home, create=False)
        except (JournalFormatError, JournalDamagedError):
            assert damaged
            assert not marks
            return
        with journal:
            found = names(journal)
            assert len(journal.payloads(range(1, len(found) + 1))) == len(found)
        assert found in ([*"abcde"], [*"abcdefgh"])
        if marks or damaged:
            assert found == [*"abcde"]

    count = survives(
        """
from notebook_agents.journal.backup import newest_backup, restore
restore(newest_backup(home), home, newer=False)
mark("restored")
""",
        check,
        before=FILLED
        + """
from notebook_agents.journal.backup import backup
backup(home)
if pid := os.fork():
    os.waitpid(pid, 0)
else:
    journal = Journal.open(home)
    for name in "fgh":
        journal.append([note(name)], durable=True)
    os._exit(0)  # its log is left behind
"""
        + ("(home / 'queue.sqlite').write_bytes(b'?' * 4096)\n" if damaged else ""),
        every=10,
        draws=10,
    )
    assert count > 50


@pytest.mark.parametrize("file", ["queue.sqlite", "journal.1.duckdb"])
def test_a_repair(file: str, survives: Callable[..., int]) -> None:
    """Whenever the power goes, the next repair ends it, and every file put aside is as it was."""

    def check(home: Path, marks: list[str]) -> None:
        again = repair(home)
        assert again.sound
        assert not again.lost
        assert not (marks and again.rungs)
        assert list(home.glob(f"{file}.damaged-*"))
        holds(home, [*"abcde"])

    count = survives(
        """
from notebook_agents.journal.repair import repair
from notebook_agents.journal.rotation import rotate
from notebook_agents.sealing import editing, load_ring, wrapped_by
assert repair(home).complete
mark("repaired")
""",
        check,
        before=FILLED
        + f"""
with (home / {file!r}).open("r+b") as damaged:
    damaged.seek(20)
    damaged.write(bytes(80))
""",
        every=60,
        draws=1,
    )
    assert count > 20
