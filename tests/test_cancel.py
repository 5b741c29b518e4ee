"""A cancelled run begins no further step, is finished, and its history is one a model accepts."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Send
from support.checks import State, add, ask, chain

import notebook_agents as na
from notebook_agents.graph.drive import going
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable


class Chat(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def test_a_waiting_run_is_cancelled(journal):
    """A run that waits is finished at once, and the same input starts another."""
    agent = na.Agent(chain(add, ask), "asking", journal)
    assert agent.run({"n": 1}, thread="t").status is RunStatus.WAITING
    assert na.cancel("t", journal=journal).status is RunStatus.CANCELLED
    assert journal.thread("t").status is RunStatus.CANCELLED
    assert na.unfinished(journal) == []
    assert na.cancel("t", journal=journal).status is RunStatus.CANCELLED
    again = agent.run({"n": 1}, thread="t")
    assert (again.number, again.status) == (2, RunStatus.WAITING)


def test_a_failed_run_of_an_empty_process_is_cancelled(home, dies, trips):
    """A run whose process was killed is cancelled by another process, which has no agent."""

    def node(state: State) -> State:
        trips()
        return {"n": 2}

    def run() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chain(add, node), "killed", journal).run({"n": 1}, thread="t")

    dies(run)
    with na.Journal.open(home) as journal:
        run = na.cancel("t", journal=journal)
        assert run.status is RunStatus.CANCELLED
        assert [step.attempts[-1].outcome for step in run.steps] == [
            Outcome.RETURNED,
            Outcome.UNCERTAIN,
        ]


def chatting(tool: Callable[[str], str]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph whose model calls two tools, each in a task of its own."""

    def model(state: Chat) -> dict[str, Any]:
        for message in state["messages"]:
            if isinstance(message, AIMessage) and message.tool_calls:
                answered = {m.tool_call_id for m in state["messages"] if isinstance(m, ToolMessage)}
                assert {call["id"] for call in message.tool_calls} <= answered
        if isinstance(state["messages"][-1], HumanMessage) and len(state["messages"]) == 1:
            calls = [{"name": "look", "args": {"at": at}, "id": at} for at in ("a", "b")]
            return {"messages": [AIMessage("", tool_calls=calls)]}
        return {"messages": [AIMessage("done")]}

    def look(call: Any) -> dict[str, Any]:
        return {"messages": [ToolMessage(tool(call["id"]), tool_call_id=call["id"])]}

    def route(state: Chat) -> Any:
        calls = getattr(state["messages"][-1], "tool_calls", None)
        return [Send("look", call) for call in calls] if calls else END

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("look", look)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", route, ["look", END])
    builder.add_edge("look", "model")
    return builder


def test_open_tool_calls_are_closed(journal):
    """A call without an answer is answered with `cancelled`, one that returned keeps its answer."""

    def tool(at: str) -> str:
        if at == "b":
            raise OSError("out of order")
        return f"found {at}"

    agent = na.Agent(chatting(tool), "chat", journal)
    with pytest.raises(OSError, match="out of order"):
        agent.run({"messages": [HumanMessage("look")]}, thread="t")
    assert na.cancel("t", journal=journal).status is RunStatus.CANCELLED
    messages = agent.run({"messages": [HumanMessage("and now?")]}, thread="t").value["messages"]
    shown = [(message.type, message.content) for message in messages]
    assert shown == [
        ("human", "look"),
        ("ai", ""),
        ("tool", "found a"),
        ("tool", "cancelled"),
        ("human", "and now?"),
        ("ai", "done"),
    ]
    assert messages[3].status == "error"


entered, gate, count = threading.Event(), threading.Event(), threading.Semaphore(0)
arrived: asyncio.Queue[None] = asyncio.Queue()


