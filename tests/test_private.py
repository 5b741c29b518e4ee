"""The canary for what LangGraph does not publish: graph/private.py and the wrapper rest on it."""

from __future__ import annotations

import operator
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel

import notebook_agents as na
from notebook_agents.graph import private
from notebook_agents.graph.codec import strict_serializer
from notebook_agents.graph.driver_saver import DriverSaver
from notebook_agents.graph.handover import handed_over
from notebook_agents.graph.private import (
    DEFAULT_ERROR_HANDLER,
    ERROR,
    ERROR_SOURCE_NODE,
    NULL_TASK_ID,
    RESUME,
    execution_info,
    interrupt_id,
    is_asked_outside,
    is_tool_node,
    keeping_off,
    own_interrupts,
    schema_types,
    state_after,
    superstep,
    threaded,
    unpacker,
    with_tool_calls,
)
from notebook_agents.runtime.leaving import Workers


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


def test_a_task_knows_what_it_can_ask() -> None:
    """A node and the conditional edge behind it are one task, and count its questions as one."""
    places: list[list[str]] = []
    tasks = []

    def note(config: RunnableConfig) -> None:
        tasks.append(own_interrupts(config))
        places.append([])
        assert keeping_off(config, places[-1], set()) is not None

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        note(config)
        return {"seen": interrupt("one")}

    def route(state: State, config: RunnableConfig) -> str:
        note(config)
        return str(interrupt("two"))

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", route, [END])
    graph = builder.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    asked = []
    for given in ({"seen": 0}, Command(resume="1"), Command(resume=END)):
        asked += graph.invoke(given, config).get("__interrupt__", [])
    assert [one.value for one in asked] == ["one", "two"]
    first, last = tasks[0], tasks[-1]
    assert {task for task, _ in tasks} == {first[0]}
    assert asked[0].id in first[1]
    assert {one.id for one in asked} <= last[1]


def test_a_question_outside_a_run_is_known() -> None:
    """`update_state` calls a conditional edge without what `interrupt()` needs."""
    builder = StateGraph(State)
    builder.add_node("node", lambda state: {"seen": 1})
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", lambda state: interrupt("?"), [END])
    graph = builder.compile(checkpointer=InMemorySaver())
    with pytest.raises(KeyError) as caught:
        graph.update_state({"configurable": {"thread_id": "t"}}, {"seen": 1}, as_node="node")
    assert is_asked_outside(caught.value)


def test_a_handlers_task_is_another_than_the_failed_nodes() -> None:
    """Its answers are stored under its own id, `execution_info` has the failed node's."""
    seen: dict[str, tuple[str, str]] = {}
    stored: list[set[str]] = []

    class Saver(InMemorySaver):
        def put_writes(self, config: Any, writes: Any, *rest: Any) -> None:
            stored.append({channel for channel, _ in writes})
            super().put_writes(config, writes, *rest)

    def note(name: str, config: RunnableConfig) -> None:
        info = execution_info(config)
        assert info is not None
        seen[name] = (info.task_id, own_interrupts(config)[0])

    def node(state: State, config: RunnableConfig) -> None:
        note("node", config)
        raise ValueError("out of order")

    def handler(state: State, config: RunnableConfig) -> dict[str, Any]:
        note("handler", config)
        return {"seen": 1}

    builder = StateGraph(State)
    builder.add_node("node", node, error_handler=handler)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=Saver())
    graph.invoke({"seen": 0}, {"configurable": {"thread_id": "t"}})
    assert seen["node"][0] == seen["node"][1] == seen["handler"][0] != seen["handler"][1]
    assert {ERROR, ERROR_SOURCE_NODE} in stored


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
    run: Any = SimpleNamespace(journal=journal, thread="t")
    with handed_over(object(), Workers(run)):
        other.compile(checkpointer=InMemorySaver()).invoke({"seen": 0}, config)
    graph = StateGraph(State).add_node("node", lambda state: {"seen": 1}).add_edge(START, "node")
    assert na.Agent(graph, "handing", journal).run({"seen": 0}, thread="t").value["seen"] == 1
    assert threads["ours"] == {threading.get_ident()}
    assert threads["other"]
    assert threads["other"].isdisjoint(threads["ours"])


def test_a_node_can_try_what_it_would_write() -> None:
    """The channels that a task reads from are within reach, and trying changes none of them."""
    seen: list[Any] = []

    class Counted(TypedDict):
        n: Annotated[list[int], operator.iadd]

    def node(state: Counted, config: RunnableConfig) -> dict[str, Any]:
        seen.append(state_after(config, [("n", [2])]))
        seen.append(state_after(config, [("n", [3]), ("n", [4])]))
        try:
            state_after(config, [("n", 5)])
        except TypeError:
            seen.append("refused")
        return {"n": [6]}

    graph = StateGraph(Counted).add_node("node", node).add_edge(START, "node").compile()
    assert graph.invoke({"n": [1]}) == {"n": [1, 6]}
    tried = [one if isinstance(one, str) else one["n"] for one in seen]
    assert tried == [[1, 2], [1, 3, 4], "refused"]


