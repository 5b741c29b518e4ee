"""Questions in a conditional edge: listed, answered like a node's, and never asked twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel, ValidationError
from support.checks import State, add
from support.running import named
from support.shapes import build

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from support.running import Ledger


def left(state: State) -> State:
    """Go left: a node."""
    return {"items": ["left"]}


def right(state: State) -> State:
    """Go right: a node."""
    return {"items": ["right"]}


def asking(node: Any = add, *routes: Any, start: bool = False) -> Any:
    """Return a graph whose first node (or whose start) has these routes."""

    def where(state: State) -> str:
        return interrupt("where?")

    graph = build(first=node, left=left, right=right)
    for route in routes or (where,):
        graph.add_conditional_edges(START if start else "first", route, ["left", "right", END])
    return graph


@pytest.mark.parametrize("start", [False, True], ids=["node", "start"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_route_asks(journal, start, is_async):
    """A question of a conditional edge is listed with who asks it, and is answered by `resume`."""

    async def where(state: State) -> str:
        return interrupt("where?")

    routes = (where,) if is_async else ()
    agent = na.Agent(asking(add, *routes, start=start), "asking", journal)
    run = agent.run({"n": 0}, thread="t")
    (asked,) = run.interrupts
    assert run.status is RunStatus.WAITING
    assert (asked.value, asked.node) == ("where?", f"{'__start__' if start else 'first'} → where")
    assert asked.step == named(run)[asked.node].id
    assert agent.resume("t").interrupts == (asked,)
    with pytest.raises(errors.InputError, match="nope"):
        agent.resume("t", answers={"nope": 1})
    run = agent.resume("t", answer="left")
    assert (run.status, run.value["items"], run.interrupts) == (RunStatus.SUCCEEDED, ["left"], ())
    assert named(run)[asked.node].outcome is Outcome.RETURNED


def test_a_route_is_answered_by_command_and_on_the_command_line(journal, cli):
    """LangGraph's Command answers it, and so does `resume --answer`."""
    agent = na.Agent(asking(), "asking", journal)
    agent.run({"n": 0}, thread="t")
    assert agent.run(Command(resume="left"), thread="t").value["items"] == ["left"]
    agent.run({"n": 0}, thread="u")
    home = ("--journal", str(journal.home))
    assert "where?" in cli("show", "u", *home).out
    ended = cli("resume", "u", "--answer", '"right"', "--json", *home)
    assert json.loads(ended.out)["value"]["items"] == ["right"]


def node_and_routes() -> Any:
    """Return a graph whose node asks twice, and both routes behind it once."""

    def both(state: State) -> State:
        return {"items": [interrupt("one"), interrupt("two")]}

    def three(state: State) -> str:
        return interrupt("three")

    def four(state: State) -> str:
        return interrupt("four")

    return asking(both, three, four)


GIVEN = {"one": 1, "two": 2, "three": "left", "four": "right"}


def test_a_node_and_its_routes_ask(journal):
    """Each gets its own answer, as in LangGraph alone, which asks them in one order."""
    plain = node_and_routes().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    said: Any = {"n": 0}
    order = []
    while "__interrupt__" in (told := plain.invoke(said, config)):
        (asked,) = told["__interrupt__"]
        order.append(asked.value)
        said = Command(resume=GIVEN[asked.value])
    agent = na.Agent(node_and_routes(), "asking", journal)
    run = agent.run({"n": 0}, thread="t")
    for question in order:
        assert agent.resume("t").interrupts == run.interrupts
        (one,) = run.interrupts
        assert one.value == question
        run = na.resume("t", answers={one.id: GIVEN[question]}, journal=journal)
    assert order == list(GIVEN)
    assert run.value["items"] == told["items"] == [1, 2, "left", "right"]


def test_a_slow_route_that_had_an_answer(journal):
    """What a route was answered is no answer for the route behind it that asks too."""

    def slow(state: State) -> str:
        time.sleep(0.02)
        return interrupt("slow?")

    def other(state: State) -> str:
        return interrupt("other?")

    agent = na.Agent(asking(add, slow, other), "asking", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="left").interrupts
    assert asked.value == "other?"
    run = agent.resume("t", answer="right")
    assert run.value["items"] == ["left", "right"]


def test_an_answer_to_a_route_that_does_not_fit(journal):
    """It is taken back: the route asks again, the answers that its node got stay."""

    class Way(BaseModel):
        name: str

    def person(state: State) -> State:
        return {"items": [interrupt("name?")]}

    def where(state: State) -> str:
        return interrupt("where?", response_schema=Way).name

    agent = na.Agent(asking(person, where), "asking", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="ada").interrupts
    with pytest.raises(ValidationError):
        agent.resume("t", answer={"name": 5})
    assert na.Run(journal, "t", 1).interrupts == (asked,)
    assert agent.resume("t").interrupts == (asked,)
    assert agent.resume("t", answer={"name": "left"}).value["items"] == ["ada", "left"]


