"""The objects of a thread: what a step changed is kept with it, and comes back with it."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from typing import Any

import numpy
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from support.checks import State, add, chain
from support.objects import counting, fresh, no_hooks, snapshots, stored  # noqa: F401 - a fixture

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.errors import (
    JournalWriteError,
    NotDurableError,
    ObjectNotRestoredError,
    ThreadBusyError,
    UnknownThreadError,
    UsageError,
    ValueNotKeptError,
)
from notebook_agents.faults import Fault
from notebook_agents.graph.objects import Objects
from notebook_agents.journal.backup import backup
from notebook_agents.journal.compact import compact
from notebook_agents.model import Kind
from notebook_agents.runtime import objects as runtime_objects


@pytest.fixture
def agent(journal: na.Journal) -> na.Agent:
    """An agent whose only node adds to what is in the objects."""
    return counting(journal)


def test_kept_with_the_thread(journal, agent):
    """What a cell puts in is on disk at once, also before the first run; so is what nodes do."""
    with pytest.raises(UnknownThreadError):
        agent.thread("t")
    objects = agent.thread("t", new=True).objects
    objects["seen"] = [0]
    objects["table"] = numpy.zeros(3)
    assert fresh(journal)["seen"] == [0]
    assert agent.run({"n": 1}, thread="t").value["n"] == 2
    agent.run({"n": 5}, thread="t")
    again = fresh(journal)
    assert again["seen"] == [0, 1, 5]
    again["table"][1] = 4  # what comes back can be changed
    assert sorted(again) == ["seen", "table"]
    assert len(again) == 2
    assert "seen" in again
    assert "none" not in again
    assert "seen, table" in repr(again)
    del again["seen"]
    with pytest.raises(KeyError):
        again["seen"]
    assert list(fresh(journal)) == ["table"]


def test_the_same_object_in_cells_and_nodes(journal, agent):
    """A cell and a node of one process have one object; a change in place is kept with the run."""
    objects = agent.thread("t", new=True).objects
    mine = objects["seen"] = []
    agent.run({"n": 1}, thread="t")
    assert mine == [1]
    assert objects["seen"] is mine
    mine.append("by hand")
    assert fresh(journal)["seen"] == [1]
    objects = Objects(journal, "t")
    objects["seen"].append("by hand")
    objects.save()
    assert fresh(journal)["seen"] == [1, "by hand"]


def test_shared_references(journal, agent):
    """What two objects share they share again; what they do not is stored apart."""
    objects = agent.thread("t", new=True).objects
    rows = [1, 2]
    objects["rows"], objects["view"], objects["other"] = rows, {"rows": rows}, [3]
    again = fresh(journal)
    assert again["view"]["rows"] is again["rows"]
    again["rows"].append(3)
    again.save()
    assert fresh(journal)["view"] == {"rows": [1, 2, 3]}


def test_only_what_changed_is_stored(journal, agent):
    """A step that changes nothing records nothing; one element of an array is one piece of it."""
    objects = agent.thread("t", new=True).objects
    objects["table"] = numpy.random.default_rng(1).random(5_000_000)
    objects["small"] = list(range(10))
    whole = stored(journal)
    assert whole >= 40_000_000
    before = snapshots(journal)
    na.Agent(chain(add), "counter", journal).run({"n": 1}, thread="t")
    assert (snapshots(journal), stored(journal)) == (before, whole)
    objects["table"][4_999_999] = 7
    objects.save()
    assert stored(journal) - whole < 17_000_000
    again = fresh(journal)
    assert again["table"][4_999_999] == 7
    assert again["small"] == list(range(10))


def test_refused_where_it_is_put_in(journal, agent):
    """Outside a run an object that cannot be kept is refused by name, and nothing changes."""
    objects = agent.thread("t", new=True).objects
    objects["db"] = 1
    with pytest.raises(
        ValueNotKeptError, match=r"object 'db' of thread 't' cannot be kept: it is a"
    ):
        objects["db"] = sqlite3.connect(":memory:")
    assert objects["db"] == 1
    with pytest.raises(TypeError):
        objects[3] = 1


def test_refused_inside_a_run(journal, caplog):
    """There the step's result counts; the object is named, and is not what it was before."""

    def connect(state: State) -> State:
        objects = na.objects()
        objects["db"], objects["good"] = sqlite3.connect(":memory:"), 2
        return {"n": 1}

    agent = na.Agent(chain(connect), "counter", journal)
    agent.thread("t", new=True).objects["db"] = 1
    assert agent.run({"n": 1}, thread="t").value["n"] == 1
    assert "object 'db' of thread 't' is not kept: it is a database connection" in caplog.text
    again = fresh(journal)
    assert again["good"] == 2
    with pytest.raises(ObjectNotRestoredError, match="it was not kept, because it is a database"):
        again["db"]
    report = again.restore()
    assert report.restored == ("good",)
    assert list(report.refused) == ["db"]
    assert report.refused["db"].endswith("after a restore, or give na.on_restore what does")
    assert not report.complete
    again["db"] = 3
    assert fresh(journal).restore().complete