@pytest.fixture(autouse=True)
def of_this_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a queue of its own: it belongs to the event loop that used it first."""
    monkeypatch.setitem(globals(), "arrived", asyncio.Queue())


def slow(state: State) -> State:
    """Wait until the test says so."""
    entered.set()
    assert gate.wait(30)
    return {"n": 2}


def part(state: Any) -> State:
    """Wait until the test says so, one of several."""
    count.release()
    assert gate.wait(30)
    return {"items": [state["n"]]}


async def forever(state: State) -> State:
    """Wait for ever, on any loop."""
    entered.set()
    await asyncio.get_running_loop().create_future()
    return {}


async def endless(state: State) -> State:
    """Wait for ever."""
    arrived.put_nowait(None)
    await asyncio.get_running_loop().create_future()
    return {}


def test_cancelled_from_another_worker_thread(journal, ledger):
    """A step that runs is let finish and its result is kept; no other begins."""

    def never(state: State) -> State:
        ledger.note("never")
        return {"n": 3}

    agent = na.Agent(chain(slow, never), "slow", journal)
    runs: list[na.Run] = []
    worker = threading.Thread(target=lambda: runs.append(agent.run({"n": 1}, thread="t")))
    worker.start()
    assert entered.wait(30)
    assert na.cancel("t", journal=journal).status is RunStatus.RUNNING
    gate.set()
    worker.join()
    assert runs[0].status is RunStatus.CANCELLED
    assert ledger.lines() == []
    assert [step.attempts[-1].outcome for step in runs[0].steps] == [Outcome.RETURNED]


async def test_async_steps_are_cancelled(journal):
    """What awaits on the event loop is cancelled where it stands, in a subgraph too."""
    graph = chain(add)
    graph.add_node("sub", chain(endless).compile())
    graph.add_edge("add", "sub")
    agent = na.Agent(graph, "endless", journal)
    running = asyncio.ensure_future(agent.arun({"n": 1}, thread="t"))
    await arrived.get()
    na.cancel("t", journal=journal)
    run = await running
    assert run.status is RunStatus.CANCELLED
    outcomes = {step.name: step.attempts[-1].outcome for step in run.steps}
    assert outcomes == {"add": Outcome.RETURNED, "endless": Outcome.UNCERTAIN}


def asking_two_tools() -> StateGraph[Any, Any, Any, Any]:
    """Return a graph whose model calls two tools, of which one never answers."""

    def model(state: Chat) -> dict[str, Any]:
        calls = [{"name": "look", "args": {}, "id": at} for at in ("a", "b")]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    async def look(call: Any) -> dict[str, Any]:
        if call["id"] == "b":
            await endless({})
        return {"messages": [ToolMessage("found", tool_call_id=call["id"])]}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("look", look)
    builder.add_edge(START, "model")
    builder.add_conditional_edges(
        "model", lambda state: [Send("look", call) for call in state["messages"][-1].tool_calls]
    )
    return builder


@pytest.mark.parametrize("mode", ["updates", "messages", "debug"])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_stream_is_cut_off(journal, mode, elsewhere):
    """Its coroutines are cancelled where they stand, from any thread; its tool calls are closed."""
    agent = na.Agent(asking_two_tools(), "chat", journal)
    stream = agent.astream({"messages": [HumanMessage("look")]}, thread="t", stream_mode=mode)

    async def read() -> str:
        async for _ in stream:
            pass
        await asyncio.sleep(0)
        return "to the end"

    reading = asyncio.ensure_future(read())
    await arrived.get()
    if elsewhere:
        await asyncio.to_thread(na.cancel, "t", journal=journal)
    else:
        na.cancel("t", journal=journal)
    assert await reading == "to the end"
    assert (reading.cancelling(), stream.run.status) == (0, RunStatus.CANCELLED)
    messages = agent.thread("t").state().values["messages"]
    answers = {m.tool_call_id: m.content for m in messages if isinstance(m, ToolMessage)}
    assert answers == {"a": "found", "b": "cancelled"}


async def test_a_consumer_that_is_cancelled_with_its_run(journal):
    """Whoever cancels the reading task too is not ignored, and the run is cancelled."""
    agent = na.Agent(chain(endless), "endless", journal)

    async def read() -> None:
        async for _ in agent.astream({"n": 1}, thread="t"):
            pass

    reading = asyncio.ensure_future(read())
    await arrived.get()
    na.cancel("t", journal=journal)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert journal.thread("t").status is RunStatus.CANCELLED


async def test_a_consumer_that_has_its_chunk_is_left_alone(journal):
    """What the reader of a stream does between two chunks is not cut off with the run."""
    agent = na.Agent(chain(add, endless), "endless", journal)
    async for chunk in agent.astream({"n": 1}, thread="t"):
        assert chunk == {"add": {"n": 2}}
        na.cancel("t", journal=journal)
        for _ in range(3):
            await asyncio.sleep(0)
    assert journal.thread("t").status is RunStatus.CANCELLED


def test_a_sync_stream_of_coroutines_is_cut_off(journal):
    """A graph with async nodes only, read by `for`, is cancelled from another worker thread."""
    entered.clear()

    agent = na.Agent(chain(forever), "endless", journal)
    read: list[Any] = []
    worker = threading.Thread(target=lambda: read.extend(agent.stream({"n": 1}, thread="t")))
    worker.start()
    assert entered.wait(30)
    na.cancel("t", journal=journal)
    worker.join(30)
    assert not worker.is_alive()
    assert (read, journal.thread("t").status) == ([], RunStatus.CANCELLED)


def test_cancel_names_the_steps_that_it_waits_for(journal, capsys):
    """Of several nodes that block it says which still run; their results are kept."""
    gate.clear()
    graph = StateGraph(State)
    graph.add_node(part)
    graph.add_conditional_edges(START, lambda _: [Send("part", {"n": n}) for n in range(3)])
    graph.add_node(add)
    graph.add_edge("part", "add")
    agent = na.Agent(graph, "wide", journal)
    worker = threading.Thread(target=lambda: agent.run({"n": 0}, thread="t"))
    worker.start()
    for _ in range(3):
        assert count.acquire(timeout=30)
    na.cancel("t", journal=journal)
    said = capsys.readouterr().err
    gate.set()
    worker.join(30)
    run = na.Run(journal, "t", 1)
    assert run.status is RunStatus.CANCELLED
    assert [step.attempts[-1].outcome for step in run.steps] == [Outcome.RETURNED] * 3
    assert all(f"'part' ({step.id})" in said for step in run.steps)


def test_cancelled_from_the_command_line(home, cli, dies, trips):
    """`notebook-agents cancel` finishes a killed run; a second time it says where it stands."""

    def node(state: State) -> State:
        trips()
        return {"n": 2}

    def run() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chain(add, node), "killed", journal).run({"n": 1}, thread="t")

    dies(run)
    for _ in range(2):
        done = cli("cancel", "t", "--journal", str(home), "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out) == {"thread": "t", "run": 1, "status": "cancelled"}


def test_a_step_that_asks_while_its_run_is_cancelled(journal):
    """A question that comes while another step is let finish does not leave the run waiting."""
    entered.clear()
    gate.clear()
    graph = chain(slow)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    runs: list[na.Run] = []
    agent = na.Agent(graph, "both", journal)
    worker = threading.Thread(target=lambda: runs.append(agent.run({"n": 1}, thread="t")))
    worker.start()
    assert entered.wait(30)
    na.cancel("t", journal=journal)
    gate.set()
    worker.join()
    assert runs[0].status is RunStatus.CANCELLED


def test_a_stream_that_nobody_read_is_cancelled(journal):
    """A stream has taken its thread when it is made, so it is cancelled like a run."""
    agent = na.Agent(chain(add), "streaming", journal)
    with agent.stream({"n": 1}, thread="t"):
        na.cancel("t", journal=journal)
    assert journal.thread("t").status is RunStatus.CANCELLED


@pytest.mark.parametrize("streamed", [False, True], ids=["run", "stream"])
def test_cancelled_in_the_last_superstep(journal, streamed):
    """Nobody gets an answer that was cancelled before its run's end, though every step returned."""
    entered.clear()
    gate.clear()
    agent = na.Agent(chain(slow), "slow", journal)
    runs: list[na.Run] = []

    def drive() -> None:
        if streamed:
            list(agent.stream({"n": 1}, thread="t", key="k"))
        else:
            runs.append(agent.run({"n": 1}, thread="t", key="k"))

    worker = threading.Thread(target=drive)
    worker.start()
    assert entered.wait(30)
    na.cancel("t", journal=journal)
    gate.set()
    worker.join()
    run = na.Run(journal, "t", 1)
    assert run.status is RunStatus.CANCELLED
    assert [step.outcome for step in run.steps] == [Outcome.RETURNED]
    assert agent.thread("t").state().values["n"] == 2
    again = agent.run({"n": 1}, thread="t", key="k")
    assert (again.number, again.status) == (2, RunStatus.SUCCEEDED)


def cancelling(state: State) -> State:
    """Cancel the run that this node belongs to, and be interrupted."""
    drive = going(journals[0], "t")
    assert drive is not None
    drive.cancel()
    raise KeyboardInterrupt


journals: list[na.Journal] = []


def test_ctrl_c_in_a_cancelled_run(journal, monkeypatch):
    """Ctrl-C is not taken for the end of a run that is being cancelled: it comes out."""
    monkeypatch.setitem(globals(), "journals", [journal])
    with pytest.raises(KeyboardInterrupt):
        na.Agent(chain(cancelling), "both", journal).run({"n": 1}, thread="t")
    assert journal.thread("t").status is RunStatus.CANCELLED
