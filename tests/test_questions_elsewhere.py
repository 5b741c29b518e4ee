"""Questions that no plain node asks: in tools, tasks, handlers, graphs inside functions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, ValidationError
from support.checks import State, ask, chain
from support.shapes import build

import notebook_agents as na
from notebook_agents.model import RunStatus


class Way(BaseModel):
    """What some questions want for an answer."""

    name: str


def where() -> str:
    """Ask for a `Way`."""
    return interrupt("where?", response_schema=Way).name


def refused_then_answered(agent: na.Agent) -> Any:
    """Give an answer that does not fit, look at the question, and answer it; return the value."""
    (asked,) = agent.run({"n": 0}, thread="t").interrupts
    with pytest.raises(ValidationError):
        agent.resume("t", answer={"name": 5})
    assert na.Run(agent.journal, "t", 1).interrupts == (asked,)
    again = agent.resume("t")
    assert (again.status, again.interrupts) == (RunStatus.WAITING, (asked,))
    return agent.resume("t", answer={"name": "left"}).value


def test_an_answer_to_a_called_graph_that_does_not_fit(journal):
    """The question of a graph that a node's function calls is open again."""
    inner = chain(lambda state: {"at": where()}).compile()
    agent = na.Agent(chain(lambda state: inner.invoke({"n": 0})), "calling", journal)
    assert refused_then_answered(agent)["at"] == "left"


def test_an_answer_to_a_called_graph_leaves_the_nodes_own(journal):
    """What the node itself was answered before stays answered."""
    inner = chain(lambda state: {"at": where()}).compile()

    def node(state: State) -> State:
        return {"items": [interrupt("name?"), inner.invoke({"n": 0})["at"]]}

    agent = na.Agent(chain(node), "calling", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="ada").interrupts
    with pytest.raises(ValidationError):
        agent.resume("t", answer={"name": 5})
    assert agent.resume("t").interrupts == (asked,)
    assert agent.resume("t", answer={"name": "left"}).value["items"] == ["ada", "left"]


def test_an_answer_to_a_task_that_does_not_fit(journal):
    """The question of a `@task` is open again."""

    @task
    def one() -> str:
        return where()

    @entrypoint()
    def flow(given: Any) -> str:
        return one().result()

    assert refused_then_answered(na.Agent(flow, "flow", journal)) == "left"


def test_two_tools_ask(journal, ledger):
    """Of tool calls on an event loop that ask at the same time, each gets its own answer."""

    @tool
    async def one(what: str) -> str:
        """Ask."""
        ledger.note("one")
        return interrupt(what)

    @tool
    async def two(what: str) -> str:
        """Ask."""
        ledger.note("two")
        return interrupt(what)

    calls = [
        {"name": name, "args": {"what": f"{name}?"}, "id": name, "type": "tool_call"}
        for name in ("one", "two")
    ]
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    graph.add_node("tools", ToolNode([one, two]))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    agent = na.Agent(graph, "tools", journal)

    def go(given: Any) -> na.Run:
        return asyncio.run(agent.arun(given, thread="t"))

    run = go({"messages": []})
    for _ in range(2):
        (asked,) = run.interrupts
        run = go(Command(resume={asked.id: f"answer to {asked.value}"}))
    said = [message.content for message in run.value["messages"][1:]]
    assert said == ["answer to one?", "answer to two?"]
    assert sorted(ledger.lines()) == ["one"] * 2 + ["two"] * 3


def test_an_error_handler_asks(journal, ledger):
    """It gets its own answer, not that of the node that failed, which does not run again."""

    def broken(state: State) -> State:
        ledger.note(interrupt("name?"))
        raise ValueError("out of order")

    def handler(state: State) -> State:
        return {"items": [interrupt("what now?")]}

    graph = build(before=lambda state: {})
    graph.add_node("broken", broken, error_handler=handler)
    graph.add_edge("before", "broken")
    agent = na.Agent(graph, "handling", journal)
    agent.run({"n": 0}, thread="t")
    (asked,) = agent.resume("t", answer="ada").interrupts
    assert asked.value == "what now?"
    assert agent.resume("t").interrupts == (asked,)
    assert agent.resume("t", answer="go on").value["items"] == ["go on"]
    assert ledger.lines() == ["ada"]


