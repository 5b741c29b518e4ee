"""Forks, spawned processes, subinterpreters: they work or say that they do not; nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from support.checks import State, add, chain

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.errors import ThreadBusyError
from notebook_agents.faults import Fault
from notebook_agents.journal import Draft
from notebook_agents.journal.backup import backups
from notebook_agents.journal.forks import open_journals
from notebook_agents.model import Kind, RunStatus

EXITS = Path(__file__).parent / "support" / "exits.py"


def note(journal: na.Journal, thread: str, count: int) -> None:
    """Append records durably."""
    for _ in range(count):
        journal.append([Draft(kind=Kind.MESSAGE, thread=thread, scope=thread)], durable=True)


@pytest.mark.parametrize("killed", [False, True])
def test_a_child_outlives_its_parents_journal(home, forked, killed):
    """What a forked child appends after its parent closed is there, also if it is killed then."""

    def parent() -> None:
        journal = na.Journal.open(home)
        note(journal, "parent", 1)
        noted, closed = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            note(journal, "child", 3)
            os.write(noted[1], b"x")
            os.read(closed[0], 1)
            note(journal, "child", 5)
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            journal.close()
            os._exit(0)
        os.read(noted[0], 1)
        journal.close()
        os.write(closed[1], b"x")
        os.waitpid(child, 0)

    assert forked(parent) == 0
    with na.Journal.open(home) as journal:
        assert [len(journal.select(thread=name)) for name in ("parent", "child")] == [1, 8]


FORKS = 12
"""In the suite; `python tests/support/exits.py DIR/journal 50` is what is promised."""


def test_a_child_and_its_parent_read_what_the_other_stored(home, forked):
    """Neither takes what it appended itself for all that there is."""
    at = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    def parent() -> None:
        journal = na.Journal.open(home)
        saver = na.JournalSaver(journal)

        def put() -> None:
            made = saver.put(at, empty_checkpoint(), {"parents": {}}, {})
            assert saver.get_tuple(at).config == made

        put()
        put()
        before = saver.get_tuple(at)
        if (child := os.fork()) == 0:
            assert saver.get_tuple(at) == before
            put()
            journal.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        after = saver.get_tuple(at)
        assert after.config != before.config
        put()
        other = na.Journal.open(home)
        assert na.JournalSaver(other).get_tuple(at) == saver.get_tuple(at)

    assert forked(parent) == 0


def test_forks_and_exits_of_busy_processes(tmp_path):
    """Children of a busy process that end while they are busy: no abort, nothing lost."""
    home = tmp_path / "journal"
    command = [sys.executable, str(EXITS), str(home), str(FORKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr, done.stderr
    with na.Journal.open(home) as journal:
        assert [record.seq for record in journal.select()] == list(range(1, journal.newest() + 1))
        for path in tmp_path.glob("*.acks"):
            found = [record.name for record in journal.select(thread=path.stem)]
            assert found == list(map(str, range(len(found))))
            assert len(found) >= len(path.read_text()) >= 1
    assert len(list(tmp_path.glob("*.acks"))) == FORKS + 1


def run_agent(home: Path, thread: str) -> None:
    """Be the body of a process: run an agent."""
    with na.Journal.open(home) as journal:
        assert na.Agent(chain(add), "counter", journal).run({"n": 1}, thread=thread).value["n"] == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(home, method):
    """Processes of `multiprocessing` run agents on the same journal while their parent has it."""
    context = multiprocessing.get_context(method)
    with na.Journal.open(home) as journal:
        run_agent(home, "parent")
        workers = [context.Process(target=run_agent, args=(home, f"t{n}")) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        run_agent(home, "later")
        threads = {info.thread: info.status for info in journal.threads()}
    assert threads == dict.fromkeys(("parent", "t0", "t1", "later"), RunStatus.SUCCEEDED)


def test_a_node_forks(home, journal):
    """A child of a running node runs an agent on another thread, and is refused its parent's."""

    def node(state: State) -> State:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                other = na.Agent(chain(add), "inner", journal)
                assert other.run({"n": 1}, thread="other").value["n"] == 2
                with pytest.raises(ThreadBusyError, match=f"process {os.getppid()} "):
                    na.resume("t", journal=journal)
                code = 0
            finally:
                os._exit(code)
        return {"n": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}

    run = na.Agent(chain(node, add), "outer", journal).run({"n": 9}, thread="t")
    assert run.value["n"] == 1
    assert journal.thread("other").status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    "code",
    [
        "import notebook_agents as na; na.step",
        "import notebook_agents as na; na.Journal",
        "from notebook_agents.journal import Journal",
    ],
)
def test_a_subinterpreter(python, code):
    """It says at once that nothing is recorded there, instead of hanging in an import."""
    done = python(
        "import _xxsubinterpreters as other, notebook_agents as na\n"
        "na.Journal\n"
        f"other.run_string(other.create(), {code!r})"
    )
    assert done.code == 1
    assert "NotDurableError" in done.err
    assert "in a process of its own" in done.err


def test_a_child_does_not_keep_a_killed_parents_locks(home, forked):
    """A parent that is killed inside a transaction gives its lock back, though a child lives on."""
    gate = os.pipe()

    def parent() -> None:
        journal = na.Journal.open(home)
        note(journal, "parent", 1)
        if os.fork() == 0:
            os.close(gate[1])
            os.read(gate[0], 1)  # until the test is over
            os._exit(0)
        faults.arm(lambda at: at is Fault.COMMIT_BEFORE and os.kill(os.getpid(), signal.SIGKILL))
        note(journal, "parent", 1)

    def later() -> None:
        os.close(gate[1])
        signal.alarm(20)  # it would wait for as long as the child lives
        with na.Journal.open(home) as journal:
            note(journal, "later", 1)
            assert len(journal.select(thread="parent")) == 1

    if (killed := os.fork()) == 0:  # not `forked`: that would wait for the child, too
        try:
            parent()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
    try:
        assert forked(later) == 0
    finally:
        os.close(gate[1])
        os.close(gate[0])


def test_forks_beside_a_scheduled_backup(home, forked, monkeypatch):
    """A process that forks while its backups are made neither hangs nor takes them along."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "1")

    def parent() -> None:
        signal.alarm(60)
        others = {*open_journals}  # that other tests left
        for number in range(6):
            with na.Journal.open(home / str(number)) as journal:
                note(journal, "t", 1)
                while not backups(home / str(number)):
                    if (child := os.fork()) == 0:
                        os._exit(len({*open_journals} - others) - 1)
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert forked(parent) == 0
