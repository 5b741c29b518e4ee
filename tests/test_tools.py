"""Each tool call of a `ToolNode` is a step: a kill in one leaves the others done."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, StructuredTool, tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, Send, interrupt

import notebook_agents as na
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.events import StepEvent, observe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.running import Ledger


class State(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    noted: str


def ask(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the state in which a model asked for tools; the calls' ids are c0, c1 and so on."""
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


def drive(
    home: Path, node: ToolNode, given: Any, call: Callable[..., na.Run], **config: Any
) -> na.Run:
    """Run, or go on with, a graph of one ToolNode."""
    with na.Journal.open(home) as journal:
        done = call(na.Agent(graph(node), "tooling", journal), given, thread="t", config=config)
        assert done.view
        if done.status is RunStatus.SUCCEEDED:
            assert done.value
        return done


@pytest.mark.crash
@pytest.mark.parametrize("native", [False, True], ids=["sync tools", "async tools"])
def test_only_the_call_that_was_cut_off_is_made_again(
    home: Path,
    call: Callable[..., na.Run],
    native: bool,
    ledger: Ledger,
    trips: Callable[..., None],
    dies: Callable[..., None],
) -> None:
    """Of two calls the one that returned is replayed, the other runs again under its own key."""

    def returned() -> bool:
        return any(line.startswith("returned first") for line in ledger.lines())

    def first() -> str:
        """Do the first thing."""
        ledger.note(f"called first {na.idempotency_key()}")
        return "one"

    def second() -> str:
        """Do the second thing."""
        while not returned():
            time.sleep(0)
        ledger.note(f"called second {na.idempotency_key()}")
        trips()
        return "two"

    async def first_async() -> str:
        """Do the first thing."""
        return first()

    async def second_async() -> str:
        """Do the second thing."""
        while not returned():  # noqa: ASYNC110 - a definition keeps no event
            await asyncio.sleep(0)
        return second()

    pairs = ((first, first_async), (second, second_async))
    tools = [
        StructuredTool.from_function(func, afn if native else None, name=func.__name__)
        for func, afn in pairs
    ]

    def run() -> na.Run:
        def note(event: StepEvent) -> None:
            if event.what == "returned":
                ledger.note(f"returned {event.name}")

        with observe(note):
            return drive(home, ToolNode(tools), ask(("first", {}), ("second", {})), call)

    dies(run)
    done = run()

    calls = Counter(line for line in ledger.lines() if line.startswith("called"))
    assert sorted(calls.values()) == [1, 2]
    assert [m.content for m in done.value["messages"][1:]] == ["one", "two"]
    node, *inner = done.steps
    assert {step.name: (step.replayed, step.parent) for step in inner} == {
        "first": (True, node.id),
        "second": (False, node.id),
    }
    assert {step.key for step in inner} == {line.split()[-1] for line in calls}


