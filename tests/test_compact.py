"""Compaction: what was deleted is gone as bytes, what lives stays, whoever is killed or writes."""

from __future__ import annotations

import json
import operator
import os
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from support.checks import add, chain
from test_journal import names, note

import notebook_agents as na
from notebook_agents.errors import CompactedError, UnknownThreadError
from notebook_agents.journal import Draft
from notebook_agents.journal.backup import backup, restore
from notebook_agents.journal.check import check
from notebook_agents.journal.compact import compact
from notebook_agents.journal.repair import repair
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from support.syscalls import Shim

GONE, STAYS = "forget-this-thread", "keep-this-thread"


class Lines(TypedDict, total=False):
    lines: Annotated[list[str], operator.add]


def line(n: int) -> str:
    """Return a text that is a chunk of its own."""
    return f"{n} long enough to be a chunk of its own " * 12


def grow(journal: na.Journal, thread: str, *numbers: int) -> list[str]:
    """Have a plain LangGraph graph add lines to a thread, one a run; return all of them."""
    config: Any = {"configurable": {"thread_id": thread}}
    for n in numbers:
        builder = StateGraph(Lines).add_node("grow", lambda _, n=n: {"lines": [line(n)]})
        graph = builder.add_edge(START, "grow").compile(checkpointer=na.JournalSaver(journal))
        graph.invoke({}, {**config, "metadata": {"run_id": f"{thread}-{n}"}})
    graph = StateGraph(Lines).add_node("grow", lambda _: {}).add_edge(START, "grow")
    found: list[str] = (
        graph.compile(checkpointer=na.JournalSaver(journal)).get_state(config).values["lines"]
    )
    return found


def said(name: str, **columns: Any) -> Draft:
    """Return a small record that lacks nothing."""
    return note(name, **{"run": 1, "step": "s" * 24, "attempt": 1, **columns})


def stored(journal: na.Journal) -> dict[int, tuple[str, bytes]]:
    """Return thread and sealed payload of every record, by number."""
    journal.ingest()
    with journal.burst() as connection:
        rows = connection.execute("SELECT seq, thread, payload FROM records").fetchall()
    return {seq: (thread, payload) for seq, thread, payload in rows}


def raw(home: Path) -> bytes:
    """Return what all files of a journal hold."""
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def there(home: Path, what: Iterable[bytes]) -> list[bytes]:
    """Return which of these bytes are in the files."""
    held = raw(home)
    return [one for one in what if one in held]


def files(home: Path) -> set[str]:
    """Return the names of the DuckDB files, finished or not, and of what says how far one got."""
    names = {path.name for path in home.iterdir()}
    return {one for one in names if ".duckdb" in one or one.endswith(".json")}


def test_what_was_deleted_is_in_no_file_any_more(home: Path) -> None:
    """Sealed payloads, names and plain columns are gone, while others still have it open."""
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        agent = na.Agent(chain(add), "an-agent-that-goes", journal)
        for n in range(12):
            grow(journal, f"{STAYS}-{n}", 1, 2)
            agent.run({"n": n}, thread=f"{GONE}-{n}")
        known = stored(journal)
        run = agent.run({"n": 5}, thread=f"{GONE}-in-the-queue")
        sealed = [payload for _, payload in known.values() if payload]
        words = [GONE.encode(), b"an-agent-that-goes", *(step.id.encode() for step in run.steps)]
        assert len(there(home, [*sealed, *words])) == len(sealed) + len(words)
        for head in other.heads():
            if head.thread.startswith(GONE):
                other.delete_thread(head.thread)
        done = compact(journal)
        assert done.erased
        assert done.records_after == len(other.select())
        assert there(home, words) == []
        gone = [p for thread, p in known.values() if thread.startswith(GONE)]
        assert there(home, gone) == []
        lives = [p for thread, p in known.values() if thread.startswith(STAYS)]
        assert there(home, lives) == lives
        assert grow(other, f"{STAYS}-3", 3) == [line(1), line(2), line(3)]
    assert there(home, [*words, *gone]) == []
    assert check(home).findings == []


