"""Each tool call of a `ToolNode` is a step: a kill in one leaves the others done."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, interrupt

import notebook_agents as na
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.running import Ledger


class State(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    noted: str


def ask(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the state in which a model asked for tools; the calls' ids are c0, c1, …"""
    tool_calls = [
        {"name": name, "args": args, "id": f"c{number}", "type": "tool_call"}
        for number, (name, args) in enumerate(calls)
    ]
    return {"messages": [AIMessage("", tool_calls=tool_calls)]}


def graph(node: Any) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of one ToolNode."""
    builder = StateGraph(State)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    return builder


def drive(home: Path, node: ToolNode, given: dict[str, Any], call: Callable[..., na.Run]) -> na.Run:
    """Run, or go on with, a graph of one ToolNode."""
    with na.Journal.open(home) as journal:
        done = call(na.Agent(graph(node), "tooling", journal), given, thread="t")
        assert done.view
        if done.status is RunStatus.SUCCEEDED:
            assert done.value
        return done


@pytest.mark.crash
def test_only_the_call_that_was_cut_off_is_made_again(
    home: Path,
    call: Callable[..., na.Run],
    ledger: Ledger,
    trips: Callable[..., None],
    dies: Callable[..., None],
) -> None:
    """Of two calls the one that returned is replayed, the other runs again under its own key."""

    @tool
    def first() -> str:
        """Do the first thing."""
        ledger.note(f"first {na.idempotency_key()}")
        return "one"

    @tool
    async def first_async() -> str:
        """Do the first thing."""
        ledger.note(f"first {na.idempotency_key()}")
        return "one"

    @tool
    def second() -> str:
        """Do the second thing."""
        while not any(line.startswith("first") for line in ledger.lines()):
            pass
        ledger.note(f"second {na.idempotency_key()}")
        trips()
        return "two"

    given = ask(("first", {}), ("second", {}))
    given["messages"][0].id = "asked"
