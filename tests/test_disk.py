"""A disk that is full, fails, is read-only or lies about the time: said, and nothing is lost."""

from __future__ import annotations

import errno
import json
import re
import threading
from typing import TYPE_CHECKING

import pytest
from test_journal import note

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.errors import JournalWriteError
from notebook_agents.faults import Fault
from notebook_agents.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

    from support.syscalls import Shim

AGENT = """
import errno, json, os, pathlib, sys
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
import notebook_agents as na
from support.syscalls import clock, fail, room

root = pathlib.Path(os.environ["NA_ROOT"])
root.mkdir(exist_ok=True)

class State(TypedDict, total=False):
    home: str

def note(home, line):
    with open(f"{root}-{os.path.basename(home)}.ledger", "a") as ledger:
        ledger.write(line + "\\n")

@na.step
def effect(home, number):
    note(home, f"effect {number}")
    return os.urandom(60_000)

def work(state):
    for number in range(14):
        if number == 6:
            exec(os.environ["FAULT"])
        effect(state["home"], number)
        note(state["home"], f"returned {number}")
    return {}

graph = StateGraph(State)
graph.add_node(work)
graph.add_edge(START, "work")
graph.add_edge("work", END)

def run(home, fault):
    \"\"\"Run the agent in a process of its own; return what came of it.\"\"\"
    ours, its = os.pipe()
    if pid := os.fork():
        os.close(its)
        said = os.fdopen(ours).read()
        os.waitpid(pid, 0)
        return said
    os.environ["FAULT"] = fault
    try:
        with na.Journal.open(home) as journal:
            run = na.Agent(graph.compile(), "disk", journal).run({"home": str(home)}, thread="t")
            said = str(run.status)
    except na.errors.NotebookAgentsError as error:
        said = f"{type(error).__name__}: {error}"
    except BaseException as error:
        said = repr(error)
    os.write(its, said.encode())
    os._exit(0)

"""

FAULTS = {
    "full": "room(0)",
    "nearly full": "room(100_000)",
    "quota": "fail('write', 'queue.sqlite', errno.EDQUOT)",
    "write error": "fail('write', 'queue.sqlite', errno.EIO)",
    "lost sync": "fail('sync', 'queue.sqlite', errno.EIO, times=1)",
    "read-only": "[fail(op, '', errno.EROFS) for op in ('write', 'create', 'open', 'unlink')]",
}


def effects(home: Path) -> tuple[list[str], list[str]]:
    """Return the numbers of the steps that had an effect, and of those that returned, in order."""
    path = home.parent.with_name(f"{home.parent.name}-{home.name}.ledger")
    lines = [line.split() for line in path.read_text().splitlines()]
    effect, returned = (
        [to for what, to in lines if what == each] for each in ("effect", "returned")
    )
    return effect, returned


@pytest.mark.parametrize("network", ["0", "1"], ids=["log", "rollback journal"])
def test_a_run_stops_loudly_and_goes_on_when_the_disk_is_mended(
    network: str, tmp_path: Path, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do; then no step that returned runs again, and none is missing."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_ON_NETWORK", network)
    root = tmp_path / "disks"
    program = (
        f"faults = {FAULTS!r}\n"
        """
print(json.dumps({name: run(root / name, fault) for name, fault in faults.items()}))
"""
    )
    stopped = json.loads(shim.run(AGENT + program, root).splitlines()[-1])
    before = {name: effects(root / name)[1] for name in FAULTS}
    again = (
        f"names = {list(FAULTS)!r}\n"
        """
print(json.dumps({name: run(root / name, "") for name in names}))
"""
    )
    resumed = json.loads(shim.run(AGENT + again, root).splitlines()[-1])
    for name in FAULTS:
        assert stopped[name].startswith("JournalWriteError: "), (name, stopped[name])
        assert str(root / name) in stopped[name]
        assert re.search(r"free some space|look at the system's log|it writable", stopped[name]), (
            stopped[name]
        )
        assert resumed[name] == "succeeded", (name, resumed[name])
        did, _ = effects(root / name)
        assert 6 <= len(before[name]) < 14, name
        assert sorted(set(did), key=int) == [str(number) for number in range(14)], name
        assert [number for number in before[name] if did.count(number) != 1] == [], name
        with Journal.open(root / name) as journal:
            seqs = [record.seq for record in journal.select()]
            assert len(journal.payloads(seqs)) == len(seqs) == max(seqs)
            assert (root / name / "queue.sqlite-wal").exists() == (network == "0")


