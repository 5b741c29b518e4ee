"""What happens in a conditional edge besides a look at the state: steps of their own, and forks."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START
from langgraph.types import interrupt
from support.checks import State, add, chain
from support.openai_server import ModelServer
from support.running import named
from support.shapes import build, go, names

import notebook_agents as na
from notebook_agents import ids
from notebook_agents.model import Kind, Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.running import Ledger

MODEL = "gpt-scripted-1"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Run a model server; start and end without a global cache."""
    set_llm_cache(None)
    with ModelServer() as running:
        yield running
    set_llm_cache(None)


def model(server: ModelServer, **options: Any) -> ChatOpenAI:
    """Return OpenAI's client for the server."""
    return ChatOpenAI(
        model=MODEL, base_url=f"{server.url}/v1", api_key="sk-x", max_retries=0, **options
    )


def routed(route: Any, node: Any = add, *, start: bool = False) -> Any:
    """Return a graph with a conditional edge behind its first node, or before it."""
    graph = build(first=node, second=add)
    graph.add_conditional_edges(START if start else "first", route, ["second", END])
    return graph


# -- what a route is when something happens in it ----------------------------------------------


def test_a_look_at_the_state_is_no_step(journal):
    """A route in which nothing happens is not listed."""
    run = na.Agent(routed(lambda state: END), "routing", journal).run({"n": 0}, thread="t")
    assert names(run) == [("first", "", 1)]


def test_a_durable_call_in_a_route(journal, ledger):
    """The route is a step from its first call on, and the call is a step in it."""

    @na.step
    def look() -> str:
        ledger.note("look")
        return END

    def toss(state: State) -> str:
        return look()

    run = na.Agent(routed(toss), "routing", journal).run({"n": 0}, thread="t")
    _, route, call = run.steps
    assert (route.name, route.parent, call.parent) == ("first → toss", None, route.id)
    assert [step.outcome for step in run.steps] == [Outcome.RETURNED] * 3
    info = journal.thread("t")
    assert (info.returned, info.intended) == (3, 3)


@na.step
def choice() -> str:
    """Choose."""
    return END


def picked(_chosen: str, state: State) -> str:
    """Choose, told something before."""
    return choice()


@pytest.mark.parametrize(
    ("route", "shown", "recorded"),
    [
        (lambda state: choice(), "<lambda>", "RunnableCallable"),
        (partial(picked, "a"), "picked", "RunnableCallable"),
        (RunnableLambda(lambda state: choice(), name="choose"), "choose", "choose"),
    ],
    ids=["lambda", "partial", "named"],
)
def test_the_name_of_a_route(journal, route, shown, recorded):
    """A route has the name that people gave it; its id is what earlier versions recorded."""
    run = na.Agent(routed(route), "routing", journal).run({"n": 0}, thread="t")
    step = run.steps[1]
    assert step.name == f"first → {shown}"
    tasks = {
        record.ref
        for record in journal.select(thread="t", kinds=[Kind.STEP_INTENDED])
        if record.step == step.id
    }
    assert {ids.route_id("t", task, f"first\0{recorded}\x000") for task in tasks} == {step.id}


@pytest.mark.parametrize("start", [False, True], ids=["node", "start"])
def test_killed_in_a_route_behind_its_call(home, ledger, trips, dies, start):
    """The run goes on, the call is not made again, and the route is not taken for a node."""

    @na.step
    def look() -> str:
        ledger.note(f"look {na.idempotency_key()}")
        return END

    def toss(state: State) -> str:
        found = look()
        trips()
        return found

    dies(lambda: go(home, routed(toss, start=start)))
    run = go(home, routed(toss, start=start))
    assert run.status is RunStatus.SUCCEEDED
    assert len(ledger.lines()) == 1
    assert [(step.outcome, len(step.attempts)) for step in run.steps if "→" in step.name] == [
        (Outcome.RETURNED, 2)
    ]


def test_what_was_said_of_a_route(home, ledger, trips, dies):
    """A person can say what a route in doubt chose."""

    @na.step
    def look() -> str:
        ledger.note("look")
        return END

    def toss(state: State) -> str:
        found = look()
        trips()
        return found

    dies(lambda: go(home, routed(toss)))
    with na.Journal.open(home) as journal:
        na.resolve("t", answer=na.did("second"), journal=journal)
    assert go(home, routed(toss)).value["n"] == 2