def test_what_was_pruned_is_gone_and_what_it_shares_stays(home: Path) -> None:
    """Of pruned checkpoints nothing is left but the values that a shown one refers to."""
    with na.Journal.open(home) as journal:
        grow(journal, "t", *range(40))
        known = stored(journal)
        na.JournalSaver(journal).prune(["t"])
        before = journal.head("t")
        done = compact(journal)
        after = journal.head("t")
        assert before is not None
        assert after is not None
        assert after.records < before.records
        assert done.records_after < len(known) / 2
        left = stored(journal)
        gone = [p for seq, (_, p) in known.items() if seq not in left]
        assert there(home, gone) == []
        assert grow(journal, "t", 40) == [line(n) for n in range(41)]
        assert compact(journal).records_after >= done.records_after
    assert check(home).findings == []


def test_values_of_a_deleted_thread_stay_for_its_fork(home: Path) -> None:
    """A copy shares chunks: those stay that it refers to, the others go with the thread."""
    with na.Journal.open(home) as journal:
        grow(journal, "t", 1, 2)
        na.JournalSaver(journal).copy_thread("t", "copy")
        grow(journal, "t", 3)
        known = stored(journal)
        journal.delete_thread("t")
        compact(journal)
        assert grow(journal, "copy") == [line(1), line(2)]
        assert journal.head("t") is None
        held = there(home, [payload for _, payload in known.values()])
        assert 0 < len(held) < len(known)
        journal.delete_thread("copy")
        compact(journal)
        assert there(home, [payload for _, payload in known.values()]) == []
        assert there(home, [b"copy"]) == []
        grow(journal, "t", 9)
    assert check(home).findings == []


def test_a_thread_that_was_made_anew_counts_its_own_records(home: Path) -> None:
    """Those that go were counted by the head that its deletion took, not by the one of now."""
    with na.Journal.open(home) as journal:
        grow(journal, "t", *range(10))
        journal.delete_thread("t")
        grow(journal, "t", 100, 101)
        compact(journal)
        head = journal.head("t")
        assert head is not None
        assert head.records == len(journal.select(thread="t")) > 0
    assert check(home).findings == []


def test_a_process_that_knew_pruned_values_goes_on(
    home: Path, journal: na.Journal, forked: Callable[..., int]
) -> None:
    """Who has the numbers of values that a compaction elsewhere took away stores them again."""
    for n in range(3):
        journal.append(
            [Draft(kind=Kind.CHECKPOINT, thread="o", scope="o", ref=str(n))], durable=True
        )
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    saver = na.JournalSaver(journal)

    def put(number: int, value: str) -> None:
        checkpoint: Any = {
            "v": 4,
            "ts": "",
            "id": f"{number:032}",
            "versions_seen": {},
            "channel_values": {"x": value},
            "channel_versions": {"x": number},
        }
        saver.put(config, checkpoint, {}, {})

    put(1, line(1))
    put(2, line(2))

    def elsewhere() -> None:
        with na.Journal.open(home) as other:
            na.JournalSaver(other).prune(["t"])
            compact(other)

    assert forked(elsewhere) == 0
    put(3, line(1))
    with na.Journal.open(home) as fresh:
        found = na.JournalSaver(fresh).get_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"x": line(1)}


def test_a_driver_that_refers_to_what_is_gone_writes_nothing_more(
    home: Path, journal: na.Journal, forked: Callable[..., int]
) -> None:
    """Its checkpoint is refused, staged or not, and so is an intent that may rest on it."""
    chunk = Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"\0x", digest=b"x" * 16)
    journal.append([said("a"), chunk, said("b")], durable=True)

    def elsewhere() -> None:
        with na.Journal.open(home) as other:
            compact(other)

    assert forked(elsewhere) == 0
    head = journal.head("t")
    assert head is not None
    journal.stage([said("checkpoint", token=head.token, refs=[chunk])])
    for name in ("intent", "another"):
        with pytest.raises(CompactedError, match="thread 't' refers to values"):
            journal.append([said(name, token=head.token)], durable=True)
    journal.append([said("c")], durable=True)
    assert names(journal) == ["a", "b", "c"]


def test_a_thread_that_is_taken_up_meanwhile_keeps_everything(home: Path) -> None:
    """Between plan and exchange somebody stores a pruned value by its number: it stays."""
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        chunk = Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"\0x", digest=b"x" * 16)
        other.append([said("a"), chunk, said("b")], durable=True)
        asked: list[int] = []

        def meanwhile(done: int, _of: int) -> None:
            if not asked:
                other.append([said("c", refs=[chunk])], durable=True)
            asked.append(done)

        compact(journal, progress=meanwhile)
        assert names(other) == ["a", None, "b", "c"]
        assert other.payload(chunk.seq) == b"\0x"
    assert check(home).findings == []


