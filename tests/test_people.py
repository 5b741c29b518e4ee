"""What a run asks people, and their answers: each question once, each answer kept over any kill."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, ValidationError
from support.checks import State, add, ask, chain, refused, says, told
from support.running import Ledger, named

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.model import Outcome, RunStatus, Said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def parallel(*nodes: Callable[[State], Any]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph whose nodes all run in the first superstep."""
    graph = StateGraph(State)
    for node in nodes:
        graph.add_node(node)
        graph.add_edge(START, node.__name__)
        graph.add_edge(node.__name__, END)
    return graph


def left(state: State) -> State:
    """Ask a person: a node."""
    return {"items": [["left", interrupt("left?")]]}


def right(state: State) -> State:
    """Ask a person: a node."""
    return {"items": [["right", interrupt("right?")]]}


def both(state: State) -> State:
    """Ask a person twice: a node."""
    return {"items": [interrupt("name?"), interrupt({"age": "?"})]}


@pytest.fixture
def wide(journal: na.Journal) -> na.Agent:
    """Have an agent that asks two things at once, waiting on thread `t`."""
    agent = na.Agent(parallel(left, right), "wide", journal)
    assert agent.run({"n": 0}, thread="t").status is RunStatus.WAITING
    return agent


# -- questions ---------------------------------------------------------------------------------


def test_run_says_what_it_asks(journal):
    """A waiting run names each open question: its id, what was asked, and which node asks."""
    run = na.Agent(chain(ask), "asking", journal).run({"n": 1}, thread="t")
    (asked,) = run.interrupts
    assert (asked.value, asked.node, asked.step) == ("how many?", "ask", run.steps[0].id)
    assert asked.id in repr(run)
    assert "'how many?'" in repr(run)
    assert "na.resume('t', answer=…)" in repr(run)


def test_questions_of_parallel_nodes(wide):
    """Nodes that ask at the same time are all open; the timeline tells how to answer them."""
    run = na.Run(wide.journal, "t", 1)
    assert [(asked.node, asked.value) for asked in run.interrupts] == [
        ("left", "left?"),
        ("right", "right?"),
    ]
    ids = [asked.id for asked in run.interrupts]
    assert f"answers={{'{ids[0]}': …, '{ids[1]}': …}}" in run._repr_mimebundle_()[
        "text/plain"
    ].replace("\n  ", " ")


def test_several_questions_of_one_node(journal):
    """Only the newest is open, and a resume without an answer asks just that again."""
    agent = na.Agent(chain(both, add), "both", journal)
    first = agent.run({"n": 0}, thread="t").interrupts
    second = agent.resume("t", answer="ada").interrupts
    assert [asked.value for asked in (*first, *second)] == ["name?", {"age": "?"}]
    again = agent.resume("t")
    assert (again.status, again.interrupts) == (RunStatus.WAITING, second)
    run = agent.resume("t", answers={second[0].id: 36})
    assert (run.value["items"], run.interrupts) == (["ada", 36], ())


def test_question_in_a_subgraph(journal):
    """A question out of a subgraph is one question, of the node that asks."""
    graph = StateGraph(State)
    graph.add_node("inner", chain(add, ask).compile())
    graph.add_node("after", add)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "after")
    agent = na.Agent(graph, "outer", journal)
    (asked,) = agent.run({"n": 1}, thread="t").interrupts
    assert (asked.node, asked.namespace.partition(":")[0]) == ("ask", "inner")
    assert agent.resume("t", answers={asked.id: 7}).value["n"] == 8


def test_questions_of_a_graph_that_a_function_calls(journal):
    """They are the calling node's; an answer goes to the question that was open, to no other."""
    inner = chain(both).compile()

    def outer(state: State) -> State:
        return {"items": inner.invoke({"n": 0})["items"]}

    agent = na.Agent(chain(outer), "calling", journal)
    agent.run({"n": 0}, thread="t")
    (second,) = agent.resume("t", answer="ada").interrupts
    assert second.value == {"age": "?"}
    assert agent.resume("t").interrupts == (second,)
    assert agent.resume("t", answer=36).value["items"] == ["ada", 36]


