"""Conditional edges: a choice that something rests on stands."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from support.checks import State, add
from support.shapes import build, go, names

import notebook_agents as na


@pytest.mark.parametrize("start", [START, "first"])
def test_conditional_edge(home, ledger, trips, dies, start):
    """What a conditional edge chose stands after a kill, and its function is not called again."""

    def toss(state: State) -> str:
        ledger.note(f"toss {state['n']}")
        return "left" if len(ledger.lines()) == 1 + (start != START) else "right"

    def left(state: State) -> State:
        ledger.note("left")
        trips()
        return {"n": 10}

    graph = StateGraph(State)
    for name, node in {"left": left, "right": add, "first": add}.items():
        graph.add_node(name, node)
    if start != START:
        graph.add_edge(START, start)
        ledger.note("begin")
    graph.add_conditional_edges(start, toss, ["left", "right"])
    dies(lambda: go(home, graph))
    assert go(home, graph).value["n"] == 10
    tosses = [line for line in ledger.lines() if line.startswith("toss")]
    assert len(tosses) == 1
    assert ledger.lines().count("left") == 2


def test_killed_behind_a_conditional_edge(home, ledger, trips, dies):
    """A choice that took its time is recorded before anything rests on it."""

    def choose(state: State) -> list[Send]:
        ledger.note("choose")
        time.sleep(0.02)
        return [Send("part", {"n": number}) for number in range(3)]

    def other(state: State) -> str:
        ledger.note("other")
        trips()  # behind the first edge's choice and before anything else is on disk
        return END

    graph = build(first=add, part=lambda state: {})
    graph.add_conditional_edges("first", choose, ["part"])
    graph.add_conditional_edges("first", other, [END])
    dies(lambda: go(home, graph))
    go(home, graph)
    assert Counter(ledger.lines()) == {"choose": 1, "other": 2}


def test_conditional_edge_that_raised(home, ledger):
    """A conditional edge that raised is asked again; LangGraph alone would end the run there."""

    def route(state: State) -> str:
        if ledger.note("route") == 1:
            raise OSError("out of order")
        return "second"

    graph = build(first=add, second=lambda state: {"n": state["n"] + 10})
    graph.add_conditional_edges("first", route, ["second"])
    with pytest.raises(OSError, match="out of order"):
        go(home, graph)
    run = go(home, graph)
    assert run.value["n"] == 11
    assert [(name, attempts) for name, _, attempts in names(run)] == [("first", 1), ("second", 1)]


async def test_async_conditional_edge(home, ledger):
    """A conditional edge that is only async works from a loop and from a sync call."""

    async def toss(state: State) -> str:
        ledger.note("toss")
        return END

    graph = build(first=add)
    graph.add_conditional_edges("first", toss, [END])
    assert go(home, graph).value["n"] == 1
    assert ledger.lines() == ["toss"]


def test_durable_call_in_a_conditional_edge(home, ledger, trips, dies):
    """A durable call that a conditional edge makes is not made again after a kill in the edge."""

    @na.step
    def look() -> str:
        ledger.note("look")
        return END

    def route(state: State) -> str:
        found = look()
        trips()
        return found

    graph = build(first=add)
    graph.add_conditional_edges("first", route, [END])
    dies(lambda: go(home, graph))
    assert go(home, graph).value["n"] == 1
    assert ledger.lines() == ["look"]