def test_a_graphs_workers_can_be_left(journal: na.Journal) -> None:
    """LangGraph's executor ends through us: an interrupt goes out while a node still blocks."""
    began, free, ended = threading.Event(), threading.Event(), threading.Event()

    def blocking(state: State) -> dict[str, Any]:
        began.set()
        free.wait(5)
        ended.set()
        return {}

    def interrupted(state: State) -> dict[str, Any]:
        assert began.wait(5)
        raise KeyboardInterrupt

    builder = StateGraph(State)
    for node in (blocking, interrupted):
        builder.add_node(node)
        builder.add_edge(START, node.__name__)
    run: Any = SimpleNamespace(journal=journal, thread="t")
    workers, over = Workers(run), SimpleQueue[None]()
    with handed_over(object(), workers), pytest.raises(KeyboardInterrupt):
        builder.compile().invoke({"seen": 0})
    assert not ended.is_set()
    assert workers.leave(lambda: over.put(None))
    free.set()
    over.get(timeout=5)
    assert ended.is_set()


async def test_a_sync_function_is_found_in_its_executor() -> None:
    """What LangGraph has a worker thread call on an event loop can be called by somebody else."""

    def node(state: State) -> dict[str, Any]:
        return {"seen": threading.current_thread() is threading.main_thread()}

    async def awaits(state: State) -> dict[str, Any]:
        return {}

    graph = StateGraph(State).add_node(node).add_node(awaits).add_edge(START, "node").compile()
    called: list[Any] = []

    def run(function: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(function)
        return function(*args, **kwargs)

    made = threaded(graph.nodes["node"].bound, {}, run)
    assert made is not None
    assert await made.ainvoke({}) == {"seen": False}
    assert called == [node]
    assert threaded(graph.nodes["awaits"].bound, {}, run) is None


CALL = {"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}
MESSAGES = [
    HumanMessage(
        "hello", id="1", name="me", additional_kwargs={"at": datetime(2024, 1, 1, tzinfo=UTC)}
    ),
    HumanMessage(["a", {"type": "text", "text": "b"}], more=1),
    HumanMessage("x", content_blocks=None, response_metadata={"n": [1, 2]}),
    AIMessage("", tool_calls=[CALL], usage_metadata=None, response_metadata={"model": "m"}),
    AIMessage("bad", invalid_tool_calls=[{**CALL, "args": "{", "error": "e"}]),
    ToolMessage("7", tool_call_id="c", artifact={"k": (1, HumanMessage("in it"))}, status="error"),
    SystemMessage("be good", id="s"),
    Model(),
]


def test_messages_are_unpacked_as_langgraph_unpacks_them() -> None:
    """Field for field, with what was set, and no constructor of LangChain is needed for it."""
    serializer = strict_serializer()
    unpack = unpacker(serializer)
    refused = (HumanMessage.__module__, "HumanMessage", {"content": 5, "id": "7"}, "")
    packed = ormsgpack.packb(ormsgpack.Ext(private.EXT_PYDANTIC_V2, ormsgpack.packb(refused)))
    every = [serializer.dumps_typed(value)[1] for value in (*MESSAGES, MESSAGES, {"m": MESSAGES})]
    for data in (*every, packed):
        for _ in range(2):
            assert _whole(unpack(data)) == _whole(serializer.loads_typed(("msgpack", data)))
    assert type(unpack(packed)) is HumanMessage  # though its validator takes no such content
    kinds = {HumanMessage, AIMessage, ToolMessage, SystemMessage}
    assert kinds <= private._direct
    assert {(kind.__module__, kind.__name__) for kind in kinds} <= SAFE_MSGPACK_TYPES


def test_a_constructor_that_does_more_is_used() -> None:
    """A type is validated without its constructor only where that made no difference."""

    class Odd(BaseModel):
        x: int

        def __init__(self, **fields: Any) -> None:
            super().__init__(x=fields["x"] + 1)

    assert private._constructed(Odd, {"x": 1}).x == 2
    assert Odd not in private._direct


def _whole(value: Any) -> Any:
    """Return all that there is of a value, types included."""
    if isinstance(value, BaseModel):
        return type(value), _whole(value.__getstate__())
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_whole(item) for item in value]
    return type(value), value