def test_question_of_a_graph_without_checkpoints(journal):
    """A subgraph that keeps nothing can ask too: its node runs again, with the answer."""
    inner = chain(ask).compile(checkpointer=False)

    def outer(state: State) -> State:
        return inner.invoke({"n": 0})

    agent = na.Agent(chain(outer), "calling", journal)
    assert len(agent.run({"n": 0}, thread="t").interrupts) == 1
    with pytest.raises(errors.InputError, match="None"):
        agent.resume("t", answer=None)
    assert agent.resume("t", answer=36).value["n"] == 36


def test_run_that_stopped_before_a_node_asks_nothing(journal):
    """It waits, has no question, and an answer is refused; a plain resume goes on."""
    compiled = chain(add, both).compile(interrupt_before=["both"])
    agent = na.Agent(compiled, "stopping", journal)
    run = agent.run({"n": 0}, thread="t")
    assert (run.status, run.interrupts) == (RunStatus.WAITING, ())
    with refused(journal.home, errors.InputError, "'t'"):
        agent.resume("t", answer=5)
    assert agent.resume("t").interrupts[0].value == "name?"


def test_show_has_the_questions(cli, agents):
    """A program reads them from `show --json`, a person from the timeline."""
    run = ["run", f"{agents}:asking", "--thread", "t", "--input", '{"n": 1}']
    said = cli(*run)
    assert said.code == 3
    assert "notebook-agents resume t --answer JSON" in said.out
    (asked,) = json.loads(cli("show", "t", "--json").out)["interrupts"]
    assert (asked["value"], asked["node"], asked["value_error"]) == ("how many?", "person", None)
    assert asked["id"] in cli("show", "t").out


# -- answers -----------------------------------------------------------------------------------


def test_answer_in_an_empty_process(journal):
    """`na.resume` takes the answer; None is one."""
    na.Agent(chain(ask), "asking", journal).run({"n": 1}, thread="t")
    run = na.resume("t", answer=None, journal=journal)
    assert run.value["n"] is None
    (decision,) = named(run)["ask"].decisions
    assert (decision.said, decision.attempt) == (Said.ANSWERED, 1)
    assert f"answered by {decision.user} on {decision.host}" in repr(run)


def test_answers_by_id(wide):
    """Some can be answered now and the others later, by `resume` or by LangGraph's Command."""
    one, two = na.Run(wide.journal, "t", 1).interrupts
    run = wide.resume("t", answers={two.id: "R"})
    assert (run.status, run.interrupts) == (RunStatus.WAITING, (one,))
    run = wide.run(Command(resume={one.id: "L"}), thread="t")
    assert run.value["items"] == [["left", "L"], ["right", "R"]]


@pytest.mark.parametrize("by", ["resume", "command"])
def test_answer_without_an_id_to_several(wide, by):
    """Nobody guesses which question an answer is for: the ids are named."""
    ids = [asked.id for asked in na.Run(wide.journal, "t", 1).interrupts]
    with refused(wide.journal.home, errors.InputError, "'t'", *ids):
        if by == "resume":
            wide.resume("t", answer=5)
        else:
            wide.run(Command(resume=5), thread="t")


def test_answer_to_a_question_that_nobody_asks(wide):
    """An unknown id is refused with those that are open."""
    ids = [asked.id for asked in na.Run(wide.journal, "t", 1).interrupts]
    with refused(wide.journal.home, errors.InputError, "'nope'", *ids):
        wide.resume("t", answers={"nope": 5})
    with refused(wide.journal.home, errors.InputError, "'t'", "answers"):
        wide.resume("t", answer=1, answers={ids[0]: 5})