def test_what_did_not_return_leaves_nothing(journal):
    """A step that fails, retries or asks a person begins each time with what was before it."""
    tries = []

    def flaky(state: State) -> State:
        objects = na.objects()
        objects["log"].append("flaky")
        tries.append(list(objects["log"]))
        if len(tries) < 3:
            raise ValueError("not yet")
        return {"n": 1}

    def ask(state: State) -> State:
        objects = na.objects()
        objects["log"].append("ask")
        objects["answer"] = interrupt("how many?")
        return {"n": 2}

    graph = chain(flaky, ask)
    graph.nodes["flaky"].retry_policy = RetryPolicy(
        max_attempts=2, initial_interval=0.01, retry_on=ValueError
    )
    agent = na.Agent(graph, "counter", journal)
    agent.thread("t", new=True).objects["log"] = []
    with pytest.raises(ValueError, match="not yet"):
        agent.run({"n": 1}, thread="t")
    assert Objects(journal, "t")["log"] == []
    assert agent.run({"n": 1}, thread="t").status == "waiting"
    assert tries == [["flaky"]] * 3
    assert Objects(journal, "t")["log"] == fresh(journal)["log"] == ["flaky"]
    assert agent.run(Command(resume=4), thread="t").value["n"] == 2
    for objects in (Objects(journal, "t"), fresh(journal)):
        assert objects["log"] == ["flaky", "ask"]
        assert objects["answer"] == 4


def test_a_durable_call_that_is_not_made_again(journal):
    """Its changes come back where it would be made, on top of what its node does again."""
    calls = []

    @na.step
    def call(name: str) -> str:
        calls.append(name)
        na.objects()["log"].append(name)
        return name

    def node(state: State) -> State:
        log = na.objects()["log"]
        log.append("before")
        call("call")
        assert na.objects()["log"] == ["before", "call"]
        if len(seen) < 2:
            seen.append(1)
            raise ValueError("not yet")
        na.objects()["log"].append("after")
        return {"n": 1}

    seen: list[int] = []
    agent = na.Agent(chain(node), "counter", journal)
    agent.thread("t", new=True).objects["log"] = []
    for _ in range(2):
        with pytest.raises(ValueError, match="not yet"):
            agent.run({"n": 1}, thread="t")
        assert Objects(journal, "t")["log"] == []
    runtime_objects._stores.clear()
    agent.run({"n": 1}, thread="t")
    assert calls == ["call"]
    assert fresh(journal)["log"] == ["before", "call", "after"]


async def test_on_an_event_loop(journal):
    """Async nodes and their calls reach the objects as well."""

    @na.step
    async def call() -> None:
        na.objects()["log"].append("call")

    async def node(state: State) -> State:
        na.objects()["log"] = ["node"]
        await call()
        return {"n": 1}

    agent = na.Agent(chain(node), "counter", journal)
    await agent.arun({"n": 1}, thread="t")
    assert fresh(journal)["log"] == ["node", "call"]


def test_outside_a_run_there_are_none():
    """`na.objects()` says what to call instead."""
    with pytest.raises(NotDurableError, match=r'agent.thread\("…"\).objects'):
        na.objects()


def test_driven_elsewhere(held, journal):
    """What somebody else drives is not changed from here, and can be read."""
    objects = Objects(journal, "t")
    with pytest.raises(ThreadBusyError):
        objects["a"] = 1
    assert list(objects) == []
    assert held.let_go() == 0
    objects["a"] = 1
    assert fresh(journal)["a"] == 1


def test_another_processes_changes_are_seen(journal, agent, python, home):
    """What this process has loaded is read again where another one changed it."""
    objects = agent.thread("t", new=True).objects
    objects["mine"], objects["both"] = mine, _ = [1], [2]
    done = python(
        "import notebook_agents as na\nfrom notebook_agents.graph.objects import Objects\n"
        f"with na.Journal.open({str(home)!r}) as journal: Objects(journal, 't')['both'] = [3]"
    )
    assert done.code == 0, done.err
    assert objects["both"] == [3]
    assert objects["mine"] is mine