def test_others_write_and_read_while_it_is_compacted(home: Path, tmp_path: Path) -> None:
    """No record of a process that appends, reads and lets DuckDB take over is lost or doubled."""
    stop = tmp_path / "stop"
    with na.Journal.open(home) as journal:
        for n in range(20):
            grow(journal, f"{GONE}-{n}", 1)
        children = []
        for child in "ab":
            if not (pid := os.fork()):
                work(home, child, stop)
            children.append(pid)
        for n in range(20):
            journal.delete_thread(f"{GONE}-{n}")
            if n % 5 == 4:
                assert compact(journal).pause_ms > 0
        stop.touch()
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
        for child in "ab":
            found = names(journal, child)
            assert len(found) > 10
            assert found == [str(n) for n in range(len(found))]
        assert journal.generation == 5
    assert check(home).findings == []


def work(home: Path, thread: str, stop: Path) -> None:
    """Append and read until told to stop; never return."""
    code = 1
    try:
        with na.Journal.open(home) as journal:
            n = 0
            while not stop.exists() or n < 20:
                journal.append([said(str(n), thread=thread)], durable=n % 3 == 0)
                n += 1
                if n % 10 == 0:
                    journal.ingest()
                    records = journal.select(thread=thread)
                    assert len(records) == n
                    assert len(journal.payloads([r.seq for r in records])) == n
        code = 0
    finally:
        os._exit(code)


KILLED = """
import os, pathlib, shutil
from notebook_agents.journal import Journal
from notebook_agents.journal.check import check
from notebook_agents.journal.compact import compact
from support.syscalls import killed_at_each
from test_compact import files, there
home = pathlib.Path(os.environ["NA_ROOT"])
kept = home.with_name("kept")
shutil.copytree(home, kept)
with Journal.open(home) as journal:
    lives = {r.seq for r in journal.select() if r.thread == "keep-this-thread"}
    texts = journal.payloads(sorted(lives))
shutil.rmtree(home)
shutil.copytree(kept, home)
seen = []

def compacts():
    with Journal.open(home) as journal:
        compact(journal)

def after(number):
    with Journal.open(home, create=False) as journal:
        assert journal.payloads(sorted(lives)) == texts, number
        seen.append(journal.generation)
    found = check(home)
    assert found.findings == [], (number, found.findings)
    with Journal.open(home, create=False) as journal:
        done = compact(journal)
        assert journal.payloads(sorted(lives)) == texts, number
        assert done.erased
        assert files(home) == {f"journal.{journal.generation}.duckdb"}, (number, files(home))
    assert there(home, [b"forget-this-thread"]) == [], number
    assert check(home).findings == []
    shutil.rmtree(home)
    shutil.copytree(kept, home)

killed = killed_at_each(compacts, after, step=23)
print(killed, *seen)
"""


def test_a_compaction_killed_anywhere_leaves_one_generation_whole(home: Path, shim: Shim) -> None:
    """Before each write, sync, rename: it opens, it is whole, and the next one cleans up."""
    with na.Journal.open(home) as journal:
        for n in range(3):
            grow(journal, STAYS, n)
            grow(journal, f"{GONE}-{n}", n)
        journal.ingest()
        grow(journal, f"{GONE}-3", 3)
        for n in range(4):
            journal.delete_thread(f"{GONE}-{n}")
    killed, *seen = map(int, shim.run(KILLED, home).split())
    assert killed > 8
    assert set(seen) == {1, 2}
    assert seen == sorted(seen)


@pytest.mark.parametrize("damaged", ["queue", "archive"])
def test_a_repair_brings_nothing_back_that_was_compacted_away(home: Path, damaged: str) -> None:
    """Left out is not lost; and what an older backup still has of it stays there."""
    with na.Journal.open(home) as journal:
        grow(journal, GONE, 1)
        grow(journal, STAYS, 1, 2)
        journal.ingest()
    backup(home)
    with na.Journal.open(home) as journal:
        journal.delete_thread(GONE)
        assert len(compact(journal).elsewhere) == 1
    with na.Journal.open(home) as journal:
        compact(journal)
        last = journal.newest()
    if damaged == "queue":
        (home / "queue.sqlite").unlink()
    else:
        (home / "journal.3.duckdb").write_bytes(b"nothing" * 4096)
    done_by = repair(home)
    assert done_by.sound
    assert [one.seq for one in done_by.lost] == []
    with na.Journal.open(home) as journal:
        assert journal.head(GONE) is None
        assert grow(journal, STAYS) == [line(1), line(2)]
        assert journal.newest() == last
        compact(journal)
    assert check(home).findings == []