def test_everything_of_a_tool_node_is_kept(journal: na.Journal) -> None:
    """Error handling, wrapper, subclass and injected state work as they do without us."""

    class Own(ToolNode):
        def _parse_input(self, *args: Any) -> Any:
            seen.append("own")
            return super()._parse_input(*args)

    seen: list[str] = []

    @tool
    def failing(kind: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Fail."""
        assert state["messages"]
        raise {"value": ValueError, "key": KeyError}[kind](kind)

    def wrapper(request: Any, execute: Any) -> Any:
        seen.append("wrapped")
        return execute(request)

    def outcome(node: Any, kind: str) -> Any:
        agent = na.Agent(graph(node), "keeping", journal)
        try:
            message = agent.run(ask(("failing", {"kind": kind})), new=True).value["messages"][-1]
        except (ValueError, KeyError) as error:
            return type(error)
        return message.content, message.status, message.name

    def plain(node: Any, kind: str) -> Any:
        try:
            message = graph(node).compile().invoke(ask(("failing", {"kind": kind})))["messages"][-1]
        except (ValueError, KeyError) as error:
            return type(error)
        return message.content, message.status, message.name

    for handled in (False, True, "sorry", ValueError, (ValueError,), lambda error: f"my {error}"):
        for wrap in (None, wrapper):
            for kind in ("value", "key"):
                node = Own([failing], handle_tool_errors=handled, wrap_tool_call=wrap, name="mine")
                assert outcome(node, kind) == plain(node, kind), (handled, wrap, kind)
    assert seen.count("own") == 48
    assert seen.count("wrapped") == 24


def test_commands_lists_and_channels_come_back(
    home: Path, call: Callable[..., na.Run], ledger: Ledger
) -> None:
    """A tool may return a Command; after a failure beside it, it is replayed with its types."""

    @tool
    def note(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Note something."""
        ledger.note("noted")
        said = ToolMessage("noted", tool_call_id=tool_call_id)
        return Command(update={"noted": "yes", "messages": [said]})

    @tool
    def fragile() -> str:
        """Fail the first time."""
        if ledger.note("tried") <= 2:
            raise ConnectionError("later")
        return "ok"

    node = ToolNode([note, fragile], handle_tool_errors=False)
    with pytest.raises(ConnectionError):
        drive(home, node, ask(("note", {}), ("fragile", {})), call)
    with na.Journal.open(home) as journal:
        failed = na.Run(journal, "t", 1)
        outcomes = {step.name: step.outcome for step in failed.steps}
    assert outcomes["fragile"] is Outcome.FAILED
    done = drive(home, node, ask(("note", {}), ("fragile", {})), call)
    assert ledger.lines().count("noted") == 1
    assert done.value["noted"] == "yes"
    assert {m.content for m in done.value["messages"][1:]} == {"noted", "ok"}
    assert not any(step.was_in_doubt for step in done.steps)


def test_a_tool_that_asks_a_person_waits_and_the_other_is_not_made_again(
    home: Path, call: Callable[..., na.Run], ledger: Ledger
) -> None:
    """`interrupt()` in a tool suspends its call; the answer reaches it, its neighbour stands."""

    @tool
    def buy() -> str:
        """Ask first."""
        return f"bought {interrupt('really?')}"

    @tool
    def look() -> str:
        """Look, for longer than it takes to ask."""
        ledger.note("looked")
        time.sleep(0.1)
        return "seen"

    node = ToolNode([look, buy])
    waiting = drive(home, node, ask(("look", {}), ("buy", {})), call)
    assert waiting.status is RunStatus.WAITING
    assert {step.name: step.outcome for step in waiting.steps}["buy"] is Outcome.SUSPENDED
    done = drive(home, node, Command(resume="two"), call)
    assert [m.content for m in done.value["messages"][1:]] == ["seen", "bought two"]
    assert ledger.lines() == ["looked"]
    assert not any(step.was_in_doubt for step in done.steps)


def test_each_of_two_questions_gets_its_own_answer(
    home: Path, call: Callable[..., na.Run], ledger: Ledger
) -> None:
    """A tool call whose answered question is not asked again leaves the next its own answer.

    On a loop the tool is a coroutine: calls in worker threads may ask in any order there, and
    LangGraph knows questions by their order.
    """

    def buy(item: str) -> str:
        answer = interrupt(item)
        ledger.note(f"{item}: {answer}")
        return f"{item}: {answer}"

    async def abuy(item: str) -> str:
        return buy(item)

    made = StructuredTool.from_function(buy, abuy, name="buy", description="Ask first.")
    node = ToolNode([made])
    given = ask(*(("buy", {"item": item}) for item in ("tin", "oak", "jet")))
    for answer in (given, *(Command(resume=word) for word in ("yes", "no"))):
        asking = drive(home, node, answer, call, max_concurrency=1)
        assert asking.status is RunStatus.WAITING
    done = drive(home, node, Command(resume="perhaps"), call, max_concurrency=1)
    expected = ["tin: yes", "oak: no", "jet: perhaps"]
    assert [m.content for m in done.value["messages"][1:]] == expected
    assert ledger.lines() == expected


@pytest.mark.crash
def test_each_of_two_subgraphs_goes_on_with_its_own_state(
    home: Path, call: Callable[..., na.Run], trips: Callable[..., None], dies: Callable[..., None]
) -> None:
    """A subgraph in a tool that runs again does not find the checkpoints of a replayed one."""

    class Inner(TypedDict, total=False):
        item: str

    def shout(state: Inner) -> Inner:
        if state["item"] == "oak":
            trips()
        return {"item": state["item"].upper()}

    inner = StateGraph(Inner).add_node("shout", shout).add_edge(START, "shout").compile()

    @tool
    def say(item: str) -> str:
        """Say it loud."""
        return str(inner.invoke({"item": item})["item"])

    def run() -> na.Run:
        given = ask(("say", {"item": "tin"}), ("say", {"item": "oak"}))
        return drive(home, ToolNode([say]), given, call, max_concurrency=1)

    dies(run)
    assert [m.content for m in run().value["messages"][1:]] == ["TIN", "OAK"]


def test_a_sync_wrapper_works_on_a_loop(home: Path, call: Callable[..., na.Run]) -> None:
    """A user's `wrap_tool_call` is called around each call, on an event loop too, once."""
    seen: list[str] = []

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    def wrapper(request: Any, execute: Any) -> Any:
        seen.append(request.tool_call["id"])
        return execute(request)

    done = drive(
        home, ToolNode([look], wrap_tool_call=wrapper), ask(("look", {}), ("look", {})), call
    )
    assert sorted(seen) == ["c0", "c1"]
    assert len({step.key for step in done.steps}) == 3


def test_a_call_that_is_the_whole_task_is_one_step(journal: na.Journal) -> None:
    """A call sent on its own, as `create_agent` sends them, is its node's step and no other."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    builder = StateGraph(State)
    builder.add_node("fan", lambda state: {})
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge(START, "fan")
    builder.add_conditional_edges(
        "fan",
        lambda state: [Send("tools", [made]) for made in state["messages"][-1].tool_calls],
        ["tools"],
    )
    done = na.Agent(builder, "sending", journal).run(ask(("look", {}), ("look", {})))
    assert [step.name for step in done.steps] == ["fan", "tools", "tools"]


def test_the_users_tool_node_is_not_changed(journal: na.Journal) -> None:
    """A graph with a ToolNode works without us after it ran with us."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    node = ToolNode([look])
    before = dict(vars(node))
    na.Agent(graph(node), "using", journal).run(ask(("look", {})))
    assert vars(node) == before
    assert graph(node).compile().invoke(ask(("look", {})))["messages"][-1].content == "seen"