def test_how_often(journal, agent):
    """Every step, every N, every so long, at the run's end: said once and kept with the objects."""

    def counted(every: Any) -> int:
        thread = f"thread {every}"
        objects = agent.thread(thread, new=True).objects
        objects["seen"] = []
        objects.every = every
        assert fresh(journal, thread).every == every
        before = snapshots(journal, thread)
        graph = chain(*[_noting(name) for name in "abcdef"])
        na.Agent(graph, "counter", journal).run({"n": 0}, thread=thread)
        assert fresh(journal, thread)["seen"] == list("abcdef")
        return snapshots(journal, thread) - before

    assert counted("step") == 6 + 1  # at the end one says where everything is
    assert counted(4) == 2
    assert counted(timedelta(hours=1)) == 1
    assert counted(timedelta(0)) == 6 + 1
    assert counted("exit") == 1
    for nonsense in ("often", 0, True, None):
        with pytest.raises(UsageError, match="give 'step'"):
            Objects(journal, "thread step").every = nonsense


def _noting(name: str) -> Any:
    def node(state: State) -> State:
        na.objects()["seen"].append(name)
        return {"n": 1}

    node.__name__ = name
    return node


def test_a_fork_has_its_own(journal, home):
    """A fork has the objects as they were at its point, and from there on its own."""
    agent = na.Agent(chain(*[_noting(name) for name in "abc"]), "counter", journal)
    agent.thread("t", new=True).objects["seen"] = []
    run = agent.run({"n": 0}, thread="t")
    second = next(step for step in run.steps if step.name == "b")
    fork = agent.fork("t", at=second.id, name="f")
    assert fork.objects["seen"] == ["a"]
    fork.resume()
    fork.objects["seen"].append("mine")
    fork.objects.save()
    whole = agent.fork("t", name="g")
    assert (fresh(journal, "f")["seen"], fresh(journal)["seen"]) == (
        ["a", "b", "c", "mine"],
        ["a", "b", "c"],
    )
    na.delete("t", journal=journal)
    journal.close()
    runtime_objects._stores.clear()
    with na.Journal.open(home) as again:
        assert Objects(again, "f")["seen"] == ["a", "b", "c", "mine"]
        assert Objects(again, whole.name)["seen"] == ["a", "b", "c"]
        assert list(Objects(again, "t")) == []


def test_pruned_compacted_and_backed_up(journal, agent, home):
    """A prune leaves them as of each state that stays; so do compactions and backups."""
    objects = agent.thread("t", new=True).objects
    objects["seen"], objects["secret"] = [], "xyzzy" * 100
    for number in range(6):
        agent.run({"n": number}, thread="t")
    before = snapshots(journal)
    assert na.prune("t", keep_last=4, journal=journal).records > 0
    compact(journal)
    assert snapshots(journal) < before
    assert fresh(journal)["seen"] == [0, 1, 2, 3, 4, 5]
    assert fresh(journal)["secret"] == "xyzzy" * 100
    oldest = agent.thread("t").history()[-1]
    fork = agent.fork("t", at=oldest.checkpoint, name="f")
    assert fork.objects["seen"] == list(range(oldest.values["n"]))
    made = backup(home)
    journal.close()
    assert not any(b"xyzzy" in path.read_bytes() for path in home.glob("*.*") if path.is_file())
    runtime_objects._stores.clear()
    with na.Journal.open(made.path) as copy:
        assert Objects(copy, "t")["seen"] == [0, 1, 2, 3, 4, 5]
        na.delete("t", journal=copy)
        assert list(Objects(copy, "t")) == []


def test_an_append_that_fails_changes_nothing(journal, agent):
    """An assignment that did not reach the disk is not there; the next one is."""

    def fail(at: Fault) -> None:
        if at is Fault.COMMIT_BEFORE:
            raise OSError("no")

    objects = agent.thread("t", new=True).objects
    objects["a"] = 1
    faults.arm(fail)
    try:
        with pytest.raises(JournalWriteError):
            objects["a"] = 2
    finally:
        faults.arm(None)
    assert objects["a"] == 1
    objects["a"] = 2
    assert fresh(journal)["a"] == 2