def test_answer_that_cannot_be_kept(journal):
    """It is refused before the thread is taken: nothing changed."""
    agent = na.Agent(chain(ask), "asking", journal)
    agent.run({"n": 1}, thread="t")
    with refused(journal.home, errors.ValueNotKeptError, "'t'"):
        agent.resume("t", answer=asyncio.Lock())


def test_answer_that_does_not_fit(journal):
    """An answer that the question's schema refuses is not kept: the question is open again."""

    class Age(BaseModel):
        years: int

    def person(state: State) -> State:
        return {"items": [interrupt("name?"), interrupt("age?", response_schema=Age).years]}

    agent = na.Agent(chain(person), "asking", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="ada").interrupts
    with pytest.raises(ValidationError) as caught:
        agent.resume("t", answer={"years": "many"})
    assert 'na.resume("t", answer=...)' in caught.value.__notes__[-1]
    assert na.Run(journal, "t", 1).interrupts == (asked,)
    again = agent.resume("t")
    assert (again.status, again.interrupts) == (RunStatus.WAITING, (asked,))
    assert agent.resume("t", answer={"years": 36}).value["items"] == ["ada", 36]


def test_answer_is_not_lost_by_a_node_that_fails(journal):
    """Mended code gets the answer that the broken code got."""
    broken = [True]

    def person(state: State) -> State:
        answer = interrupt("how many?")
        if broken:
            raise RuntimeError("out of order")
        return {"n": answer}

    agent = na.Agent(chain(person), "asking", journal)
    (asked,) = agent.run({"n": 1}, thread="t").interrupts
    with pytest.raises(RuntimeError):
        agent.resume("t", answers={asked.id: 4})
    assert na.Run(journal, "t", 1).interrupts == ()
    broken.clear()
    assert agent.resume("t").value["n"] == 4


def test_question_inside_a_durable_call(journal, ledger):
    """A @step that asks waits like its node, is no failure, and gets the answer."""

    @na.step(at_most_once=True)
    def call() -> int:
        ledger.note("called")
        return interrupt("how many?")

    def person(state: State) -> State:
        return {"n": call()}

    agent = na.Agent(chain(person), "asking", journal)
    run = agent.run({"n": 1}, thread="t")
    assert [step.outcome for step in run.steps] == [Outcome.SUSPENDED] * 2
    assert len(run.interrupts) == 1
    assert agent.resume("t", answer=4).value["n"] == 4


