"""The canary for what LangGraph does not publish: graph/private.py and the wrapper rest on it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from pydantic import BaseModel

import notebook_agents as na
from notebook_agents.graph.driver_saver import DriverSaver
from notebook_agents.graph.handover import handed_over
from notebook_agents.graph.private import (
    DEFAULT_ERROR_HANDLER,
    NULL_TASK_ID,
    RESUME,
    execution_info,
    interrupt_id,
    is_tool_node,
    schema_types,
    superstep,
    with_tool_calls,
)

if TYPE_CHECKING:
    import pytest


class Model(BaseModel):
    """A type that a state declares."""


class State(TypedDict):
    model: Model
    seen: Any


class Said(TypedDict):
    said: list[Any]


def test_a_node_learns_its_task_and_checkpoint() -> None:
    """The config of a node carries the ids that a step's identity is made of."""
    infos, supersteps = [], []

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        infos.append(execution_info(config))
        supersteps.append(superstep(config))
        return {"seen": 1}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    graph.invoke({"seen": 0}, config)
    (info,) = infos
    newest, before, *_ = graph.get_state_history(config)
    assert info.checkpoint_id == before.config["configurable"]["checkpoint_id"]
    assert info.task_id == before.tasks[0].id
    assert info.checkpoint_ns == f"node:{info.task_id}"
    assert execution_info(None) is None
    assert supersteps == [newest.metadata["step"]]


def test_declared_types_are_found() -> None:
    """The types that a schema declares are known by module and name."""
    graph = StateGraph(State).add_node("n", lambda state: state).add_edge(START, "n").compile()
    assert (__name__, "Model") in schema_types(graph)


def test_a_default_error_handler_is_added_under_the_known_name() -> None:
    """compile() adds the default error handler's node to the builder under the name we remove."""
    builder = StateGraph(State).add_node("n", lambda state: state).add_edge(START, "n")
    builder.set_node_defaults(error_handler=lambda state: state)
    builder.compile()
    assert DEFAULT_ERROR_HANDLER in builder.nodes


def test_a_tool_nodes_calls_go_through_us() -> None:
    """A copied ToolNode hands each call over, and its runtime carries the two counters."""
    used: list[str] = []
    seen: list[tuple[Any, str]] = []

    def ask() -> str:
        """Ask, as the second question of its task."""
        return str(interrupt("?"))

    def run(call: Any, key: str, execute: Any) -> Any:
        seen.append((call["id"], key))
        return execute(used, {"interrupt0"})

    async def arun(call: Any, key: str, execute: Any) -> Any:
        return await execute(used, set())

    node = ToolNode([ask], messages_key="said")
    assert is_tool_node(node)
    assert not is_tool_node(RunnableLambda(ask))
    builder = StateGraph(Said)
    builder.add_node("tools", with_tool_calls(node, run, arun))
    builder.add_edge(START, "tools")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    call = {"name": "ask", "args": {}, "id": "c0", "type": "tool_call"}
    graph.invoke({"said": [AIMessage("", tool_calls=[call])]}, config)
    assert seen == [("c0", "said")]
    assert used == ["interrupt1"]


def test_a_task_finds_its_answers_in_its_stored_writes() -> None:
    """Answers that are stored for a task, or for whichever asks, are taken without being asked."""

    def node(state: State) -> dict[str, Any]:
        return {"seen": [interrupt("one?"), interrupt("two?"), interrupt("three?")]}

    saver = InMemorySaver()
    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile(saver)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    graph.invoke({"seen": 0}, config)
    for answered, stored in enumerate([["a"], ["a", "b"]]):
        state = graph.get_state(config)
        (task,) = state.tasks
        assert task.interrupts[0].id == interrupt_id(f"node:{task.id}", answered)
        saver.put_writes(state.config, [(RESUME, stored)], task.id)
        graph.invoke(None, config)
    saver.put_writes(state.config, [(RESUME, "c")], NULL_TASK_ID)
    assert graph.invoke(None, config)["seen"] == ["a", "b", "c"]


def test_a_drivers_checkpoints_are_handed_over_by_the_thread_that_has_them(
    journal: na.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangGraph's workers give a driver's saver nothing; they serve another graph's as ever."""
    threads: dict[str, set[int]] = {"ours": set(), "other": set()}

    def noting(cls: type, name: str) -> None:
        inner = cls.put  # type: ignore[attr-defined]

        def note(*args: Any, **kwargs: Any) -> Any:
            threads[name].add(threading.get_ident())
            return inner(*args, **kwargs)

        monkeypatch.setattr(cls, "put", note)

    noting(DriverSaver, "ours")
    noting(InMemorySaver, "other")
    other = StateGraph(State).add_node("node", lambda state: {"seen": 1}).add_edge(START, "node")
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    with handed_over(object()):
        other.compile(checkpointer=InMemorySaver()).invoke({"seen": 0}, config)
    graph = StateGraph(State).add_node("node", lambda state: {"seen": 1}).add_edge(START, "node")
    assert na.Agent(graph, "handing", journal).run({"seen": 0}, thread="t").value["seen"] == 1
    assert threads["ours"] == {threading.get_ident()}
    assert threads["other"]
    assert threads["other"].isdisjoint(threads["ours"])