SYNCS = """
import errno, os, pathlib, sys
from notebook_agents.errors import JournalWriteError
from notebook_agents.journal import Journal
from support.syscalls import fail, mend
from test_journal import note
home = pathlib.Path(os.environ["NA_ROOT"])

def told(journal, name):
    try:
        journal.append([note(name)], durable=True)
    except JournalWriteError as error:
        return "refused"
    return "acknowledged"
"""


def test_after_a_lost_sync_nobody_acknowledges_until_the_log_is_written_again(
    home: Path, shim: Shim
) -> None:
    """The next sync would succeed without the data: not for this process, nor for one that came."""
    said = shim.run(
        SYNCS
        + """
one, two = Journal.open(home), Journal.open(home)
print(told(one, "a"), told(two, "b"))
fail("sync", "queue.sqlite-wal", errno.EIO, times=1)
print(told(one, "c"), told(one, "d"), told(two, "e"), told(two, "f"))
three = Journal.open(home)
print(told(three, "g"))
for journal in (one, two, three):
    try:
        journal.close()
    except JournalWriteError:
        print("refused")
assert (home / "queue.unsynced").exists()
assert (home / "queue.sqlite-wal").exists()  # not folded by whom cannot vouch for it
with Journal.open(home) as journal:
    print(told(journal, "h"))
""",
        home,
    )
    assert said.split() == ["acknowledged"] * 2 + ["refused"] * 8 + ["acknowledged"]
    assert not (home / "queue.unsynced").exists()
    with Journal.open(home) as journal:
        found = [record.name for record in journal.select(thread="t")]
    assert [name for name in found if name in "abh"] == ["a", "b", "h"]


def test_a_lost_sync_is_remembered_where_no_mark_can_be_left(home: Path, shim: Shim) -> None:
    """The disk that failed may not take the mark either: the process itself stops all the same."""
    said = shim.run(
        SYNCS
        + """
journal = Journal.open(home)
fail("create", "queue.unsynced", errno.EROFS)
print(told(journal, "a"))
fail("sync", "queue.sqlite-wal", errno.EIO, times=1)
print(told(journal, "b"), told(journal, "c"), told(journal, "d"))
assert not (home / "queue.unsynced").exists()
print(flush=True)
os._exit(0)
""",
        home,
    )
    assert said.split() == ["acknowledged"] + ["refused"] * 3


def test_a_sync_that_is_lost_before_a_fork_is_not_forgotten(home: Path, shim: Shim) -> None:
    """Nobody waits for that sync, and the next one would succeed: nothing is acknowledged on it."""
    said = shim.run(
        SYNCS
        + """
journal = Journal.open(home)
print(told(journal, "a"))
journal.append([note("b")], durable=False)
fail("sync", "queue.sqlite-wal", errno.EIO, times=1)
if pid := os.fork():
    os.waitpid(pid, 0)
    print(told(journal, "c"), (home / "queue.unsynced").exists())
sys.stdout.flush()
os._exit(0)
""",
        home,
    )
    assert said.split() == ["acknowledged", "refused", "True"]


def test_a_journal_whose_disk_fails_for_good_is_closed(home: Path, shim: Shim) -> None:
    """`close` says so as `append` does, and leaves nothing open."""
    said = shim.run(
        SYNCS
        + """
journal = Journal.open(home)
journal.append([note("a")], durable=True)
fail("sync", "queue.sqlite-wal", errno.EIO)
print(told(journal, "b"))
try:
    journal.close()
except JournalWriteError:
    print("refused")
left = [path for path in map(os.path.realpath, pathlib.Path("/proc/self/fd").iterdir())]
print([path for path in left if path.startswith(str(home))])
sys.stdout.flush()
os._exit(0)
""",
        home,
    )
    assert said.split() == ["refused", "refused", "[]"]