def test_answers_on_the_command_line(cli, agents, tmp_path):
    """`resume --answer` answers the only question; what is not JSON or not asked exits with 2."""
    assert cli("run", f"{agents}:asking", "--thread", "t", "--input", '{"n": 1}').code == 3
    for wrong in (["yes"], ["nope=1"], ["1", "2"], ["a=1", "a=2"]):
        ended = cli("resume", "t", *(word for one in wrong for word in ("--answer", one)))
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
    told(cli("resume", "t", "--answer", "nope=1"), 2, "'t'", "nope")
    ended = cli("resume", "t", "--answer", "5", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["value"]["n"] == 5
    told(cli("resume", "t", "--answer", "6"), 2, "'t'")


def test_answers_by_id_on_the_command_line(home, cli, wide, journal):
    """`--answer ID=JSON` can be repeated, for several questions at once."""
    ids = [asked.id for asked in na.Run(journal, "t", 1).interrupts]
    shown = cli("show", "t", "--journal", str(home)).out
    assert all(f"--answer {one}=JSON" in shown.replace("\n  ", " ") for one in ids)
    told(cli("resume", "t", "--answer", "5", "--journal", str(home)), 2, *ids)
    words = [word for n, one in enumerate(ids) for word in ("--answer", f"{one}={n}")]
    ended = cli("resume", "t", *words, "--json", "--journal", str(home))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["value"]["items"] == [["left", 0], ["right", 1]]


# -- over a kill -------------------------------------------------------------------------------


def _journey(home: Path, ledger: Any, *, questions: int, is_async: bool) -> na.Agent:
    @na.step
    def call(where: str) -> str:
        ledger.note(f"{where} {na.idempotency_key()}")
        return where

    def person(state: State) -> State:
        found = [call("before")]
        for number in range(questions):
            found.append(interrupt(f"question {number}"))
            call(f"behind {number}")
        return {"items": found}

    async def person_async(state: State) -> State:
        return person(state)

    person_async.__name__ = "person"
    node = person_async if is_async else person
    return na.Agent(chain(node, add), "asking", na.Journal.open(home))


def _kill_at(number: int) -> None:
    """Have this process killed at its fault point of that number; it exits with 0 if it ends."""
    hits = iter(range(number + 1))

    def action(_: faults.Fault) -> None:
        if next(hits) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.arm(action)


@pytest.mark.crash
@pytest.mark.parametrize("questions", [1, 2])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_killed_anywhere_behind_an_answer(tmp_path, forked, ledger_at, is_async, questions):
    """At every durable edge of the session with the newest answer: never asked again, none lost."""
    template = tmp_path / "template"

    def begin() -> None:
        agent = _journey(template, ledger_at("before"), questions=questions, is_async=is_async)
        with agent.journal:
            agent.run({"n": 0}, thread="t")
            for n in range(questions - 1):
                agent.resume("t", answer=n)

    assert forked(begin) == 0
    killed = asked_again = 0
    for number in range(200):
        home = shutil.copytree(template, tmp_path / f"journal-{number}")
        ledger = ledger_at(f"ledger-{number}")
        for line in ledger_at("before").lines():
            ledger.note(line)

        def go(**given: Any) -> RunStatus:
            agent = _journey(home, ledger, questions=questions, is_async=is_async)  # noqa: B023
            with agent.journal:
                return agent.resume("t", **given).status

        def answer() -> None:
            _kill_at(number)  # noqa: B023
            go(answer=questions - 1)

        ended = forked(answer)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        killed += 1
        with na.Journal.open(home) as journal:
            # Only a session that never took the thread may have lost what it was given.
            taken = journal.thread("t").status is not RunStatus.WAITING
            assert bool(na.Run(journal, "t", 1).interrupts) is not taken
        status = go()
        if not taken:
            asked_again += 1
            assert status is RunStatus.WAITING
            status = go(answer=questions - 1)
        assert status is RunStatus.SUCCEEDED
        with na.Journal.open(home) as journal:
            run = na.Run(journal, "t", 1)
            assert run.value["items"] == ["before", *range(questions)]
            assert run.value["n"] == 1
        whats = [line.split()[0] for line in ledger.lines()]
        assert whats.count("before") == 1
        assert len(ledger.lines()) - len(set(ledger.lines())) <= 1  # the call that it died in
    assert killed > 12
    assert 0 < asked_again < killed / 2


def test_answered_question_is_not_answered_again(home, ledger, dies, trips, journal):
    """After a kill behind the answer, a second answer is refused; resuming uses the first."""

    def person(state: State) -> State:
        answer = interrupt("how many?")
        trips()
        return {"n": answer}

    def go(**given: Any) -> na.Run:
        with na.Journal.open(home) as opened:
            run = na.Agent(chain(person), "asking", opened).resume("t", **given)
            assert run.value
            return run

    (asked,) = na.Agent(chain(person), "asking", journal).run({"n": 1}, thread="t").interrupts
    dies(lambda: go(answer=4))
    assert na.Run(journal, "t", 1).interrupts == ()
    for again in ({"answer": 5}, {"answers": {asked.id: 5}}):
        with pytest.raises(errors.InputError) as caught:
            go(**again)
        says(caught.value, "'t'", "resume")
    assert go().value["n"] == 4


def test_two_answers_of_which_one_was_taken_in(home, dies, trips, journal):
    """Killed while one of two parallel nodes has its answer behind it, both keep theirs."""

    def slow(state: State) -> State:
        answer = interrupt("slow?")
        trips()
        return {"items": [answer]}

    def agent(opened: na.Journal) -> na.Agent:
        return na.Agent(parallel(left, slow), "wide", opened)

    asked = agent(journal).run({"n": 0}, thread="t").interrupts

    def answer() -> None:
        with na.Journal.open(home) as opened:
            agent(opened).resume("t", answers={one.id: one.value for one in asked})

    dies(answer)
    assert agent(journal).resume("t").value["items"] == [["left", "left?"], "slow?"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_questions_of_tasks(journal, is_async):
    """An @entrypoint's tasks ask one after the other; each gets its own answer."""

    @task
    def one(what: str) -> str:
        return interrupt(what)

    @entrypoint()
    def flow(given: Any) -> Any:
        return [one("name?").result(), one("age?").result()]

    @entrypoint()
    async def flow_async(given: Any) -> Any:
        return [await one("name?"), await one("age?")]

    agent = na.Agent(flow_async if is_async else flow, "flow", journal)
    (first,) = agent.run({"n": 0}, thread="t").interrupts
    (second,) = agent.resume("t", answer="ada").interrupts
    assert (first.value, second.value) == ("name?", "age?")
    assert agent.resume("t").interrupts == (second,)
    assert agent.resume("t", answers={second.id: 36}).value == ["ada", 36]


def test_questions_of_a_fan_out(journal):
    """Each execution of one node asks for itself."""

    def split(state: State) -> list[Send]:
        return [Send("one", {"n": n}) for n in range(3)]

    def one(state: State) -> State:
        return {"items": [[state["n"], interrupt(state["n"])]]}

    graph = StateGraph(State)
    graph.add_node("one", one)
    graph.add_conditional_edges(START, split, ["one"])
    agent = na.Agent(graph, "fan", journal)
    asked = agent.run({"n": 0}, thread="t").interrupts
    assert sorted(one.value for one in asked) == [0, 1, 2]
    run = agent.resume("t", answers={one.id: one.value * 10 for one in asked[1:]})
    assert run.interrupts == asked[:1]
    run = agent.resume("t", answer=asked[0].value * 10)
    assert sorted(run.value["items"]) == [[0, 0], [1, 10], [2, 20]]


def test_a_durable_call_that_asks_keeps_its_answer(home: Path, ledger: Ledger) -> None:
    """A question behind a durable call that asked gets its own answer, not that call's."""

    @na.step
    def first(label: str) -> Any:
        ledger.note(label)
        return interrupt(label)

    def node(state: State) -> State:
        answers = [first("one?"), interrupt("two?"), first("three?"), interrupt("four?")]
        return {"at": answers}

    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(node), "asking", journal)
        run = agent.run({"n": 0}, thread="t")
        for number, asked in enumerate(["one?", "two?", "three?", "four?"]):
            assert [one.value for one in run.interrupts] == [asked]
            run = na.resume("t", answer=number, journal=journal)
        assert run.value["at"] == [0, 1, 2, 3]
    assert ledger.lines() == ["one?", "one?", "three?", "three?"]


def test_a_question_behind_a_called_graph_that_asked(home: Path) -> None:
    """A node's own question gets its own answer, not that of a graph which its function called."""
    inner = chain(lambda state: {"at": interrupt("in")}).compile()

    def node(state: State) -> State:
        return {"at": [inner.invoke({"n": 0})["at"], interrupt("own")]}

    with na.Journal.open(home) as journal:
        run = na.Agent(chain(node), "asking", journal).run({"n": 0}, thread="t")
        for question in ("in", "own"):
            assert [one.value for one in run.interrupts] == [question]
            run = na.resume("t", answer=question.upper(), journal=journal)
        assert run.value["at"] == ["IN", "OWN"]