def test_what_a_handled_node_wrote_stays(journal):
    """A route that raised behind its node is handled; over a wait, the node's result still counts.

    LangGraph keeps it in one process and over a resume.
    """

    def toss(state: State) -> str:
        raise ValueError("out of order")

    graph = build(before=lambda state: {})
    graph.add_node("first", lambda state: {"n": 5}, error_handler=ask_what_now)
    graph.add_edge("before", "first")
    graph.add_conditional_edges("first", toss, [END])
    agent = na.Agent(graph, "handling", journal)
    agent.run({"n": 0}, thread="t")
    value = agent.resume("t", answer="go on").value
    assert (value["n"], value["items"]) == (5, ["go on"])


def ask_what_now(state: State) -> State:
    """Ask a person: an error handler."""
    return {"items": [interrupt("what now?")]}


def test_routes_of_a_fan_out_ask(journal):
    """Each execution of a node has a route of its own, with a question of its own."""
    graph = StateGraph(State)
    graph.add_node("one", lambda state: {"items": [state["n"]]})
    graph.add_node("last", lambda state: {"items": ["last"]})
    sends = [Send("one", {"n": n}) for n in range(3)]
    graph.add_conditional_edges(START, lambda state: sends, ["one"])
    graph.add_conditional_edges("one", lambda state: interrupt("where?"), ["last", END])
    agent = na.Agent(graph, "fan", journal)
    asked = agent.run({"n": 0}, thread="t").interrupts
    assert len({one.id for one in asked}) == 3
    run = agent.resume("t", answers={asked[0].id: END, asked[2].id: END})
    assert run.interrupts == (asked[1],)
    assert agent.resume("t", answer="last").value["items"] == [0, 1, 2, "last"]


@pytest.mark.parametrize("at", [None, "node"])
def test_fork_of_a_question_in_a_route(journal, at):
    """A thread and its fork each have the question, and an answer of their own."""

    def toss(state: State) -> str:
        return interrupt("where?")

    graph = build(first=lambda state: {"items": [interrupt("name?")]}, second=ask)
    graph.add_conditional_edges("first", toss, ["second", END])
    agent = na.Agent(graph, "forking", journal)
    agent.run({"n": 0}, thread="t")
    run = agent.resume("t", answer="ada")
    point = None if at is None else run.steps[0].id
    fork = agent.fork("t", at=point).name
    assert agent.resume("t", answer=END).value["items"] == ["ada"]
    if at is not None:
        assert [one.value for one in agent.resume(fork).interrupts] == ["name?"]
        agent.resume(fork, answer="bob")
    (asked,) = na.Run(journal, fork, 1).interrupts
    assert asked.value == "where?"
    assert agent.resume(fork, answer=END).value["items"] == ["ada" if at is None else "bob"]


def test_streams_of_a_question_in_a_route(journal):
    """A stream ends with the question, and one with the answer goes on behind it."""
    graph = build(first=lambda state: {"items": [interrupt("name?")]})
    graph.add_conditional_edges("first", lambda state: interrupt("where?"), [END])
    agent = na.Agent(graph, "streaming", journal)

    async def collect(given: Any) -> list[Any]:
        stream = agent.astream(given, thread="t", stream_mode="updates")
        return [chunk async for chunk in stream]

    (first,) = asyncio.run(collect({"n": 0}))
    (second,) = list(agent.stream(Command(resume="ada"), thread="t", stream_mode="updates"))
    assert [chunk["__interrupt__"][0].value for chunk in (first, second)] == ["name?", "where?"]
    assert asyncio.run(collect(Command(resume=END))) == [{"first": {"items": ["ada"]}}]
