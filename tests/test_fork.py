"""Time travel: forks and changed states; effects are counted where no thread can reach them."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from support.checks import State, ask, chain, refused, says
from support.forks import BEHIND, CASES, Effects, _line, fan_out, go, nested, sequential, step_of
from support.shells import Shell

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.faults import Fault
from notebook_agents.graph.fork import fork
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable


# -- forks from every step -----------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["queue", "archive"])
@pytest.mark.parametrize(
    ("shape", "name"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_fork_at_every_step(journal, effects, shape, name, sent):
    """The step and what followed from it run once more, under new keys; nothing else runs."""
    agent = na.Agent(shape(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    if sent == "archive":
        journal.ingest()
    done = len(effects.ledger.lines())
    handle = agent.fork("t", at=_sent(journal, first, name), name="new")
    assert (handle.name, journal.thread("new").status) == ("new", RunStatus.PENDING)
    assert len(effects.ledger.lines()) == done
    run = agent.resume("new")
    assert (run.status, run.value) == (RunStatus.SUCCEEDED, first.value)
    assert effects.names(done) == sorted(BEHIND[shape][name])
    for again in effects.names(done):
        assert len(set(effects.keys(again))) == 2
    original = na.Run(journal, "t", 1)
    assert (original.value, original.steps) == (first.value, first.steps)
    assert agent.resume("t").stored


def _sent(journal: na.Journal, run: na.Run, name: str) -> str:
    """Return the step's id; of the three sends the one that got 1, whichever began first."""
    if name != "d" or len([step for step in run.steps if step.name == "d"]) == 1:
        return step_of(run, name)
    keys = {step.key: step.id for step in run.steps if step.name == "d"}
    ledger = (journal.home.parent / "ledger").read_text().splitlines()
    return next(keys[line.split()[1]] for line in ledger if line.startswith("d1 "))


