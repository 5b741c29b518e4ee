"""Who drives a thread, and how an empty process takes it up."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

import pytest
from langchain_core.runnables import RunnableConfig  # noqa: TC002 - LangGraph reads annotations
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime  # noqa: TC002 - LangGraph reads annotations
from support.checks import State, add, chain, refused, says
from support.running import Fragile, Ledger

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.model import RunStatus

# -- drivers -----------------------------------------------------------------------------------


def test_thread_that_another_process_drives(home, held, call, cli):
    """Nobody else can run or resume it; the process is named, exit code 5, and it goes on."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), held.agent, journal)
        assert journal.thread("t").status is RunStatus.RUNNING
        assert na.unfinished(journal) == []
        for ask_for in (
            lambda: call(agent, {"n": 1}, thread="t"),
            lambda: call(agent, {"n": 2}, thread="t", new=True),
            lambda: na.resume("t", journal=journal),
        ):
            with pytest.raises(errors.ThreadBusyError) as caught:
                ask_for()
            says(caught.value, "'t'", f"process {held.pid} ", "stop it there")
        busy = cli("resume", "t", "--journal", str(home))
        assert (busy.code, f"process {held.pid} " in busy.err) == (5, True), busy.err
    assert held.let_go() == 0
    with na.Journal.open(home) as journal:
        assert na.Run(journal, "t", 1).value["n"] == 7


def test_thread_that_a_killed_process_drove(home, held, call):
    """A SIGKILLed driver orphans its run at once; whoever comes next takes it up."""
    os.kill(held.pid, signal.SIGKILL)
    assert held.let_go() == -signal.SIGKILL
    with na.Journal.open(home) as journal:
        info = journal.thread("t")
        assert info.status is RunStatus.ORPHANED
        assert info.driver is not None
        assert info.driver.pid == held.pid
        assert [found.thread for found in na.unfinished(journal)] == ["t"]
        run = na.resume(journal=journal)
        assert (run.thread, run.status, run.value["n"]) == ("t", RunStatus.SUCCEEDED, 7)
        assert na.unfinished(journal) == []


INSIDE, GATE, MEETING = threading.Event(), threading.Event(), threading.Barrier(2, timeout=30)


def hold(state: State) -> State:
    """Stay inside until let go."""
    INSIDE.set()
    GATE.wait(30)
    return {"n": 7}


def meet(state: State) -> State:
    """Go on when another worker thread is here too."""
    MEETING.wait()
    return {"n": state["n"] + 1}


def test_thread_that_this_process_drives(journal, call):
    """Two worker threads of one process cannot drive a thread at the same time either."""
    agent = na.Agent(chain(hold), "holding", journal)
    worker = threading.Thread(target=lambda: agent.run({"n": 1}, thread="t"))
    INSIDE.clear()
    GATE.clear()
    worker.start()
    try:
        assert INSIDE.wait(30)
        with pytest.raises(errors.ThreadBusyError) as caught:
            call(agent, {"n": 1}, thread="t")
    finally:
        GATE.set()
        worker.join()
    says(caught.value, "'t'", f"process {os.getpid()} ")
    assert na.Run(journal, "t", 1).value["n"] == 7


def test_two_threads_at_the_same_time(journal, call):
    """Threads of one agent and one journal do not hold each other up."""
    agent = na.Agent(chain(meet), "meeting", journal)
    found: dict[str, int] = {}

    def work(name: str, n: int) -> None:
        found[name] = call(agent, {"n": n}, thread=name).value["n"]

    workers = [threading.Thread(target=work, args=(f"t{n}", n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {"t0": 1, "t1": 2}


# -- resume ------------------------------------------------------------------------------------


def test_resume_of_a_finished_run(journal):
    """A finished run is given back as it is, and nothing is run."""
    agent = Fragile(journal)
    first = agent.agent.run({"n": 1}, thread="t")
    agent.ran.clear()
    for run in (na.resume("t", journal=journal), agent.agent.resume("t")):
        assert (run.number, run.stored, run.value) == (1, True, first.value)
    assert agent.ran == []


def test_resume_takes_the_newest(journal, home):
    """Without a thread, `resume` takes the newest run that is not finished, one after the other."""
    agent = Fragile(journal, "fail")
    for name in ("a", "b", "c"):
        with pytest.raises(RuntimeError):
            agent.agent.run({"n": 1}, thread=name)
    agent.mood.clear()
    agent.agent.run({"n": 1}, thread="d")
    assert [info.thread for info in na.unfinished(journal)] == ["c", "b", "a"]
    assert [na.resume(journal=journal).thread for _ in range(3)] == ["c", "b", "a"]
    with refused(home, errors.UnknownThreadError, home):
        na.resume(journal=journal)


def test_resume_takes_this_notebooks(journal, cell):
    """In a notebook the newest run is the newest of this notebook."""
    agent = Fragile(journal, "fail")
    for notebook in ("mine.ipynb", "other.ipynb"):
        cell("a", notebook)
        with pytest.raises(RuntimeError):
            agent.agent.run({"n": 1}, thread=notebook)
    agent.mood.clear()
    cell("z", "mine.ipynb")
    assert na.resume(journal=journal).thread == "mine.ipynb"
    with pytest.raises(errors.UnknownThreadError) as caught:
        na.resume(journal=journal)
    says(caught.value, "mine.ipynb")


@dataclass
class Context:
    user: str


def test_resume_gets_what_the_run_was_given(home, dies, tmp_path):
    """Context, configurable values and the recursion limit are kept; LangGraph keeps none."""
    seen = Ledger(tmp_path / "seen")

    def node(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> State:
        place = seen.note(
            f"{runtime.context.user} {config['configurable']['model']} {config['recursion_limit']}"
        )
        if place == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": 1}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("node", node)
    graph.add_edge(START, "node")

    def program() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(graph, "knowing", journal).run(
                {"n": 0},
                thread="t",
                context=Context("ada"),
                config={"configurable": {"model": "small"}, "recursion_limit": 7},
            )

    dies(program)
    with na.Journal.open(home) as journal:
        assert na.resume("t", journal=journal).status is RunStatus.SUCCEEDED
    assert seen.lines() == ["ada small 7"] * 2


def test_ctrl_c_right_behind_the_claim(home):
    """An interrupt between the claim's commit and the news of it leaves no thread that is busy."""
    hits: list[faults.Fault] = []

    def interrupt(fault: faults.Fault) -> None:
        if fault is faults.Fault.COMMIT_AFTER and not hits:
            hits.append(fault)
            raise KeyboardInterrupt

    with na.Journal.open(home) as journal:
        journal.data_key("t", create=True)
        agent = na.Agent(chain(add), "adding", journal)
        faults.arm(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                agent.run({"n": 1}, thread="t")
        finally:
            faults.arm(None)
        assert hits
        assert journal.thread("t").status is RunStatus.ORPHANED
        assert agent.run({"n": 1}, thread="t").status is RunStatus.SUCCEEDED
