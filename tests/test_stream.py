"""`stream` and `astream`: LangGraph's chunks, live and on replay, and a run that can be resumed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from support.checks import State, add, ask, chain, says

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.faults import Fault
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.running import Ledger

MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]


@pytest.fixture(params=["stream", "astream"])
def chunks(request: pytest.FixtureRequest) -> Callable[..., tuple[list[Any], na.Run]]:
    """Read a stream to its end by `for`, or by `async for`: both yield the same."""

    def sync(agent: na.Agent, given: Any, **options: Any) -> tuple[list[Any], na.Run]:
        stream = agent.stream(given, **options)
        return list(stream), stream.run

    def on_a_loop(agent: na.Agent, given: Any, **options: Any) -> tuple[list[Any], na.Run]:
        async def read() -> tuple[list[Any], na.Run]:
            stream = agent.astream(given, **options)
            return [chunk async for chunk in stream], stream.run

        return asyncio.run(read())

    return sync if request.param == "stream" else on_a_loop


def talking() -> StateGraph[Any, Any, Any, Any]:
    """Return a graph that writes custom chunks and streams a model's tokens, in a subgraph too."""
    model = GenericFakeChatModel(messages=iter([AIMessage("one two")] * 9))

    def speak(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"said": "speaking"})
        return {"messages": [model.invoke(state["messages"])]}

    def end(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("ending")
        return {}

    inner = StateGraph(MessagesState)
    inner.add_node("speak", speak)
    inner.add_edge(START, "speak")
    graph = StateGraph(MessagesState)
    graph.add_node("inner", inner.compile())
    graph.add_node("end", end)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "end")
    return graph


def outline(chunks: list[Any]) -> list[tuple[str, str, str]]:
    """Return what does not change from run to run: namespace without ids, mode, kind of chunk."""
    return [
        ("|".join(part.partition(":")[0] for part in ns), mode, type(chunk).__name__)
        for ns, mode, chunk in chunks
    ]


# -- what is yielded -----------------------------------------------------------------------------


@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("mode", [*MODES, ["updates", "custom"], ["values"], None])
def test_every_mode_yields_what_langgraph_yields(journal, mode, subgraphs):
    """The chunks have LangGraph's number, order, shape and types, whichever modes are asked for."""
    given = {"messages": [HumanMessage("hello", id="h")]}
    options = {"stream_mode": mode, "subgraphs": subgraphs}
    plain = talking().compile(checkpointer=InMemorySaver())
    theirs = list(plain.stream(given, {"configurable": {"thread_id": "t"}}, **options))
    stream = na.Agent(talking(), "talking", journal).stream(given, thread="t", **options)
    ours = list(stream)
    assert _shape(ours) == _shape(theirs)
    assert ours
    assert stream.run.status is RunStatus.SUCCEEDED
    assert [message.content for message in stream.run.value["messages"]] == ["hello", "one two"]


def _shape(value: Any, depth: int = 3) -> Any:
    """Return a chunk's shape: types, keys and plain texts without ids."""
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_shape(item, depth) for item in value)]
    if isinstance(value, dict) and depth:
        keys = {key for key in value if key != "ls_integration"}
        return {str(key): _shape(value[key], depth - 1) for key in sorted(keys, key=str)}
    if isinstance(value, str):
        return value.partition(":")[0] if ":" in value else type(value).__name__
    return type(value).__name__


def test_all_modes_at_once(journal, chunks):
    """Several modes come as (mode, chunk), and behind a namespace where subgraphs are asked for."""
    agent = na.Agent(talking(), "talking", journal)
    found, run = chunks(agent, {"messages": "hello"}, thread="t", stream_mode=MODES, subgraphs=True)
    assert {mode for _, mode, _ in found} == set(MODES)
    assert ("inner", "custom", "dict") in outline(found)
    assert [c.content for _, mode, (c, *_) in _messages(found)] == ["one", " ", "two"]
    assert (run.status, run.stored) == (RunStatus.SUCCEEDED, False)


def _messages(found: list[Any]) -> Iterator[Any]:
    return (part for part in found if part[1] == "messages")