@pytest.mark.parametrize(
    ("shape", "name"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_fork_of_a_run_killed_at_every_step(home, effects, dies, shape, name):
    """What a killed run had done before the point is not done again, in either thread."""

    def node(of: str, then: Any = None) -> Any:
        del then
        return real(of, lambda state: os.kill(os.getpid(), signal.SIGKILL) if of == stop else None)

    real, stop = effects.node, {"d": "h" if shape is nested else "e"}.get(name, name)
    killed = Effects(effects.ledger)
    killed.node = node  # type: ignore[method-assign]  # the nodes of the process that dies
    dies(lambda: go(home, shape(killed)))
    done = effects.names()
    with na.Journal.open(home) as journal:
        agent = na.Agent(shape(effects), "forking", journal)
        view = na.Run(journal, "t", 1)
        agent.fork("t", at=step_of(view, stop), name="new")
        run = na.resume("new", journal=journal)
        again = effects.names(len(done))
        assert stop in again
        assert set(done) & set(again) <= {stop, *_beside(shape, stop)}
        assert len(set(effects.keys(stop))) == 2
        start = len(effects.ledger.lines())
        assert na.resume("t", journal=journal).value == run.value
        assert effects.keys(stop)[2] == effects.keys(stop)[0]  # still the same intention
        assert set(effects.names(start)) & set(done) <= {stop, *_beside(shape, stop)}


def _beside(shape: Any, name: str) -> set[str]:
    """Return whose effects may be in doubt too: what runs beside a node when it is killed."""
    if shape is fan_out:
        return {"b", "c", "d0", "d1", "d2"}
    return set("bcdefg") if shape is nested and name in "bcdefg" else set()


def test_fork_of_a_fork(journal, effects):
    """A fork of a fork keeps what either had before its point."""
    agent = na.Agent(fan_out(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    agent.fork("t", at=step_of(first, "b"), name="u")
    done = len(effects.ledger.lines())
    second = agent.fork("u", name="v").resume()
    assert (second.value, effects.names(done)) == (first.value, ["b", "e"])
    agent.fork("v", at=step_of(second, "e"), name="w")
    done = len(effects.ledger.lines())
    assert agent.resume("w").value == first.value
    assert effects.names(done) == ["e"]
    assert len(set(effects.keys("e"))) == 3


def test_fork_at_a_checkpoint(journal, effects):
    """At a checkpoint all tasks behind it run again, siblings too."""
    agent = na.Agent(fan_out(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    moment = next(m for m in agent.thread("t").history() if set(m.next) == {"b", "c", "d"})
    done = len(effects.ledger.lines())
    fork = agent.fork("t", at=moment.checkpoint)
    assert fork.name.startswith("t-fork-")
    assert fork.resume().value == first.value
    assert effects.names(done) == ["b", "c", "d0", "d1", "d2", "e"]


def test_fork_of_an_earlier_run(journal, effects):
    """A fork in an earlier run of a conversation knows nothing of the later ones."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 1}, thread="t")
    second = agent.run({"n": 2}, thread="t")
    assert agent.run({"n": 3}, thread="t").number == 3
    done = len(effects.ledger.lines())
    run = agent.fork("t", at=step_of(second, "b"), name="u").resume()
    assert (run.number, run.value) == (2, second.value)
    assert effects.names(done) == ["b", "c"]
    assert na.Run(journal, "u", 1).value == first.value
    assert journal.thread("u").returned == 3
    assert agent.run({"n": 3}, thread="u").number == 3


def test_same_input_goes_on_with_a_fork(journal, effects):
    """A fork's run has the original's input; other input is refused until it is done."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 1}, thread="t", key="k")
    agent.fork("t", at=step_of(first, "c"), name="u")
    with pytest.raises(errors.RunUnfinishedError):
        agent.run({"n": 2}, thread="u")
    assert [info.thread for info in na.unfinished(journal)] == ["u"]
    run = agent.run({"n": 1}, thread="u", key="k")
    assert (run.number, run.value, run.stored) == (1, first.value, False)
    assert agent.run({"n": 1}, thread="u", key="k").stored


# -- nothing undone ------------------------------------------------------------------------------


def test_fork_of_a_waiting_run(journal, effects):
    """Each of two threads gets its own answer; what ran before the question runs in neither."""

    @na.step
    def before() -> int:
        return effects.ledger.note("before -")

    def person(state: State) -> State:
        before()
        return {"items": [interrupt("who?")]}

    agent = na.Agent(chain(effects.node("a"), person), "forking", journal)
    agent.run({"n": 0}, thread="t")
    agent.fork("t", name="u")
    assert journal.thread("u").status is RunStatus.WAITING
    for thread, answer in (("u", "ada"), ("t", "bob")):
        run = agent.run(Command(resume=answer), thread=thread)
        assert run.value["items"] == ["a", answer]
    assert effects.names() == ["a", "before"]


def test_fork_before_an_answer(journal):
    """A fork at the step that asked asks again, though the original has its answer."""
    agent = na.Agent(chain(ask), "asking", journal)
    agent.run({"n": 0}, thread="t")
    first = agent.run(Command(resume=4), thread="t")
    fork = agent.fork("t", at=step_of(first, "ask"))
    assert fork.resume().status is RunStatus.WAITING
    assert agent.run(Command(resume=5), thread=fork.name).value["n"] == 5


def test_fork_before_an_answer_in_a_subgraph(journal):
    """The same where the question is asked in a subgraph."""
    graph = chain(ask).compile(name="inner")
    outer = StateGraph(State)
    outer.add_node("inner", graph)
    outer.add_edge(START, "inner")
    agent = na.Agent(outer, "asking", journal)
    agent.run({"n": 0}, thread="t")
    first = agent.run(Command(resume=4), thread="t")
    fork = agent.fork("t", at=step_of(first, "ask"))
    assert fork.resume().status is RunStatus.WAITING
    assert agent.run(Command(resume=5), thread=fork.name).value["n"] == 5


def test_sibling_that_is_in_the_middle(journal, effects):
    """A sibling subgraph that has not ended goes on in the fork behind what had returned in it."""

    def question(name: str) -> Any:
        return effects.node(name, lambda state: interrupt(name))

    graph = StateGraph(State)
    graph.add_node("left", _line(b=question("b")).compile())
    graph.add_node("right", _line(f=effects.node("f"), g=question("g")).compile())
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    agent = na.Agent(graph, "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    assert first.status is RunStatus.WAITING
    done = len(effects.ledger.lines())
    fork = agent.fork("t", at=step_of(first, "b"))
    assert fork.resume().status is RunStatus.WAITING
    assert effects.names(done) == ["b", "g"]
    assert (len(set(effects.keys("b"))), len(set(effects.keys("g")))) == (2, 1)
    answers = {pending.id: "yes" for pending in fork.state().interrupts}
    run = agent.run(Command(resume=answers), thread=fork.name)
    assert sorted(run.value["items"]) == ["b", "f", "g"]


def test_fork_of_a_finished_run(journal, effects):
    """A fork of the whole is a second conversation with the same past."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 1}, thread="t", key="k")
    fork = agent.fork("t")
    assert agent.run({"n": 1}, thread=fork.name, key="k").stored
    assert agent.resume(fork.name).value == first.value
    run = agent.run({"n": 2}, thread=fork.name)
    assert (run.number, run.value["items"]) == (2, [*"abc", *"abc"])
    assert journal.thread("t").run == 1


def test_doubt_goes_with_the_fork(home, dies, trips, ledger):
    """An at-most-once call that may have happened may not be made by a fork either."""

    @na.step(at_most_once=True)
    def pay() -> None:
        ledger.note("paid")
        trips()

    def node(state: State) -> State:
        pay()
        return {"n": 1}

    dies(lambda: go(home, chain(node)))
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(node), "forking", journal)
        fork = agent.fork("t")
        assert fork.resume().status is RunStatus.IN_DOUBT
    assert ledger.lines() == ["paid"]


# -- durable calls -------------------------------------------------------------------------------


def test_fork_at_a_durable_call(journal, effects):
    """The node runs again; the calls before give their results, this and later ones are made."""

    @na.step
    def call(name: str) -> str:
        effects.ledger.note(f"{name} {na.idempotency_key()}")
        return name

    def node(state: State) -> State:
        return {"items": [call("x"), call("y"), call("z")]}

    agent = na.Agent(chain(node), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    calls = [step.id for step in first.steps if step.name == "call"]
    fork = agent.fork("t", at=calls[1])
    done = len(effects.ledger.lines())
    run = fork.resume()
    assert (run.value, effects.names(done)) == (first.value, ["y", "z"])
    assert len(set(effects.keys("y"))) == len(set(effects.keys("z"))) == 2
    assert len(effects.keys("x")) == 1
    assert repr(run)


# -- crashes -------------------------------------------------------------------------------------


def test_kill_in_a_fork(home, effects, dies, trips):
    """A killed fork is resumed like any thread, and the original goes its own way."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(nested(effects), "forking", journal)
        first = agent.run({"n": 0}, thread="t")
        agent.fork("t", at=step_of(first, "c"), name="u")
        assert first.value
    done = len(effects.ledger.lines())
    killing = Effects(effects.ledger)
    real = effects.node
    killing.node = lambda name: real(name, lambda s: trips() if name == "e" else None)  # type: ignore[method-assign]  # the nodes of the process that dies

    def program() -> Any:
        with na.Journal.open(home) as journal:
            return na.Agent(nested(killing), "forking", journal).resume("u").value

    dies(program)
    assert program() == first.value
    assert effects.names(done) == ["c", "d", "e", "e", "h"]
    assert len(set(effects.keys("e"))) == 2  # one in the original; one, twice, in the fork


@pytest.mark.parametrize("times", range(1, 5))
def test_kill_while_a_fork_is_made(home, effects, dies, times):
    """A fork is there as a whole or not at all."""
    first = go(home, sequential(effects))
    step = step_of(first, "b")

    def program() -> None:
        left = [times]

        def kill(fault: Fault) -> None:
            left[0] -= fault in (Fault.COMMIT_BEFORE, Fault.COMMIT_AFTER)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        with na.Journal.open(home) as journal:
            faults.arm(kill)
            na.Agent(sequential(effects), "forking", journal).fork("t", at=step, name="u")
            os.kill(os.getpid(), signal.SIGKILL)

    dies(program)
    with na.Journal.open(home) as journal:
        agent = na.Agent(sequential(effects), "forking", journal)
        if journal.head("u") is None:
            agent.fork("t", at=step, name="u")
        assert agent.resume("u").value == first.value
    assert effects.names() == ["a", "b", "b", "c", "c"]


# -- threads -------------------------------------------------------------------------------------


def test_deleting_the_original(journal, effects):
    """A fork outlives the thread that it was made from, key and chunks included."""
    agent = na.Agent(chain(effects.node("a"), _long, effects.node("b")), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    value = first.value
    fork = agent.fork("t", at=step_of(first, "b"))
    journal.ingest()
    journal.delete_thread("t")
    assert fork.resume().value == value
    assert [moment.values for moment in fork.history()]
    with na.Journal.open(journal.home) as other:
        assert na.Run(other, fork.name, 1).value == value


def _long(state: State) -> State:
    return {"items": ["x" * 1000, {"y": "z" * 1000}]}


def test_history(journal, effects):
    """Checkpoints come newest first, with what ran there, what comes next, and values."""
    agent = na.Agent(nested(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    history = agent.thread("t").history()
    assert [m.when for m in history] == sorted((m.when for m in history), reverse=True)
    outer = [m for m in history if not m.namespace]
    assert [m.superstep for m in outer] == [3, 2, 1, 0, -1]
    assert [set(m.next) for m in outer] == [set(), {"h"}, {"left", "right"}, {"a"}, {"__start__"}]
    assert [[step.name for step in m.steps] for m in outer] == [[], ["h"], [], ["a"], []]
    assert outer[0].values == first.value
    assert outer[0].parent == outer[1].checkpoint
    inner = [m for m in history if m.namespace.startswith("right:") and m.steps]
    assert [[step.name for step in m.steps] for m in inner] == [["g"], ["f"]]
    assert [m.next for m in inner] == [("g",), ("f",)]
    assert {m.run for m in history} == {1}
    assert agent.thread("t").state().values == first.value


def test_driven_thread(journal, effects):
    """A thread that somebody drives can be forked, and not be changed."""
    refusals: list[BaseException] = []
    forks: list[Any] = []

    def meddle(state: State) -> None:
        def other() -> None:
            handle = agent.thread("t")
            forks.append(handle.fork())
            try:
                handle.update_state({"n": 5})
            except errors.ThreadBusyError as error:
                refusals.append(error)

        worker = threading.Thread(target=other)
        worker.start()
        worker.join()

    nodes = [effects.node("a"), effects.node("b", lambda s: MEDDLE[0](s)), effects.node("c")]
    agent = na.Agent(chain(*nodes), "forking", journal)
    MEDDLE[:] = [meddle]
    first = agent.run({"n": 0}, thread="t")
    says(refusals[0], "'t'", f"process {os.getpid()}")
    MEDDLE[:] = [lambda state: None]
    done = len(effects.ledger.lines())
    assert forks[0].resume().value == first.value
    assert effects.names(done) == ["b", "c"]
    assert len(set(effects.keys("b"))) == 1  # it was in doubt when the fork was made


MEDDLE: list[Callable[[State], None]] = []


def test_what_cannot_be_forked(journal, home, effects):
    """Unknown threads, steps and taken names are refused, and nothing is changed."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    other = na.Agent(chain(ask), "asking", journal)
    other.run({"n": 0}, thread="u")
    with refused(home, errors.UnknownThreadError, "'nope'"):
        agent.fork("nope")
    with refused(home, errors.UnknownThreadError, "'t'", "'nope'", "show t"):
        agent.fork("t", at="nope")
    with refused(home, errors.UsageError, "'u'", "'t'"):
        agent.fork("t", at=step_of(first, "b"), name="u")
    with refused(home, errors.WrongAgentError, "'u'"):
        agent.fork("u")
    with refused(home, errors.UnknownThreadError, "'t'", "'nope'"):
        agent.thread("t").update_state({"n": 1}, at="nope")
    assert first.steps[0].outcome is Outcome.RETURNED


def test_loop(journal, effects):
    """In a loop each turn is a step of its own: a fork at the second keeps the first."""

    def turn(state: State) -> State:
        effects.ledger.note(f"turn {na.idempotency_key()}")
        return {"n": state["n"] + 1, "items": [state["n"]]}

    graph = StateGraph(State)
    graph.add_node("turn", turn)
    graph.add_edge(START, "turn")
    graph.add_conditional_edges("turn", lambda s: "turn" if s["n"] < 4 else END)
    agent = na.Agent(graph, "looping", journal)
    first = agent.run({"n": 0}, thread="t")
    done = len(effects.ledger.lines())
    assert agent.fork("t", at=first.steps[2].id).resume().value == first.value
    assert len(effects.ledger.lines()) - done == 2


def test_fork_made_elsewhere_belongs_to_its_source_s_notebook(tmp_path):
    """A person forks in a terminal or the side panel: where it is gone on with stays known."""
    cell = """
import notebook_agents as na
from langgraph.graph import START, StateGraph
agent = na.Agent(StateGraph(dict).add_node("a", lambda state: state).add_edge(START, "a"), "one")
agent.show = False
agent.run({}, thread="t")
"""
    with Shell(tmp_path) as shell:
        shell.run(cell)
    with na.Journal.open(tmp_path / ".notebook_agents") as journal:
        made = fork(journal, "t")
        assert journal.thread(made).notebook == str(tmp_path / "a.ipynb")
