"""Graphs of one shape or another, and how a test runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.graph import START, StateGraph

import notebook_agents as na
from notebook_agents.model import RunStatus

from .checks import State

if TYPE_CHECKING:
    from pathlib import Path


def build(**nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph with these nodes and an edge to the first."""
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node)
    graph.add_edge(START, next(iter(nodes)))
    return graph


def go(home: Path, graph: Any, given: Any = None, **options: Any) -> na.Run:
    """Run, or go on with, a graph on thread `t`; read its value before the journal closes."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(graph, "shaped", journal)
        run = agent.run({"n": 0} if given is None else given, thread="t", **options)
        assert run.view
        if run.status is RunStatus.SUCCEEDED:
            assert run.value is run.value
        return run


def names(run: na.Run) -> list[tuple[str, str, int]]:
    """Return each step's name, namespace without ids, and number of attempts."""
    return [(step.name, step.namespace.partition(":")[0], len(step.attempts)) for step in run.steps]