def test_a_compacted_journal_is_backed_up_and_restored(home: Path, tmp_path: Path) -> None:
    """Numbers that are not there are no damage to a backup; one from before is restored too."""
    with na.Journal.open(home) as journal:
        grow(journal, GONE, 1)
        grow(journal, STAYS, 1)
    before = backup(home, tmp_path / "before")
    with na.Journal.open(home) as journal:
        journal.delete_thread(GONE)
        na.JournalSaver(journal).prune([STAYS])
        compact(journal)
        grow(journal, STAYS, 2)
    after = backup(home, tmp_path / "after")
    for made, lines in ((after, [line(1), line(2)]), (before, [line(1)])):
        restore(made.path, home, newer=False)
        assert check(home).findings == []
        with na.Journal.open(home) as journal:
            assert grow(journal, STAYS) == lines


def test_records_newer_than_a_backup_come_back_over_a_compaction(home: Path) -> None:
    """The heads of a compacted journal count less than the records of a backup from before it."""
    with na.Journal.open(home) as journal:
        grow(journal, "t", *range(5))
        na.JournalSaver(journal).prune(["t"])
        journal.ingest()
    made = backup(home)
    with na.Journal.open(home) as journal:
        compact(journal)
        journal.append([said("newer", run=0)], durable=True)
    report = restore(made.path, home, newer=True)
    assert report.replayed == 1
    assert check(home).findings == []


def test_in_exclusive_mode_it_goes_on_with_the_new_file(home: Path) -> None:
    """The kept connection follows; two at once are refused, and an empty journal is no matter."""
    with na.Journal.open(home, mode="exclusive") as journal:
        assert compact(journal).records_after == 0
        grow(journal, GONE, 1)
        grow(journal, STAYS, 1)
        journal.delete_thread(GONE)
        compact(journal)
        assert grow(journal, STAYS, 2) == [line(1), line(2)]
        with na.Journal.open(home) as other:
            assert other.generation == 3
    assert files(home) == {"journal.3.duckdb"}
    assert check(home).findings == []


def test_the_command_says_what_it_did(home: Path, cli: Callable[..., Any]) -> None:
    """A dry run changes nothing; --json has what Python's object has."""
    with na.Journal.open(home) as journal:
        grow(journal, GONE, *range(40))
        grow(journal, STAYS, 1)
        journal.delete_thread(GONE)
    ended = cli("journal", "compact", "--journal", str(home), "--dry-run")
    assert ended.code == 0
    assert "would" in ended.out
    assert there(home, [GONE.encode()])
    ended = cli("journal", "compact", "--journal", str(home), "--json")
    told = json.loads(ended.out)
    assert told["records_after"] < told["records_before"]
    assert told["bytes_after"] < told["bytes_before"]
    assert (told["generation"], told["erased"], told["dry_run"]) == (2, True, False)
    assert told["pause_ms"] > 0
    assert there(home, [GONE.encode()]) == []
    ended = cli("journal", "compact", "--journal", str(home))
    assert ended.code == 0
    assert "records" in ended.out


def test_nothing_forks_at_a_point_that_is_gone(home: Path) -> None:
    """A step whose state was pruned is refused by name, and not forked at an older state."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), "counter", journal)
        runs = [
            agent.run({"n": n}, thread="t", config={"metadata": {"run_id": f"run-{n}"}})
            for n in (0, 10, 20)
        ]
        na.JournalSaver(journal).delete_for_runs(["run-10"])
        steps = [run.steps[0].id for run in runs]
        for _ in range(2):  # not compacted, and compacted
            with pytest.raises(UnknownThreadError, match="was pruned"):
                agent.fork("t", at=steps[1])
            for step in (steps[0], steps[2]):
                fork = agent.fork("t", at=step)
                assert agent.resume(fork.name).value == runs[steps.index(step)].value
            compact(journal)