@pytest.mark.parametrize("file", ["queue.lock", "queue.mark", "queue.sqlite"])
def test_too_many_open_files_are_said_and_damage_nothing(file: str, home: Path, shim: Shim) -> None:
    """A process that cannot open what it needs records nothing; it goes on when it can."""
    said = shim.run(
        SYNCS
        + f"""
with Journal.open(home) as journal:
    print(told(journal, "a"))
journal = Journal.open(home)
for op in ("open", "create"):
    fail(op, {file!r}, errno.EMFILE)
print(told(journal, "b"))
try:
    journal.data_key("new")
except JournalWriteError as error:
    print("refused")
mend()
print(told(journal, "c"))
journal.close()
with Journal.open(home) as journal:
    print(*(record.name for record in journal.select(thread="t")))
""",
        home,
    )
    assert said.split() == ["acknowledged", "refused", "refused", "acknowledged", "a", "c"]


def test_duckdb_that_cannot_write_leaves_the_records_in_the_queue(home: Path, shim: Shim) -> None:
    """A burst on a full or failing disk loses nothing, and a later one takes them over."""
    said = shim.run(
        SYNCS
        + """
from support.syscalls import room
faults = [
    lambda: room(0),
    lambda: room(10_000),
    lambda: fail("sync", "/journal.1.duckdb", errno.EIO, times=1),
    lambda: fail("sync", "/journal.1.duckdb.wal", errno.EIO, times=1),
    lambda: fail("write", "/journal.1.duckdb"),
]
count = 0
for fault in faults:
    with Journal.open(home) as journal:
        for _ in range(20):
            journal.append([note("x" * 900)], durable=True)
        count += 20
        fault()
        try:
            journal.ingest()
            print("taken")
        except JournalWriteError as error:
            print("refused")
        mend()
        assert len(journal.select(thread="t")) == count
        journal.append([note("y")], durable=True)
        count += 1
        assert journal.ingest() == count
        assert journal.sql("SELECT count(*), max(seq) FROM records") == [(count, count)]
""",
        home,
    )
    assert said.split().count("refused") >= 4


def test_records_whose_sync_failed_in_duckdb_stay_in_the_queue_until_one_succeeds(
    home: Path, shim: Shim
) -> None:
    """Killed anywhere after a failed sync: a later burst does not take memory for the disk."""
    said = shim.run(
        SYNCS
        + """
import duckdb, shutil
from support.syscalls import killed_at_each
with Journal.open(home) as journal:
    journal.append([note("a"), note("b")], durable=True)
    journal.ingest()
    journal.append([note("c"), note("d")], durable=True)
kept = home.with_name("kept")
shutil.copytree(home, kept)

def burst():
    with Journal.open(home) as journal:
        fail("sync", "/journal.1.duckdb.wal", errno.EIO, times=1)
        try:
            journal._archive.ingest()  # DuckDB's part of it
        except JournalWriteError:
            pass

def after(number):
    with Journal.open(home) as journal:
        if journal._queue.bounds()[0] < 4:
            fail("sync", "/journal.1.duckdb", errno.EIO)
            try:
                print("taken", journal.ingest())
            except JournalWriteError:
                print("refused")
            assert journal._queue.bounds() == (2, 4)
            mend()
        assert journal.ingest() == 4
        assert journal.sql("SELECT count(*) FROM records") == [(4,)]
    shutil.rmtree(home)
    shutil.copytree(kept, home)

killed_at_each(burst, after)
""",
        home,
    )
    assert set(said.split()) == {"refused"}