def test_output_is_the_graphs(journal, chunks):
    """The run's value is the graph's output, whatever was streamed of it; an entrypoint's too."""
    run = chunks(na.Agent(chain(add), "adding", journal), {"n": 1}, thread="t")[1]
    assert run.value == {"n": 2, "items": []}

    @task
    def double(n: int) -> int:
        return 2 * n

    @entrypoint()
    def work(n: int) -> int:
        return double(n).result()

    found, run = chunks(na.Agent(work, "working", journal), 4, thread="u", stream_mode="updates")
    assert (found, run.value) == ([{"double": 8}, {"work": 8}], 8)


def test_stored_answer(journal, chunks):
    """A finished run with the same input and key yields nothing and is there."""
    agent = na.Agent(chain(add), "adding", journal)
    first = agent.run({"n": 1}, thread="t", key="k")
    found, run = chunks(agent, {"n": 1}, thread="t", key="k")
    assert (found, run.stored, run.value) == ([], True, first.value)


def test_refusals_come_at_the_call(journal):
    """What `run` refuses `stream` refuses, before anything is iterated over."""
    agent = na.Agent(chain(ask), "asking", journal)
    agent.run({"n": 1}, thread="t")
    with pytest.raises(errors.RunUnfinishedError):
        agent.stream({"n": 2}, thread="t")
    with pytest.raises(errors.InputError):
        agent.astream({"other": 2})


def test_question_and_answer(journal, chunks):
    """An interrupt is streamed, the run waits, and the answer is streamed on."""
    agent = na.Agent(chain(ask), "asking", journal)
    found, run = chunks(agent, {"n": 1}, thread="t")
    assert [list(chunk) for chunk in found] == [["__interrupt__"]]
    assert run.status is RunStatus.WAITING
    found, run = chunks(agent, Command(resume=7), thread="t")
    assert (found, run.value["n"]) == ([{"ask": {"n": 7}}], 7)


def test_error_of_a_node(journal, chunks):
    """It comes out of the loop; the run is failed and can be streamed on when it is mended."""
    broken = [True]

    def fragile(state: State) -> State:
        if broken:
            raise RuntimeError("out of order")
        return {"n": 5}

    agent = na.Agent(chain(add, fragile), "fragile", journal)
    with pytest.raises(RuntimeError, match="out of order"):
        chunks(agent, {"n": 1}, thread="t")
    assert journal.thread("t").status is RunStatus.FAILED
    broken.clear()
    found, run = chunks(agent, {"n": 1}, thread="t")
    assert (found, run.value["n"]) == ([{"fragile": {"n": 5}}], 5)


def test_async_graph_in_a_sync_loop(journal):
    """`stream` of a graph with async nodes only drives it on a loop of its own, also under one."""

    async def aadd(state: State) -> State:
        await asyncio.sleep(0)
        return {"n": state["n"] + 1}

    agent = na.Agent(chain(aadd), "async", journal)

    async def inside_a_loop() -> list[Any]:
        return list(agent.stream({"n": 1}, thread="u"))

    before = threading.active_count()
    assert list(agent.stream({"n": 1}, thread="t")) == [{"aadd": {"n": 2}}]
    assert asyncio.run(inside_a_loop()) == [{"aadd": {"n": 2}}]
    assert threading.active_count() <= before + 1  # the journal's own, once


# -- put down early ------------------------------------------------------------------------------


def leave_by_break(agent: na.Agent, **options: Any) -> None:
    """Leave the loop."""
    for _ in agent.stream({"n": 1}, thread="t", **options):
        break


def leave_by_close(agent: na.Agent, **options: Any) -> None:
    """Leave the `with`."""
    with agent.stream({"n": 1}, thread="t", **options) as stream:
        next(stream)


def leave_by_error(agent: na.Agent, **options: Any) -> None:
    """Raise in the consumer."""
    with contextlib.suppress(ZeroDivisionError):
        for _ in agent.stream({"n": 1}, thread="t", **options):
            1 / 0  # noqa: B018 - the error is the test


def leave_by_interrupt(agent: na.Agent, **options: Any) -> None:
    """Press Ctrl-C in the consumer."""
    with contextlib.suppress(KeyboardInterrupt):
        for _ in agent.stream({"n": 1}, thread="t", **options):
            signal.raise_signal(signal.SIGINT)


def leave_unread(agent: na.Agent, **options: Any) -> None:
    """Never ask for a chunk."""
    agent.stream({"n": 1}, thread="t", **options)


def leave_to_the_collector(agent: na.Agent, **options: Any) -> None:
    """Leave the stream in a ring of references."""
    stream = agent.stream({"n": 1}, thread="t", **options)
    next(stream)
    ring: list[Any] = [stream]
    ring.append(ring)
    del stream, ring
    gc.collect()


