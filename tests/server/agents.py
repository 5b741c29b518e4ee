"""Agents whose journals the server is asked about."""

from __future__ import annotations

import operator
import os
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

import notebook_agents as na

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


class State(TypedDict, total=False):
    """What the graphs keep."""

    n: int
    log: Annotated[list[Any], operator.add]
    said: Any


def chained(*nodes: Any) -> Any:
    """Return a graph of nodes, each a function or a pair of name and function."""
    graph = StateGraph(State)
    pairs = [node if isinstance(node, tuple) else (node.__name__, node) for node in nodes]
    last = START
    for name, node in pairs:
        graph.add_node(name, node)
        graph.add_edge(last, name)
        last = name
    graph.add_edge(last, END)
    return graph


def add(state: State) -> State:
    """Add one."""
    return {"n": state.get("n", 0) + 1, "log": ["added"]}


@na.step
def looked_up(word: str) -> dict[str, Any]:
    """Return something plain."""
    return {"word": word, "letters": len(word)}


@na.step
def both(word: str) -> tuple[str, int]:
    """Return what is kept as a pickle."""
    return word, len(word)


def look(state: State) -> State:
    """Make two durable calls."""
    return {"log": [looked_up("hello")["letters"], both("pair")[1]]}


def ask(state: State) -> State:
    """Wait for a person."""
    return {"said": interrupt({"question": f"how many? {MARKUP}"})}


def fail(state: State) -> State:
    """Fail with markup."""
    raise RuntimeError(MARKUP)


def die(state: State) -> State:
    """Have the process killed."""
    os.kill(os.getpid(), 9)
    return {}


@na.step(at_most_once=True)
def charge() -> str:
    """Have the process killed in a call that may not be repeated."""
    os.kill(os.getpid(), 9)
    return ""


def pay(state: State) -> State:
    """Pay."""
    return {"said": charge()}