def test_questions_of_a_route_in_a_subgraph(journal):
    """A route inside a subgraph asks for its own graph, beside a node that asks outside."""
    inner = asking(lambda state: {"items": [interrupt("in?")]})
    graph = build(inner=inner.compile(), after=add)
    graph.add_edge("inner", "after")
    agent = na.Agent(graph, "outer", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="IN").interrupts
    assert (asked.value, asked.node) == ("where?", "first → where")
    assert asked.namespace.partition(":")[0] == "inner"
    assert agent.resume("t", answer="left").value["items"] == ["IN", "left"]


def test_a_route_behind_a_subgraph_asks(journal):
    """What the nodes of a subgraph were answered is no answer for the route behind it."""
    inner = build(person=lambda state: {"items": [interrupt("in?")]})
    graph = build(inner=inner.compile(), left=left)

    def where(state: State) -> str:
        return interrupt("where?")

    graph.add_conditional_edges("inner", where, ["left"])
    agent = na.Agent(graph, "outer", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="IN").interrupts
    assert (asked.value, asked.node) == ("where?", "inner → where")
    assert agent.resume("t", answer="left").value["items"] == ["IN", "left"]


def test_a_route_that_calls_a_graph_keeps_its_place(journal):
    """The graph that a route calls is not taken for the one that its replayed node called."""
    called = build(one=lambda state: {"at": interrupt(state["at"])}).compile()

    def node(state: State) -> State:
        return {"items": [called.invoke({"at": "node?"})["at"]]}

    def where(state: State) -> str:
        return str(called.invoke({"at": "route?"})["at"])

    agent = na.Agent(asking(node, where), "asking", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="N").interrupts
    assert asked.value == "route?"
    assert agent.resume("t", answer="left").value["items"] == ["N", "left"]


def test_a_route_that_asks_is_retried(journal, ledger):
    """A retry policy runs the route again, with its answer."""

    def where(state: State) -> str:
        found = interrupt("where?")
        if ledger.note(found) == 1:
            raise OSError("out of order")
        return found

    graph = build(left=left)
    graph.add_node(
        "first",
        lambda state: {"items": [interrupt("name?")]},
        retry_policy=RetryPolicy(initial_interval=0.01, retry_on=OSError),
    )
    graph.add_edge("left", "first")
    graph.add_conditional_edges("first", where, [END])
    agent = na.Agent(graph, "asking", journal)
    agent.run({"n": 0}, thread="t")
    agent.resume("t", answer="ada")
    run = agent.resume("t", answer=END)
    assert run.value["items"] == ["left", "ada"]
    assert ledger.lines() == [END, END]


@pytest.mark.crash
def test_killed_anywhere_behind_an_answer_to_a_route(tmp_path, forked, ledger_at):
    """At every durable edge of the answering session: never asked again, and no answer lost."""
    template = tmp_path / "template"

    def agent(home: Any, ledger: Ledger) -> na.Agent:
        @na.step
        def call(where: str) -> str:
            ledger.note(where)
            return where

        def person(state: State) -> State:
            return {"items": [interrupt("name?")]}

        def where(state: State) -> str:
            call("before")
            found = interrupt("where?")
            return call(found)

        return na.Agent(asking(person, where), "asking", na.Journal.open(home))

    def begin() -> None:
        first = agent(template, ledger_at("before"))
        with first.journal:
            first.run({"n": 0}, thread="t")
            first.resume("t", answer="ada")

    assert forked(begin) == 0
    killed = 0
    for number in range(100):
        home = shutil.copytree(template, tmp_path / f"journal-{number}")
        ledger = ledger_at(f"ledger-{number}")

        def answer() -> None:
            _kill_at(number)  # noqa: B023
            one = agent(home, ledger)  # noqa: B023
            with one.journal:
                one.resume("t", answer="left")

        ended = forked(answer)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        killed += 1
        again = agent(home, ledger)
        with again.journal as journal:
            taken = journal.thread("t").status is not RunStatus.WAITING
            asked = na.Run(journal, "t", 1).interrupts
            assert [one.value for one in asked] == ([] if taken else ["where?"])
            run = again.resume("t") if taken else again.resume("t", answer="left")
            assert run.value["items"] == ["ada", "left"]
        assert "before" not in ledger.lines()
        assert set(ledger.lines()) == {"left"}
        assert len(ledger.lines()) <= 2  # the call that it died in
    assert killed > 8


def _kill_at(number: int) -> None:
    hits = iter(range(number + 1))

    def action(_: faults.Fault) -> None:
        if next(hits) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.arm(action)


def test_a_node_that_somebody_vouched_for(home, trips, dies):
    """Behind a node that asked, died and was vouched for, the route gets its own answer."""

    def person(state: State) -> State:
        answer = interrupt("name?")
        trips()
        return {"items": [answer]}

    def go(**given: Any) -> na.Run:
        with na.Journal.open(home) as journal:
            agent = na.Agent(asking(person), "asking", journal)
            run = agent.resume("t", **given) if given else agent.run({"n": 0}, thread="t")
            assert run.view
            return run

    go()
    dies(lambda: go(answer="ada"))
    with na.Journal.open(home) as journal:
        na.resolve("t", answer=na.did({"items": ["bob"]}), journal=journal)
    (asked,) = go().interrupts
    assert asked.value == "where?"
    assert go(answer="left").interrupts == ()
    with na.Journal.open(home) as journal:
        assert na.Run(journal, "t", 1).value["items"] == ["bob", "left"]