def leave_async_by_break(agent: na.Agent, **options: Any) -> None:
    """Leave the `async for`."""

    async def read() -> None:
        async for _ in agent.astream({"n": 1}, thread="t", **options):
            break

    asyncio.run(read())


def leave_async_by_close(agent: na.Agent, **options: Any) -> None:
    """Leave the `async with`."""

    async def read() -> None:
        async with agent.astream({"n": 1}, thread="t", **options) as stream:
            await anext(stream)

    asyncio.run(read())


def leave_async_by_cancel(agent: na.Agent, **options: Any) -> None:
    """Cancel the consuming task."""

    async def read() -> None:
        async for _ in agent.astream({"n": 1}, thread="t", **options):
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(read())


LEAVE = [
    leave_by_break,
    leave_by_close,
    leave_by_error,
    leave_by_interrupt,
    leave_unread,
    leave_to_the_collector,
    leave_async_by_break,
    leave_async_by_close,
    leave_async_by_cancel,
]


@pytest.mark.parametrize("kind", ["sync", "async-only"])
@pytest.mark.parametrize("mode", ["updates", "messages", "debug"])
@pytest.mark.parametrize("leave", LEAVE)
def test_left_early(journal, ledger: Ledger, leave, mode, kind):
    """However it is left, the thread is given back; a resume runs only what had not returned."""

    def one(state: State) -> State:
        ledger.note("one")
        return {"items": ["one"]}

    async def aone(state: State) -> State:
        return one(state)

    def two(state: State) -> State:
        ledger.note("two")
        return {"items": ["two"]}

    def three(state: State) -> State:
        ledger.note("three")
        return {"items": ["three"]}

    first = one if kind == "sync" else aone
    first.__name__ = "one"
    agent = na.Agent(chain(first, two, three), "left", journal)
    if mode == "messages":  # there are none: something has to be read
        mode = ["messages", "values"]
    leave(agent, stream_mode=mode)
    info = journal.thread("t")
    assert (info.status, info.driver) == (RunStatus.ORPHANED, None)
    assert "three" not in ledger.lines()
    run = na.resume("t", journal=journal)
    assert run.value["items"] == ["one", "two", "three"]
    assert sorted(ledger.lines()) == ["one", "three", "two"]


@pytest.mark.parametrize("kind", ["sync", "async-only"])
def test_interrupt_while_a_chunk_is_waited_for(journal, ledger, kind):
    """Ctrl-C in the middle of a node gets through, and leaves a run that can be resumed."""

    def stopping(state: State) -> State:
        if ledger.note("stopping") == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return {"items": ["stopped"]}

    async def astopping(state: State) -> State:
        done = stopping(state)
        await asyncio.sleep(0)
        return done

    agent = na.Agent(chain(add, stopping if kind == "sync" else astopping), "left", journal)
    with pytest.raises(KeyboardInterrupt):
        list(agent.stream({"n": 1}, thread="t"))
    info = journal.thread("t")
    assert (info.status, info.driver) == (RunStatus.ORPHANED, None)
    assert na.resume("t", journal=journal).value["items"] == ["stopped"]
    assert 1 <= len(ledger.lines()) <= 2


def test_named_stream_of_an_interrupted_cell(journal):
    """A stream that nobody reads any more does not keep this worker thread from the thread."""
    agent = na.Agent(chain(add, ask), "asking", journal)
    stream = agent.stream({"n": 1}, thread="t")
    next(stream)
    again = agent.stream({"n": 1}, thread="t")
    assert [list(chunk) for chunk in again] == [["add"], ["__interrupt__"]]
    with pytest.raises(errors.ThreadBusyError) as caught:
        next(stream)
    says(caught.value, "'t'")


def test_stream_that_somebody_else_reads(journal):
    """Another worker thread or task cannot take a thread away from whoever reads its stream."""
    agent = na.Agent(chain(add, add_more), "adding", journal)
    stream = agent.stream({"n": 1}, thread="t")
    next(stream)
    refused: list[BaseException] = []

    def other() -> None:
        try:
            agent.run({"n": 1}, thread="t")
        except errors.ThreadBusyError as error:
            refused.append(error)

    worker = threading.Thread(target=other)
    worker.start()
    worker.join()
    assert len(refused) == 1
    assert list(stream) == [{"add_more": {"n": 12}}]
    assert stream.run.value["n"] == 12


