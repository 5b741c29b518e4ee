"""Agents to be used wrongly, and what every refusal has to keep to."""

from __future__ import annotations

import operator
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

import notebook_agents as na

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AGENTS = """
import os
import threading
from typing import TypedDict

from langgraph.graph import StateGraph
from langgraph.types import interrupt

import notebook_agents as na


class State(TypedDict, total=False):
    n: int
    at: object


def add(state):
    return {"n": state["n"] + 1}


def fragile(state):
    if "BROKEN" in os.environ:
        raise RuntimeError("out of order")
    return {"n": 10}


def lock(state):
    return {"at": threading.Lock()}


def person(state):
    return {"n": interrupt("how many?")}


def chain(name, *nodes):
    graph = StateGraph(State)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.set_entry_point(nodes[0].__name__)
    return na.Agent(graph, name=name)


counter = chain("counter", add)
other = chain("other", add)
breaking = chain("breaking", add, fragile)
locking = chain("locking", lock)
asking = chain("asking", person)
"""
"""A module of agents, for programs and for the command line."""


class State(TypedDict, total=False):
    """The state of every graph made by `chain`."""

    n: int
    items: Annotated[list[Any], operator.add]
    at: Any


def chain(*nodes: Callable[[State], Any]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph that runs one node after the other."""
    graph = StateGraph(State)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.add_edge(START, nodes[0].__name__)
    graph.add_edge(nodes[-1].__name__, END)
    return graph


def add(state: State) -> State:
    """Add one: a node."""
    return {"n": state["n"] + 1}


def ask(state: State) -> State:
    """Wait for a person: a node."""
    return {"n": interrupt("how many?")}


def says(error: BaseException | str, *named: object) -> None:
    """Check that an error is one sentence that names what it is about and what to do."""
    text = str(error)
    assert "\n" not in text, text
    assert not re.search(r"\.\s+[A-Z]", text), f"more than one sentence: {text}"
    assert re.search(r"[:;,] ", text), f"says nothing to do: {text}"
    for name in named:
        assert str(name) in text, f"{name} is not in: {text}"


def standing(home: Path) -> list[object]:
    """Return where every thread of a journal stands, and what every record holds."""
    with na.Journal.open(home, create=False) as journal:
        seqs = [record.seq for record in journal.select()]
        return [journal.threads(), journal.payloads(seqs)]


@contextmanager
def refused(home: Path, error: type[BaseException], *named: object) -> Iterator[None]:
    """Expect an error that changes nothing in the journal at `home`."""
    before = standing(home)
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    says(caught.value, *named)
    assert standing(home) == before


def told(ended: Any, code: int, *named: object) -> None:
    """Check that a command ended with a code, one line about it, and no traceback."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    line = ended.err.strip().splitlines()[-1]
    for name in named:
        assert str(name) in line, ended.err
