"""What sync steps return in worker threads of an event loop is kept, however their run ends."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Send
from support.checks import State, chain

import notebook_agents as na
from notebook_agents.errors import ThreadBusyError
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.events import observe
from notebook_agents.runtime.leaving import was_left

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30.0
HELLO = {"messages": [HumanMessage("hello")]}
entered, gate = threading.Semaphore(0), threading.Event()
done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Begin with a closed gate and no effects, and let nobody wait behind the test."""
    globals()["entered"] = threading.Semaphore(0)
    gate.clear()
    done.clear()
    yield
    gate.set()


def effect(name: str) -> None:
    """Say that it began, wait at the gate, and have an effect."""
    entered.release()
    assert gate.wait(SECONDS)
    done[name] += 1


class Chat(TypedDict, total=False):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def slow(state: State) -> State:
    """Wait in a worker thread."""
    effect("slow")
    return {"n": 2}


@tool
def look(at: str) -> str:
    """Look there."""
    effect(at)
    return f"found {at}"


@na.step
def call() -> str:
    """Wait in a durable call."""
    effect("call")
    return "called"


@task
def job() -> str:
    """Wait in a task."""
    effect("job")
    return "done"


async def offloads(state: State) -> State:
    """Have a sync durable call in a worker thread of one's own."""
    return {"items": [await asyncio.to_thread(call)]}


@entrypoint()
async def flow(given: Any) -> str:
    """Await a sync task."""
    return await job()


@entrypoint()
def sync_flow(given: Any) -> str:
    """Wait for a sync task, and call it again."""
    return job().result() + job().result()


@entrypoint()
def blocking_flow(given: Any) -> str:
    """Wait, and call a task behind it."""
    if not done["job"]:
        entered.release()
        assert gate.wait(SECONDS)
    return job().result()


