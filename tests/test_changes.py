"""What changed in a graph since its run began is named when the run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langgraph.graph import END, START, StateGraph
from support.checks import State, add

import notebook_agents as na
from notebook_agents.errors import DefinitionError
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable


def build(**nodes: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    """Return these nodes in a row."""
    graph = StateGraph(State)
    names = list(nodes)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


def broken(state: State) -> State:
    """Fail."""
    raise OSError("out of order")


def mended(state: State) -> State:
    """Work."""
    return {"n": state["n"] + 100}


def test_changed_nodes_are_named(journal, capsys):
    """The mended node runs with its new code, and what changed is said with the names."""
    with pytest.raises(OSError, match="out of order"):
        na.Agent(build(one=add, two=broken), "a", journal).run({"n": 0}, thread="t")
    capsys.readouterr()
    extended = build(one=add, two=mended, three=lambda state: {"n": state["n"] + 1000})
    run = na.Agent(extended, "a", journal).run({"n": 0}, thread="t")
    assert run.value["n"] == 1101
    said = capsys.readouterr().err
    assert "'three' is new, 'two' changed" in said
    assert "'one'" not in said


def test_nothing_is_said_of_an_unchanged_graph(journal, capsys):
    """A graph that is built again from the same code is the same graph."""

    def make() -> na.Agent:
        def two(state: State) -> State:
            if state["n"] in {1, 2} and not journal.thread("t").run > 1 and failing:
                raise OSError("out of order")
            return {"n": 7}

        return na.Agent(build(one=add, two=two), "a", journal)

    failing = [True]
    with pytest.raises(OSError, match="out of order"):
        make().run({"n": 0}, thread="t")
    failing.clear()
    capsys.readouterr()
    assert make().run({"n": 0}, thread="t").value["n"] == 7
    assert "is not what it was" not in capsys.readouterr().err


def test_a_changed_conditional_edge_counts_as_its_node(journal, capsys):
    """The function of a conditional edge is code of the node that it leaves."""

    def graph(route: Callable[[State], str], last: Callable[..., Any]) -> Any:
        made = StateGraph(State)
        made.add_node("one", add)
        made.add_node("two", last)
        made.add_edge(START, "one")
        made.add_conditional_edges("one", route, ["two", END])
        return made

    with pytest.raises(OSError, match="out of order"):
        na.Agent(graph(lambda state: "two", broken), "a", journal).run({"n": 0}, thread="t")
    capsys.readouterr()
    other = graph(lambda state: "two" if state["n"] else END, mended)
    assert na.Agent(other, "a", journal).run({"n": 0}, thread="t").value["n"] == 101
    assert "'one' changed, 'two' changed" in capsys.readouterr().err


def test_a_node_that_did_not_begin_and_is_gone(journal):
    """A node that has to run next, and did not begin yet, cannot be left out without a word."""
    graph = build(one=add, two=mended).compile(interrupt_before=["two"])
    agent = na.Agent(graph, "a", journal)
    assert agent.run({"n": 0}, thread="t").status is RunStatus.WAITING
    renamed = na.Agent(build(one=add, other=mended), "a", journal)
    with pytest.raises(DefinitionError, match=r"'two' has to run and .* no such node"):
        renamed.resume("t")
    again = na.Agent(build(one=add, two=mended), "a", journal)
    assert again.resume("t").value["n"] == 101


def test_inner_nodes_are_named_with_their_graph(journal, capsys):
    """A changed node of a subgraph is named with the node that holds the subgraph."""

    def outer(node: Callable[..., Any]) -> Any:
        return build(one=add, sub=build(inner=node).compile())

    with pytest.raises(OSError, match="out of order"):
        na.Agent(outer(broken), "a", journal).run({"n": 0}, thread="t")
    capsys.readouterr()
    assert na.Agent(outer(mended), "a", journal).run({"n": 0}, thread="t").value["n"] == 101
    assert "'sub/inner' changed" in capsys.readouterr().err
