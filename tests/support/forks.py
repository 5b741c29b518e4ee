"""Graphs to fork, and the effects that they have outside."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Send

import notebook_agents as na
from notebook_agents.model import RunStatus
from support.checks import State, chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.running import Ledger

Graph = StateGraph[Any, Any, Any, Any]


class Effects:
    """Nodes that note what they did outside, and under which key.

    Attributes:
        ledger: The lines "name key".
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def node(self, name: str, then: Callable[[State], Any] = lambda state: None) -> Any:
        """Return a node that has an effect and adds its name to the state."""
        ledger = self.ledger

        def node(state: State) -> State:
            ledger.note(f"{name} {na.idempotency_key()}")
            then(state)
            return {"items": [name]}

        node.__name__ = name
        return node

    def names(self, start: int = 0) -> list[str]:
        """Return the names of the effects from a line on, in alphabetical order."""
        return sorted(line.partition(" ")[0] for line in self.ledger.lines()[start:])

    def keys(self, name: str) -> list[str]:
        """Return the keys under which an effect went out, in order."""
        return [line.split()[1] for line in self.ledger.lines() if line.startswith(name + " ")]


@pytest.fixture
def effects(ledger: Ledger) -> Effects:
    """Count effects outside."""
    return Effects(ledger)


def sequential(effects: Effects) -> Graph:
    """Return a → b → c."""
    return chain(*map(effects.node, "abc"))


def fan_out(effects: Effects) -> Graph:
    """Return a → (b, c, three sends d) → e."""
    graph = StateGraph(State)
    for name in "abcde":
        graph.add_node(name, effects.node(name) if name != "d" else _part(effects))
    graph.add_edge(START, "a")
    graph.add_conditional_edges(
        "a", lambda state: ["b", "c", *(Send("d", {"n": n}) for n in range(3))], ["b", "c", "d"]
    )
    graph.add_edge(["b", "c"], "e")
    return graph


def _part(effects: Effects) -> Any:
    def part(state: State) -> State:
        effects.ledger.note(f"d{state['n']} {na.idempotency_key()}")
        return {"items": [f"d{state['n']}"]}

    return part


class Items(TypedDict, total=False):
    """The state of the subgraphs: what they write besides would collide."""

    items: Annotated[list[Any], operator.add]


def nested(effects: Effects) -> Graph:
    """Return a → (left(b → deep(c → d) → e), right(f → g)) → h."""
    left = _line(b=effects.node("b"), deep=_line(c=effects.node("c"), d=effects.node("d")))
    left.add_node("e", effects.node("e"))
    left.add_edge("deep", "e")
    right = _line(f=effects.node("f"), g=effects.node("g"))
    graph = StateGraph(State)
    graph.add_node("a", effects.node("a"))
    graph.add_node("left", left.compile())
    graph.add_node("right", right.compile())
    graph.add_node("h", effects.node("h"))
    graph.add_edge(START, "a")
    graph.add_edge("a", "left")
    graph.add_edge("a", "right")
    graph.add_edge(["left", "right"], "h")
    return graph


def _line(**nodes: Any) -> Graph:
    graph = StateGraph(Items)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node.compile() if isinstance(node, StateGraph) else node)
        graph.add_edge(before, name)
        before = name
    return graph


BEHIND = {
    sequential: {"a": "abc", "b": "bc", "c": "c"},
    fan_out: {
        "a": ["a", "b", "c", "d0", "d1", "d2", "e"],
        "b": "be",
        "c": "ce",
        "d": ["d1", "e"],
        "e": "e",
    },
    nested: {
        "a": "abcdefgh",
        "b": "bcdeh",
        "c": "cdeh",
        "d": "deh",
        "e": "eh",
        "f": "fgh",
        "g": "gh",
        "h": "h",
    },
}
"""What is to run again in a fork at a node: it and what followed from it, not its siblings."""
CASES = [(shape, name) for shape, behind in BEHIND.items() for name in behind]


def go(home: Path, graph: Any, thread: str = "t", **options: Any) -> na.Run:
    """Run, or go on with, a graph; read its value before the journal closes."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(graph, "forking", journal)
        run = agent.run(options.pop("given", {"n": 0}), thread=thread, **options)
        assert run.view
        if run.status is RunStatus.SUCCEEDED:
            assert run.value
        return run


def step_of(run: na.Run, name: str) -> str:
    """Return the id of a node's step; of the sends the one in the middle."""
    found = [step.id for step in run.steps if step.name == name]
    return found[len(found) // 2]