def add_more(state: State) -> State:
    """Add ten: a node."""
    return {"n": state["n"] + 10}


def test_break_then_arun_in_one_task(journal):
    """Behind an `async for` that was left, the same task takes the thread up again at once."""
    agent = na.Agent(chain(add, add_more), "adding", journal)

    async def work() -> na.Run:
        async for _ in agent.astream({"n": 1}, thread="t"):
            break
        return await agent.arun({"n": 1}, thread="t")

    assert asyncio.run(work()).value["n"] == 12


def test_what_was_left_is_put_down_after_the_next_took_over(journal):
    """The end of an older stream does not take the thread away from whoever has it now."""
    refused: list[BaseException] = []

    async def meddle(state: State) -> State:
        if len(left) == 1:
            with pytest.raises(errors.ThreadBusyError) as caught:
                await agent.arun({"n": 1}, thread="t")
            refused.append(caught.value)
        return {"n": state["n"] + 10}

    agent = na.Agent(chain(add, meddle), "adding", journal)
    left: list[str] = []

    async def work() -> na.Run:
        async for _ in agent.astream({"n": 1}, thread="t"):
            break
        left.append("left")
        return await agent.arun({"n": 1}, thread="t")

    assert asyncio.run(work()).value["n"] == 12
    assert len(refused) == 1


def test_one_way_of_reading(journal):
    """A stream read by `for` is not read by `async for` too: it says so, and goes on."""
    agent = na.Agent(chain(add, add_more), "adding", journal)
    stream = agent.stream({"n": 1}, thread="t")
    next(stream)

    async def other() -> None:
        await anext(stream)

    with pytest.raises(errors.UsageError) as caught:
        asyncio.run(other())
    says(caught.value, "'t'")
    assert len(list(stream)) == 1


# -- replay --------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_stream(home, dies, trips, ledger, chunks):
    """A SIGKILL between chunks leaves a run that streams on; what had returned runs once."""

    def one(state: State) -> State:
        ledger.note("one")
        return {"items": ["one"]}

    def two(state: State) -> State:
        ledger.note("two")
        trips("in two")
        return {"items": ["two"]}

    def program() -> Any:
        with na.Journal.open(home) as journal:
            found, run = chunks(na.Agent(chain(one, two), "left", journal), {"n": 0}, thread="t")
            return found, run.value

    dies(program)
    found, value = program()
    assert found == [{"two": {"items": ["two"]}}]
    assert value["items"] == ["one", "two"]
    assert ledger.lines() == ["one", "two", "two"]


def test_killed_by_the_consumer(home, dies, trips, ledger):
    """A kill while the consumer has a chunk loses nothing that the node had returned."""

    def one(state: State) -> State:
        ledger.note("one")
        return {"items": ["one"]}

    def program() -> None:
        with na.Journal.open(home) as journal:
            for _ in na.Agent(chain(one), "left", journal).stream({"n": 0}, thread="t"):
                trips()

    dies(program)
    with na.Journal.open(home) as journal:
        assert na.resume("t", journal=journal).value["items"] == ["one"]
    assert ledger.lines() == ["one"]


def test_what_differs_on_replay(home, dies, chunks):
    """A replayed node's update comes again, its custom chunks do not, and its message is whole."""
    modes = ["updates", "messages", "custom"]

    def program() -> list[Any]:
        with na.Journal.open(home) as journal:
            agent = na.Agent(talking(), "talking", journal)
            given = {"messages": "hello"}
            found, run = chunks(agent, given, thread="t", stream_mode=modes, subgraphs=True)
            assert run.status is RunStatus.SUCCEEDED
            return found

    def killed() -> None:
        results = []

        def kill(fault: Fault) -> None:
            if fault is Fault.RESULT_AFTER:
                results.append(fault)
                if len(results) == 2:  # the model's reply, then the node around it
                    os.kill(os.getpid(), signal.SIGKILL)

        faults.arm(kill)
        program()

    dies(killed)
    found = program()
    assert [chunk[0].content for _, _, chunk in _messages(found)] == ["one two"]
    assert [chunk for _, mode, chunk in found if mode == "custom"] == ["ending"]
    updates = [name for _, mode, chunk in found if mode == "updates" for name in chunk]
    assert updates == ["speak", "inner", "end"]