def asks(state: Chat) -> Chat:
    """Call two tools."""
    calls = [{"name": "look", "args": {"at": at}, "id": at, "type": "tool_call"} for at in "ab"]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def tools(*, apart: bool) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph that calls two tools, in a task each or in one `ToolNode`."""
    graph = StateGraph(Chat)
    graph.add_node("asks", asks)
    graph.add_node("tools", ToolNode([look]))
    graph.add_edge(START, "asks")
    if apart:
        graph.add_conditional_edges(
            "asks",
            lambda state: [Send("tools", [call]) for call in state["messages"][-1].tool_calls],
            ["tools"],
        )
    else:
        graph.add_edge("asks", "tools")
    return graph


def nested() -> StateGraph[Any, Any, Any, Any]:
    """Return a graph with another one as its node."""
    graph = StateGraph(State)
    graph.add_node("sub", chain(slow).compile())
    graph.add_edge(START, "sub")
    return graph


SHAPES = {
    "node": (lambda: chain(slow), 1),
    "subgraph": (nested, 1),
    "durable call": (lambda: chain(offloads), 1),
    "task": (lambda: flow, 1),
    "sync flow": (lambda: sync_flow, 1),
    "flow that blocks": (lambda: blocking_flow, 1),
    "tools in one node": (lambda: tools(apart=False), 2),
    "tools in a task each": (lambda: tools(apart=True), 2),
}


async def arrive(count: int = 1) -> None:
    """Wait until so many have begun."""
    for _ in range(count):
        assert await asyncio.to_thread(entered.acquire, timeout=SECONDS)


@pytest.mark.parametrize("streamed", [False, True], ids=["arun", "astream"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_task_that_is_cancelled(journal, shape, streamed):
    """Cancelling the task that drives a run returns at once; what returns then is not run again."""
    make, wide = SHAPES[shape]
    agent = na.Agent(make(), "left", journal)
    given = HELLO if "tools" in shape else {"n": 1}

    async def drive() -> None:
        if not streamed:
            await agent.arun(given, thread="t")
        async for _ in agent.astream(given, thread="t"):
            pass

    running = asyncio.ensure_future(drive())
    await arrive(wide)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert journal.thread("t").status is RunStatus.RUNNING
    again = asyncio.ensure_future(agent.arun(given, thread="t"))
    await asyncio.sleep(0)
    gate.set()
    run = await again
    assert run.status is RunStatus.SUCCEEDED
    assert set(done.values()) == {2 if shape == "sync flow" else 1}, done
    inner = [step for step in run.steps if step.name in {"slow", "call", "job", "look"}]
    assert [len(step.attempts) for step in inner] == [1] * len(inner)


async def test_a_stream_that_is_left_early(journal):
    """`aclose` waits for no worker thread; what it returns is kept, and nobody else gets in."""
    graph = chain(slow)
    graph.add_node("quick", quick)
    graph.add_edge(START, "quick")
    agent = na.Agent(graph, "left", journal)
    async with agent.astream({"n": 1}, thread="t") as chunks:
        assert await anext(chunks) == {"quick": {"items": ["quick"]}}
        await arrive()
    assert journal.thread("t").status is RunStatus.RUNNING
    gate.set()
    run = await agent.arun({"n": 1}, thread="t")
    assert (run.value["n"], dict(done)) == (2, {"slow": 1})


def quick(state: State) -> State:
    """Return at once."""
    return {"items": ["quick"]}


async def fails(state: State) -> State:
    """Raise once the other node has begun; the second time return."""
    if not done["fails"]:
        done["fails"] += 1
        await arrive()
        asyncio.get_running_loop().call_soon(gate.set)
        raise RuntimeError("out of order")
    return {}


async def test_the_sibling_of_a_node_that_failed(journal):
    """As without an event loop, the run fails when its other nodes have returned."""
    graph = chain(slow)
    graph.add_node("fails", fails)
    graph.add_edge(START, "fails")
    agent = na.Agent(graph, "failing", journal)
    with pytest.raises(RuntimeError, match="out of order"):
        await agent.arun({"n": 1}, thread="t")
    outcomes = {step.name: step.outcome for step in na.Run(journal, "t", 1).steps}
    assert outcomes == {"slow": Outcome.RETURNED, "fails": Outcome.FAILED}
    await agent.arun({"n": 1}, thread="t")
    assert done["slow"] == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["arun", "astream"])
async def test_cancel_waits_for_worker_threads(journal, capsys, streamed):
    """A cancelled run lets a tool in a worker thread finish, names it, and keeps its answer."""
    agent = na.Agent(tools(apart=False), "chat", journal)

    async def drive() -> None:
        if not streamed:
            await agent.arun(HELLO, thread="t")
            return
        async for _ in agent.astream(HELLO, thread="t"):
            pass

    running = asyncio.ensure_future(drive())
    await arrive(2)
    na.cancel("t", journal=journal)
    for _ in range(100):  # turns of the loop, which has nothing to wait for
        await asyncio.sleep(0)
    said = capsys.readouterr().err
    assert "has returned" in said
    assert said.count("'look'") == 2
    assert not running.done()
    gate.set()
    await running
    assert journal.thread("t").status is RunStatus.CANCELLED
    messages = agent.thread("t").state().values["messages"]
    answers = {m.tool_call_id: m.content for m in messages if isinstance(m, ToolMessage)}
    assert answers == {"a": "found a", "b": "found b"}


async def endless(state: State) -> State:
    """Wait for ever."""
    entered.release()
    await asyncio.get_running_loop().create_future()
    return {}


async def test_who_cancels_the_task_of_a_cancelled_run_is_heard(journal):
    """`na.cancel` does not swallow that somebody cancels the awaiting task too."""
    agent = na.Agent(chain(endless), "endless", journal)
    running = asyncio.ensure_future(agent.arun({"n": 1}, thread="t"))
    await arrive()
    na.cancel("t", journal=journal)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert journal.thread("t").status is RunStatus.CANCELLED


async def test_a_question_that_comes_when_nobody_waits(journal):
    """What a sync node asks after its run was left is asked in the run: it can be answered."""
    agent = na.Agent(chain(asking), "asking", journal)
    running = asyncio.ensure_future(agent.arun({"n": 1}, thread="t"))
    await arrive()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.set()
    run = await agent.arun({"n": 1}, thread="t")
    assert (run.status, [asked.value for asked in run.interrupts]) == (RunStatus.WAITING, ["n?"])


def asking(state: State) -> State:
    """Ask."""
    from langgraph.types import interrupt

    effect("asking")
    return {"n": interrupt("n?")}


def test_an_observer_that_leaves(journal):
    """One that leaves while an event is told takes it from nobody behind it."""
    seen: list[str] = []
    with ExitStack() as first:
        first.enter_context(observe(lambda _: first.close()))
        with observe(lambda event: seen.append(event.what)):
            na.Agent(chain(quick), "seen", journal).run({"n": 1}, thread="t")
    assert seen == ["intended", "returned"]


@pytest.mark.parametrize("dropped", [True, False], ids=["collected", "kept"])
async def test_a_stream_that_nobody_reads_any_more(journal, dropped):
    """Its thread is not free while one of its nodes runs: that node would run twice at a time."""
    graph = chain(slow)
    graph.add_node(quick)
    graph.add_edge(START, "quick")
    agent = na.Agent(graph, "abandoned", journal)
    kept = []

    async def begin() -> None:
        stream = agent.astream({"n": 1}, thread="t")
        assert list(await anext(stream)) == ["quick"]
        await arrive()
        if not dropped:
            kept.append(stream)

    await asyncio.ensure_future(begin())
    with pytest.raises(ThreadBusyError):
        agent.run({"n": 1}, thread="t")
    while not was_left(journal.id, "t"):  # noqa: ASYNC110 - the loop closes what was dropped
        await asyncio.sleep(0)
    gate.set()
    run = await agent.arun({"n": 1}, thread="t")
    assert (run.status, done["slow"]) == (RunStatus.SUCCEEDED, 1)


def test_ctrl_c_while_the_loop_thread_starts(journal, monkeypatch):
    """Nothing runs behind the interrupt, and the next call goes on."""
    calls: Counter[str] = Counter()

    async def node(state: State) -> State:
        calls["node"] += 1
        return {"n": state["n"] + 1}

    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def interrupted(self: threading.Thread) -> None:
        start(self)
        if self.name == "notebook-agents-loop" and not begun:
            begun.append(self)
            raise KeyboardInterrupt  # as a signal does between any two instructions

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    agent = na.Agent(chain(node), "starting", journal)
    with pytest.raises(KeyboardInterrupt):
        agent.run({"n": 1}, thread="t")
    begun[0].join(SECONDS)
    assert not begun[0].is_alive() and not calls
    assert agent.run({"n": 1}, thread="t").value["n"] == 2
    assert calls == {"node": 1}