@pytest.mark.parametrize("error", ["EROFS", "EACCES", "ENOSPC"])
def test_a_directory_that_cannot_be_written_is_said(error: str, home: Path, shim: Shim) -> None:
    """Making a journal there, or opening one, names the directory and the way out."""
    program = (
        SYNCS
        + f"""
for op in ("create", "open"):
    fail(op, "", errno.{error})
try:
    Journal.open(home)
except JournalWriteError as error:
    print(error)
"""
    )
    for _ in range(2):
        said = shim.run(program, home)
        assert str(home) in said
        assert "NOTEBOOK_AGENTS_HOME" in said or "free some space" in said
        with Journal.open(home) as journal:
            assert journal.select() == []


def test_a_key_file_on_a_full_disk_is_made_whole_or_not_at_all(tmp_path: Path, shim: Shim) -> None:
    """No run seals anything with a key that is not on disk."""
    said = shim.run(
        """
        import errno, os, pathlib
        from notebook_agents.errors import KeyMissingError
        from notebook_agents.sealing import load_ring
        from support.syscalls import fail, mend, room
        data = pathlib.Path(os.environ["NA_ROOT"])
        os.environ["JUPYTER_DATA_DIR"] = str(data)
        for op in ("create", "write", "sync", "link"):
            fail(op, "notebook_agents", errno.EIO, times=1)
            try:
                load_ring()
            except KeyMissingError as error:
                print("refused", list((data / "notebook_agents").glob("*")))
            mend()
        room(10)
        try:
            load_ring()
        except KeyMissingError as error:
            print("refused", error)
        mend()
        print(load_ring().created_at)
        """,
        tmp_path / "place",
    )
    lines = said.splitlines()
    assert lines[:4] == ["refused []"] * 4
    assert "No space left" in lines[4]
    assert lines[5].endswith("keys.json")


def test_a_clock_that_jumps_changes_no_order(tmp_path: Path, shim: Shim) -> None:
    """Numbers order the records; no duration is negative; the run comes to its end."""
    root = tmp_path / "clocks"
    program = """
for years in (-30, 30):
    print(run(root / str(years), f"clock({years} * 31_000_000)"))
"""
    assert shim.run(AGENT + program, root).split()[-2:] == ["succeeded"] * 2
    for years in ("-30", "30"):
        did, returned = effects(root / years)
        assert did == returned == [str(number) for number in range(14)]
        with na.Journal.open(root / years) as journal:
            steps = na.Run(journal, "t", 1).steps
            journal.ingest()
            assert journal.sql("SELECT count(*) FROM steps WHERE seconds >= 0") == [(15,)]
        assert len(steps) == 15
        assert all(step.seconds is not None and step.seconds >= 0 for step in steps)


def test_nobody_is_told_of_a_transaction_that_cannot_be_looked_up(home: Path) -> None:
    """Neither who led nor who waited is acknowledged, nor is anybody until it is opened again."""

    def fail(fault: Fault) -> None:
        if fault is Fault.COMMIT_AFTER:
            journal._writer._connection.close()  # what is in the file cannot be read any more
            raise OSError(errno.EIO, "Input/output error")

    journal = Journal.open(home)
    journal.append([note("before")], durable=True)
    refused: list[str] = []

    def append(name: str) -> None:
        try:
            journal.append([note(name)], durable=True)
        except JournalWriteError as error:
            refused.append(str(error))

    faults.arm(fail)
    try:
        workers = [threading.Thread(target=append, args=(name,)) for name in "abcd"]
        with journal._writer.leading:  # so that they are one group, or two
            for worker in workers:
                worker.start()
        for worker in workers:
            worker.join()
    finally:
        faults.arm(None)
    append("later")
    assert len(refused) == 5
    assert all("nor read to see" in message for message in refused)
    with pytest.raises(JournalWriteError):
        journal.close()
    with Journal.open(home) as again:
        found = [record.name for record in again.select(thread="t")]
        again.append([note("after")], durable=True)
    assert found[0] == "before"
    assert set(found) <= {"before", *"abcd"}