def test_a_doubt_in_a_route_is_not_handled(home, ledger, trips, dies):
    """A node's error handler is for its failures: it gets no doubt of the route behind it."""

    @na.step(at_most_once=True)
    def pay() -> str:
        trips()
        return END

    def handler(state: State) -> State:
        return {"n": -1}

    def toss(state: State) -> str:
        return pay()

    def beside(state: State) -> State:
        # Only of several that run side by side does LangGraph hand over any BaseException.
        if ledger.note("beside") == 1:
            threading.Event().wait()  # until the process is killed
        return {}

    graph = build(zero=add, beside=beside)
    graph.add_node("first", add, error_handler=handler)
    graph.add_edge("zero", "first")
    graph.add_edge("zero", "beside")
    graph.add_conditional_edges("first", toss, [END])
    dies(lambda: go(home, graph))
    assert go(home, graph).status is RunStatus.IN_DOUBT
    with na.Journal.open(home) as journal:
        na.resolve("t", answer=na.did(END), journal=journal)
    assert go(home, graph).value["n"] == 2


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [False, True], ids=["node", "start"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("cache", [None, False], ids=["journaled", "uncached"])
def test_tokens_of_a_model_in_a_route(journal, server, start, is_async, cache):
    """What a model takes in a route is counted once, whether its reply is journaled or not."""
    asked = model(server, cache=cache)

    def toss(state: State) -> str:
        asked.invoke("where?")
        return END

    async def toss_async(state: State) -> str:
        await asked.ainvoke("where?")
        return END

    graph = routed(toss_async if is_async else toss, start=start)
    agent = na.Agent(graph, "asking", journal, prices={MODEL: (2.0, 8.0)})
    run = agent.run({"n": 0}, thread="t")
    usage = run.view.usage
    assert (MODEL in named(run)) is (cache is None)
    assert [(one.model, one.replies) for one in usage.models] == [(MODEL, 1)]
    assert usage.cost


class Unreachable(GenericFakeChatModel):
    """A model that never replies."""

    def _generate(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("nobody there")


def test_model_error_caught_in_a_route(journal):
    """The call that had no reply ends as failed, and is in no doubt."""
    asked = Unreachable(messages=iter([]))

    def toss(state: State) -> str:
        try:
            asked.invoke("where?")
        except ConnectionError:
            return END
        return "second"

    run = na.Agent(routed(toss), "asking", journal).run({"n": 0}, thread="t")
    assert [step.outcome for step in run.steps] == [
        Outcome.RETURNED,
        Outcome.RETURNED,
        Outcome.FAILED,
    ]
    assert run.view.doubtful == ()


def test_graphs_that_routes_call_keep_their_places(home, ledger, trips, dies):
    """A route that is not run again keeps the place of the graph that it called."""

    def node(state: State) -> State:
        ledger.note(state["at"])
        return {"items": [state["at"]]}

    called = chain(node).compile()

    def slow(state: State) -> str:
        time.sleep(0.02)
        return str(called.invoke({"at": "second"})["items"][0])

    def other(state: State) -> str:
        found = str(called.invoke({"at": "third"})["items"][0])
        trips()
        return found

    graph = build(first=add, second=lambda _: {"items": [2]}, third=lambda _: {"items": [3]})
    graph.add_conditional_edges("first", slow, ["second", "third"])
    graph.add_conditional_edges("first", other, ["second", "third"])
    dies(lambda: go(home, graph))
    assert go(home, graph).value["items"] == [2, 3]
    assert ledger.lines().count("second") == 1


# -- forks -----------------------------------------------------------------------------------------


def calls(ledger: Ledger, to: str = "second") -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a node and a route that make durable calls."""

    @na.step
    def call(what: str) -> str:
        ledger.note(f"{what} {na.idempotency_key()}")
        return what

    def node(state: State) -> State:
        ledger.note("node")
        call("inside")
        return {"n": 1}

    def toss(state: State) -> str:
        ledger.note("toss")
        call("one")
        call("two")
        call("three")
        return to

    return node, toss


@pytest.mark.parametrize("start", [False, True], ids=["node", "start"])
def test_fork_at_a_call_in_a_route(journal, ledger, start):
    """The node stands, the route runs again, and makes this call and later ones anew."""
    node, toss = calls(ledger, END if start else "second")
    agent = na.Agent(routed(toss, node, start=start), "forking", journal)
    run = agent.run({"n": 0}, thread="t")
    route = next(step.id for step in run.steps if "→" in step.name)
    two = [step.id for step in run.steps if step.parent == route][1]
    done = ledger.lines()
    fork = agent.fork("t", at=two)
    again = fork.resume()
    assert again.value == run.value
    lines = ledger.lines()[len(done) :]
    what = [line.partition(" ")[0] for line in lines]
    assert [one for one in what if one not in ("node", "inside")] == ["toss", "two", "three"]
    assert ("node" in what) is start  # it follows from the start
    assert not {line for line in lines if line[:2] in ("tw", "th")} & set(done)


def test_fork_at_a_route(journal, ledger):
    """The node stands, the route runs again with all its calls."""
    node, toss = calls(ledger)
    agent = na.Agent(routed(toss, node), "forking", journal)
    run = agent.run({"n": 0}, thread="t")
    done = len(ledger.lines())
    agent.fork("t", at=named(run)["first → toss"].id).resume()
    what = [line.partition(" ")[0] for line in ledger.lines()[done:]]
    assert what == ["toss", "one", "two", "three"]


@pytest.mark.parametrize("slow", [0.0, 0.02])
def test_fork_at_a_node_undoes_its_route(journal, ledger, slow):
    """What a route chose follows from its node: in a fork at the node it chooses again."""

    def toss(state: State) -> str:
        ledger.note("toss")
        time.sleep(slow)
        return "second"

    agent = na.Agent(routed(toss), "forking", journal)
    run = agent.run({"n": 0}, thread="t")
    assert agent.fork("t", at=run.steps[0].id).resume().value == run.value
    assert ledger.lines() == ["toss", "toss"]


def test_fork_in_a_subgraph_undoes_the_route_behind_it(journal, ledger):
    """A route behind a subgraph follows from what is in it; one beside it does not."""

    def toss(state: State) -> str:
        ledger.note("toss")
        time.sleep(0.02)
        return END

    def beside(state: State) -> str:
        ledger.note("beside")
        time.sleep(0.02)
        return END

    graph = build(inner=chain(add).compile(), other=lambda state: {"items": [1]})
    graph.add_edge(START, "other")
    graph.add_conditional_edges("inner", toss, [END])
    graph.add_conditional_edges("other", beside, [END])
    agent = na.Agent(graph, "forking", journal)
    run = agent.run({"n": 0}, thread="t")
    assert agent.fork("t", at=named(run)["add"].id).resume().value == run.value
    assert sorted(ledger.lines()) == ["beside", "toss", "toss"]


def test_fork_at_a_call_behind_an_answer(journal, ledger):
    """In the fork the node asks again, under an id and key of its own, and gets the new answer."""

    @na.step
    def call(what: str) -> str:
        ledger.note(na.idempotency_key())
        return what

    def person(state: State) -> State:
        answer = interrupt("name?")
        return {"items": [answer, call("x")]}

    agent = na.Agent(chain(person), "forking", journal)
    agent.run({"n": 0}, thread="t")
    run = agent.resume("t", answer="ada")
    fork = agent.fork("t", at=named(run)[_short(run, "call")].id)
    (asked,) = fork.resume().interrupts
    assert asked.value == "name?"
    again = agent.resume(fork.name, answers={asked.id: "bob"})
    assert again.value["items"] == ["bob", "x"]
    assert not {step.key for step in again.steps} & {step.key for step in run.steps}
    assert len(set(ledger.lines())) == 2


def _short(run: na.Run, name: str) -> str:
    return next(step.name for step in run.steps if step.name.endswith(name))


def test_fork_at_a_call_in_a_route_behind_answers(journal, ledger):
    """The node keeps its answers, what the route was answered it asks again."""

    @na.step
    def call(what: str) -> str:
        ledger.note(what)
        return what

    def person(state: State) -> State:
        ledger.note("person")
        return {"items": [interrupt("name?")]}

    def toss(state: State) -> str:
        found = interrupt("where?")
        return call(found)

    agent = na.Agent(routed(toss, person), "forking", journal)
    agent.run({"n": 0}, thread="t")
    agent.resume("t", answer="ada")
    run = agent.resume("t", answer="second")
    fork = agent.fork("t", at=named(run)[_short(run, "call")].id)
    done = len(ledger.lines())
    (asked,) = fork.resume().interrupts
    assert asked.value == "where?"
    again = agent.resume(fork.name, answer=END)
    assert (again.status, again.value["items"]) == (RunStatus.SUCCEEDED, ["ada"])
    assert ledger.lines()[done:] == [END]