def test_side_by_side(journal, monkeypatch):
    """Of two nodes that run at once the one that returned is kept, and not what the other did."""
    broken = [True]
    # Not a global of the nodes: their definition is kept.
    monkeypatch.setattr(threading, "meeting", threading.Barrier(2), raising=False)

    def one(state: State) -> State:
        na.objects()["one"].append(1)
        if broken:
            threading.meeting.wait()
        return {"items": [1]}

    def two(state: State) -> State:
        na.objects()["two"].append(2)
        if broken:
            threading.meeting.wait()
            raise ValueError("broken")
        return {"items": [2]}

    graph = StateGraph(State)
    for node in (one, two):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    agent = na.Agent(graph, "pair", journal)
    agent.thread("t", new=True).objects.update(one=[], two=[])
    with pytest.raises(ValueError, match="broken"):
        agent.run({"n": 1}, thread="t")
    for objects in (Objects(journal, "t"), fresh(journal)):
        assert objects["two"] == []
        assert objects["one"] in ([1], [])
    broken.clear()
    run = agent.run({"n": 1}, thread="t")
    assert sorted(run.value["items"]) == [1, 2]
    for objects in (Objects(journal, "t"), fresh(journal)):
        assert (objects["one"], objects["two"]) == ([1], [2])
    steps = {step.name: step.id for step in run.steps}
    one_again, two_again = (agent.fork("t", at=steps[name]).objects for name in ("one", "two"))
    assert (one_again["one"], one_again["two"]) == ([], [2])
    assert (two_again["one"], two_again["two"]) == ([1], [])


def test_in_subgraphs_edges_and_tools(journal):
    """Whatever runs inside a run reaches them, and what it does is kept."""

    def inner(state: State) -> State:
        na.objects()["log"] += ["inner"]
        return {"n": 1}

    def route(state: State) -> str:
        na.objects()["log"] += ["route"]
        return END

    graph = StateGraph(State)
    graph.add_node("sub", chain(inner).compile())
    graph.add_edge(START, "sub")
    graph.add_conditional_edges("sub", route, [END])
    agent = na.Agent(graph, "deep", journal)
    agent.thread("t", new=True).objects["log"] = []
    agent.run({"n": 1}, thread="t")
    assert fresh(journal)["log"] == ["inner", "route"]


def test_a_thread_of_the_same_name(journal, agent):
    """Of a deleted thread nothing is left, also where a new one has its name."""
    objects = agent.thread("t", new=True).objects
    objects["a"] = 1
    na.delete("t", unfinished=True, journal=journal)
    assert list(objects) == []
    objects["b"] = 2
    assert list(objects) == list(fresh(journal)) == ["b"]


def test_two_journals_of_one_directory(journal, home, agent):
    """Whichever of them a run uses, the objects are the same."""
    Objects(journal, "t")["seen"] = []
    with na.Journal.open(home) as other:
        assert agent.on(other).run({"n": 1}, thread="t").status == "succeeded"
        assert Objects(journal, "t")["seen"] == [1]
    agent.run({"n": 2}, thread="t")
    assert fresh(journal)["seen"] == [1, 2]


def test_many_snapshots(journal):
    """Of a long run only the newest snapshots are read: one in fifty says where everything is."""

    def node(state: State) -> State:
        na.objects()["n"] = state["n"]
        return {"n": state["n"] + 1}

    graph = chain(node)
    graph.add_conditional_edges("node", lambda state: "node" if state["n"] < 120 else END)
    agent = na.Agent(graph, "counter", journal)
    agent.thread("t", new=True).objects["other"] = "there"
    agent.run({"n": 0}, thread="t", config={"recursion_limit": 200})
    kinds = [r.ref for r in journal.select(thread="t", kinds=[Kind.SNAPSHOT])]
    assert (kinds.count("all"), kinds.count(None)) == (1 + 2 + 1, 120)
    assert (fresh(journal)["n"], fresh(journal)["other"]) == (119, "there")


def test_ctrl_c_in_a_node(journal):
    """What the steps before it left is kept, and what it did is not; "exit" may lose both."""

    def cut(state: State) -> State:
        na.objects()["seen"].append("cut")
        raise KeyboardInterrupt

    for every, seen in (("step", ["a", "b"]), ("exit", [])):
        agent = na.Agent(chain(_noting("a"), _noting("b"), cut), "counter", journal)
        objects = agent.thread(every, new=True).objects
        objects["seen"] = []
        objects.every = every
        with pytest.raises(KeyboardInterrupt):
            agent.run({"n": 1}, thread=every)
        assert Objects(journal, every)["seen"] == fresh(journal, every)["seen"] == seen
