"""Every shape of graph: killed in the middle, it goes on; the user's own graph is not changed."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import Runtime  # noqa: TC002 - LangGraph reads annotations
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt
from support.checks import State, add, ask, chain
from support.shapes import build, go, names

import notebook_agents as na
from notebook_agents.errors import InputError
from notebook_agents.graph.resume import _rebuilt as rebuilt
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.running import Ledger


# -- loops and fan-outs ------------------------------------------------------------------------


def test_loop(home, ledger, dies, trips):
    """Each turn of a loop is a step of its own; the turns before a kill are not repeated."""

    def turn(state: State) -> State:
        ledger.note(state["n"])
        if state["n"] == 3:
            trips()
        return {"n": state["n"] + 1}

    graph = build(turn=turn)
    graph.add_conditional_edges("turn", lambda state: "turn" if state["n"] < 6 else END)
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert run.value["n"] == 6
    assert ledger.lines() == list("0123345")
    assert len({step.id for step in run.steps}) == 6
    assert [step.replayed for step in run.steps] == [True] * 3 + [False] * 3


def test_recursion_limit_counts_over_kills(home, ledger, trips, dies):
    """A run that is resumed does not get its number of supersteps anew."""

    def turn(state: State) -> State:
        if state["n"] == 3:
            trips()
        ledger.note(state["n"])
        return {"n": state["n"] + 1}

    graph = build(turn=turn)
    graph.add_conditional_edges("turn", lambda state: "turn")
    dies(lambda: go(home, graph, config={"recursion_limit": 5}))
    with pytest.raises(RecursionError):
        go(home, graph, config={"recursion_limit": 5})
    assert len(ledger.lines()) == 5


def _fan_out(ledger: Ledger, trip: Callable[[int], None]) -> StateGraph[Any, Any, Any, Any]:
    @na.step
    def effect(n: int) -> int:
        ledger.note(n)
        trip(n)
        return n * 10

    def one(state: State) -> State:
        return {"items": [effect(state["n"])]}

    def join(state: State) -> State:
        trip(-1)
        return {"n": sum(state["items"])}

    graph = StateGraph(State)
    graph.add_node("one", one)
    graph.add_node("join", join)
    graph.add_conditional_edges(
        START, lambda state: [Send("one", {"n": n}) for n in range(5)], ["one"]
    )
    graph.add_edge("one", "join")
    return graph


def test_fan_out_killed_behind_it(home, ledger, dies, trips):
    """A fan-out that was over before the kill is not looked at again, and keeps its order."""
    graph = _fan_out(ledger, lambda n: trips() if n == -1 else None)
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert (run.value["items"], run.value["n"]) == ([0, 10, 20, 30, 40], 100)
    assert sorted(ledger.lines()) == list("01234")
    assert [attempts for *_, attempts in names(run)] == [1] * 10 + [2]


def test_fan_out_killed_in_the_middle(home, ledger, dies, trips):
    """What had returned is not made again, what was under way is, and nothing is missing."""
    graph = _fan_out(ledger, lambda n: trips() if n == 2 else None)
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert run.value["items"] == [0, 10, 20, 30, 40]
    calls = {step.id: step for step in run.steps if step.name == "effect"}
    assert len(calls) == 5
    for step in calls.values():
        outcomes = [attempt.outcome for attempt in step.attempts]
        assert outcomes in ([Outcome.RETURNED], [Outcome.UNCERTAIN, Outcome.RETURNED])
    made = Counter(ledger.lines())
    assert set(made) == set("01234")
    assert made["2"] == 2
    # An attempt that was killed before its effect began left no line.
    assert made.total() - 5 <= sum(len(step.attempts) - 1 for step in calls.values())


# -- graphs in graphs --------------------------------------------------------------------------


def test_subgraph_as_a_node(home, ledger, dies, trips):
    """The steps inside a subgraph are the steps: those that returned are not run again."""

    def second(state: State) -> State:
        ledger.note("second")
        trips()
        return {"n": state["n"] * 10}

    def first(state: State) -> State:
        ledger.note("first")
        return {"n": state["n"] + 2}

    inner = build(first=first, second=second)
    inner.add_edge("first", "second")
    graph = build(before=add, inner=inner.compile(), after=add)
    graph.add_edge("before", "inner")
    graph.add_edge("inner", "after")
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert run.value["n"] == 31
    assert ledger.lines() == ["first", "second", "second"]
    assert names(run) == [
        ("before", "", 1),
        ("first", "inner", 1),
        ("second", "inner", 2),
        ("after", "", 1),
    ]


def test_subgraph_without_checkpoints(home, ledger, dies, trips):
    """A subgraph that keeps no checkpoints is one step, with its durable calls inside."""

    @na.step
    def call() -> int:
        ledger.note("called")
        return 5

    def first(state: State) -> State:
        return {"n": call()}

    def second(state: State) -> State:
        trips()
        return {"n": state["n"] + 1}

    inner = build(first=first, second=second)
    inner.add_edge("first", "second")
    graph = build(inner=inner.compile(checkpointer=False), after=add)
    graph.add_edge("inner", "after")
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert run.value["n"] == 7
    assert ledger.lines() == ["called"]
    assert names(run) == [("inner", "", 2), ("call", "", 1), ("after", "", 1)]


def test_graph_called_inside_a_node(home, ledger, dies, trips):
    """A graph that a node invokes by itself is part of the node; its durable calls are kept."""

    @na.step
    def call() -> int:
        ledger.note("called")
        return 5

    def inside(state: State) -> State:
        return {"n": call()}

    compiled = chain(inside).compile()

    def node(state: State) -> State:
        found = compiled.invoke({"n": 0})["n"]
        trips()
        return {"n": found}

    dies(lambda: go(home, chain(node)))
    run = go(home, chain(node))
    assert run.value["n"] == 5
    assert ledger.lines() == ["called"]


def test_command_to_the_graph_around(home, dies, trips):
    """A subgraph's node that sends its graph elsewhere is a result like any other."""

    def leave(state: State) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="there", update={"n": 5})

    def there(state: State) -> State:
        trips()
        return {"n": state["n"] + 1}

    inner = build(leave=leave)
    graph = build(inner=inner.compile(), there=there)
    dies(lambda: go(home, graph))
    run = go(home, graph)
    assert run.value["n"] == 6
    assert names(run) == [("leave", "inner", 1), ("there", "", 2)]


class Remote(RemoteGraph):
    """A graph on a server, with the server's part played here."""

    def invoke(self, input: Any, config: Any = None, **_: Any) -> Any:  # noqa: A002 - LangGraph's name
        """Note where it was asked, and answer."""
        assert self.sync_client is not None
        with Path(os.environ["REMOTE_LEDGER"]).open("a") as ledger:
            ledger.write(f"{self.sync_client.http.client.base_url}\n")
        return {"n": input["n"] + 100}


def test_graph_on_a_server(home, tmp_path, monkeypatch, trips, dies):
    """A RemoteGraph is one step: kept with its address, and not asked again once it answered."""
    ledger = tmp_path / "remote"
    monkeypatch.setenv("REMOTE_LEDGER", str(ledger))

    def last(state: State) -> State:
        trips()
        return {"n": state["n"] + 1000}

    def graph() -> Any:
        made = build(first=add, remote=Remote("there", url="http://127.0.0.1:9/api"), last=last)
        made.add_edge("first", "remote")
        made.add_edge("remote", "last")
        return made

    dies(lambda: go(home, graph()))
    with na.Journal.open(home) as journal:
        run = resume_elsewhere(journal)
    assert run["n"] == 1101
    assert ledger.read_text() == "http://127.0.0.1:9/api/\n"


def resume_elsewhere(journal: na.Journal) -> Any:
    """Resume thread `t` with the graph that the journal holds, not with this process's agent."""
    agent = rebuilt(journal, journal.thread("t"))
    return agent.resume("t").value


def test_a_changed_state_schema(home):
    """Channels that are new begin empty, and those that are gone are left behind."""

    class Before(TypedDict, total=False):
        n: int
        gone: str

    class After(TypedDict, total=False):
        n: int
        new: list[Any]

    def fails(state: Before) -> Before:
        raise OSError("out of order")

    def graph(schema: Any, last: Any) -> Any:
        made = StateGraph(schema)
        made.add_node("first", lambda state: {"n": state["n"] + 1})
        made.add_node("last", last)
        made.add_edge(START, "first")
        made.add_edge("first", "last")
        return made

    with pytest.raises(OSError, match="out of order"):
        go(home, graph(Before, fails), {"n": 0, "gone": "kept"})
    with na.Journal.open(home) as journal:
        after = graph(After, lambda state: {"new": sorted(state)})
        assert na.Agent(after, "shaped", journal).resume("t").value == {"n": 1, "new": ["n"]}


def test_agent_inside_an_agent(home, ledger, dies, trips):
    """A node may run another agent: its run is its own, found again under the node's key."""

    def work(state: State) -> State:
        ledger.note("work")
        return {"n": state["n"] + 5}

    def program() -> na.Run:
        with na.Journal.open(home) as journal:
            inner = na.Agent(chain(work), "inner", journal)

            def node(state: State) -> State:
                key = na.idempotency_key()
                found = inner.run({"n": 1}, thread="inner", key=key)
                trips()
                return {"n": found.value["n"], "items": [found.stored]}

            run = na.Agent(chain(node), "outer", journal).run({"n": 0}, thread="outer")
            assert run.value["items"] == [True]
            assert run.value["n"] == 6
            assert [step.name for step in run.steps] == ["node"]
            inside = na.Run(journal, "inner", 1)
            assert [(step.name, step.parent) for step in inside.steps] == [("work", None)]
            return run

    dies(program)
    program()
    assert ledger.lines() == ["work"]


# -- waiting for a person ----------------------------------------------------------------------


def test_interrupt_is_answered_in_another_process(home, ledger, dies, trips):
    """A run waits over the death of its process; the answer goes to the node that asked."""

    def before(state: State) -> State:
        ledger.note("before")
        return {"n": 1}

    def person(state: State) -> State:
        return {"items": [interrupt("name?"), interrupt("age?")]}

    graph = chain(before, person, add)

    def program() -> None:
        assert go(home, graph).status is RunStatus.WAITING
        trips()

    dies(program)
    run = go(home, graph, Command(resume="ada"))
    assert run.status is RunStatus.WAITING
    assert [step.outcome for step in run.steps] == [Outcome.RETURNED, Outcome.SUSPENDED]
    run = go(home, graph, Command(resume=36))
    assert (run.number, run.value["items"], run.value["n"]) == (1, ["ada", 36], 2)
    assert ledger.lines() == ["before"]


def test_killed_behind_the_answer(home, ledger, dies, trips):
    """An answer that was given is not asked for again after a kill."""

    def after(state: State) -> State:
        trips()
        return {"n": state["n"] + 1}

    graph = chain(ask, after)
    assert go(home, graph).status is RunStatus.WAITING
    dies(lambda: go(home, graph, Command(resume=4)))
    assert go(home, graph).value["n"] == 5


def test_killed_in_the_node_that_got_the_answer(home, dies, trips):
    """Killed while it works on the answer, the node runs again with it."""

    def person(state: State) -> State:
        answer = interrupt("how many?")
        trips()
        return {"n": answer}

    graph = chain(person)
    assert go(home, graph).status is RunStatus.WAITING
    dies(lambda: go(home, graph, Command(resume=4)))
    run = go(home, graph)
    assert (run.status, run.value["n"]) == (RunStatus.SUCCEEDED, 4)


def test_interrupt_in_a_subgraph(home):
    """A question inside a subgraph makes the run wait, and its answer goes there."""
    graph = build(inner=chain(add, ask).compile(), after=add)
    graph.add_edge("inner", "after")
    assert go(home, graph).status is RunStatus.WAITING
    run = go(home, graph, Command(resume=7))
    assert run.value["n"] == 8
    assert names(run) == [("add", "inner", 1), ("ask", "inner", 2), ("after", "", 1)]


def test_calls_before_a_question_are_not_repeated(home, ledger):
    """LangGraph runs the asking node again from its start; durable calls in it are replayed."""

    @na.step
    def call() -> int:
        return ledger.note("called")

    def person(state: State) -> State:
        return {"n": call() + interrupt("how many?")}

    graph = chain(person)
    go(home, graph)
    assert go(home, graph, Command(resume=10)).value["n"] == 11
    assert ledger.lines() == ["called"]


def test_interrupt_before_a_node(home, ledger):
    """A graph that was compiled to stop before a node waits there, and goes on when resumed."""

    def second(state: State) -> State:
        ledger.note("second")
        return {"n": state["n"] * 10}

    graph = build(first=add, second=second)
    graph.add_edge("first", "second")
    compiled = graph.compile(interrupt_before=["second"])
    run = go(home, compiled)
    assert (run.status, ledger.lines()) == (RunStatus.WAITING, [])
    run = go(home, compiled)
    assert (run.number, run.value["n"], ledger.lines()) == (1, 10, ["second"])


# -- the functional API ------------------------------------------------------------------------


def test_entrypoint(home, ledger, dies, trips):
    """An `@entrypoint` is one node; its durable calls that returned are not made again."""

    @na.step
    def call(n: int) -> int:
        ledger.note(n)
        return n * 10

    @entrypoint()
    def flow(n: int) -> dict[str, Any]:
        found = [call(1), call(n)]
        trips()
        return {"found": (*found, call(3))}

    dies(lambda: go(home, flow, 2))
    run = go(home, flow, 2)
    assert run.value == {"found": (10, 20, 30)}
    assert ledger.lines() == ["1", "2", "3"]
    assert [step.name for step in run.steps] == ["flow", "call", "call", "call"]


async def test_async_entrypoint(home, ledger):
    """The same for a coroutine function."""

    @na.step
    async def call(n: int) -> int:
        ledger.note(n)
        return n * 10

    @entrypoint()
    async def flow(n: int) -> int:
        return sum(await asyncio.gather(call(1), call(n)))

    with na.Journal.open(home) as journal:
        run = await na.Agent(flow, "flowing", journal).arun(2, thread="t")
        assert run.value == 30


# -- loops of events ---------------------------------------------------------------------------


async def _add_later(state: State) -> State:
    await asyncio.sleep(0)
    return {"n": state["n"] + 1}


def test_async_graph_from_a_script(home):
    """`run` takes a graph that has only coroutine functions."""
    assert go(home, chain(_add_later, add)).value["n"] == 2


async def test_async_graph_from_a_running_loop(home):
    """In a notebook a loop is running already: `run` works there too, and so does `arun`."""
    assert go(home, chain(_add_later, add)).value["n"] == 2
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(_add_later, add), "shaped", journal)
        assert (await agent.arun({"n": 5}, thread="t")).value["n"] == 7


async def test_async_subgraph_from_a_running_loop(home):
    """The same where only a subgraph's nodes are coroutine functions."""
    graph = build(inner=chain(_add_later).compile())
    assert go(home, graph).value["n"] == 1


async def test_sync_graph_on_a_loop(home):
    """`arun` takes a graph that has only plain functions."""
    with na.Journal.open(home) as journal:
        run = await na.Agent(chain(add), "shaped", journal).arun({"n": 0}, thread="t")
        assert run.value["n"] == 1


async def test_runs_side_by_side_on_one_loop(home):
    """Runs of several threads share a loop and a journal."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(_add_later, _add_later_too), "shaped", journal)
        runs = await asyncio.gather(*(agent.arun({"n": n}, thread=f"t{n}") for n in range(8)))
        assert [run.value["n"] for run in runs] == [n + 2 for n in range(8)]


async def _add_later_too(state: State) -> State:
    return await _add_later(state)


# -- the user's graph --------------------------------------------------------------------------


def test_the_users_graph_is_not_changed(home):
    """Neither a compiled graph nor its builder is touched, and it runs as before."""
    graph = build(first=add, inner=chain(add).compile())
    graph.add_edge("first", "inner")
    compiled = graph.compile()

    def looks() -> list[Any]:
        nodes = {name: (id(node), id(node.bound)) for name, node in compiled.nodes.items()}
        inner = compiled.nodes["inner"].bound
        return [nodes, {**vars(compiled)}.keys(), compiled.checkpointer, id(inner.nodes["add"])]

    before = looks()
    assert go(home, compiled).value["n"] == 2
    assert looks() == before
    with na.Journal.open(home) as journal:
        records = len(journal.select())
        assert compiled.invoke({"n": 1})["n"] == 3
        assert len(journal.select()) == records


def test_two_agents_of_one_graph(home):
    """One graph may be several agents, each with threads of its own."""
    compiled = chain(add).compile()
    with na.Journal.open(home) as journal:
        one, two = (na.Agent(compiled, name, journal) for name in ("one", "two"))
        assert one.run({"n": 1}, thread="a").value["n"] == 2
        assert two.run({"n": 5}, thread="b").value["n"] == 6
        assert na.Agent(compiled, "one", journal).run({"n": 7}, thread="a").number == 2
        assert {info.thread: info.agent for info in journal.threads()} == {"a": "one", "b": "two"}


def test_agent_has_the_graphs_name(journal):
    """Without a name of its own an agent is called like its graph."""
    assert na.Agent(chain(add).compile(name="counting"), journal=journal).name == "counting"
    assert na.Agent(chain(add), journal=journal).name == "agent"


def test_store_of_the_graph_is_there(home):
    """A graph that was compiled with a store has it in its nodes."""
    store = InMemoryStore()
    store.put(("facts",), "answer", {"is": 42})

    def node(state: State, runtime: Runtime[Any]) -> State:
        assert runtime.store is not None
        found = runtime.store.get(("facts",), "answer")
        assert found is not None
        return {"n": found.value["is"]}

    assert go(home, chain(node).compile(store=store)).value["n"] == 42


def test_checkpointer_of_the_graph_is_not_used(home):
    """A graph that was compiled with a saver of its own keeps it to itself."""
    from langgraph.checkpoint.memory import InMemorySaver

    saver = InMemorySaver()
    compiled = chain(add).compile(checkpointer=saver)
    assert go(home, compiled).value["n"] == 1
    assert list(saver.list(None)) == []
    assert compiled.checkpointer is saver


def test_graph_without_a_dict_as_state(home):
    """A graph whose state is no dict takes its input as it is."""
    graph = StateGraph(list[int])
    graph.add_node("node", lambda state: [*state, len(state)])
    graph.add_edge(START, "node")
    with na.Journal.open(home) as journal:
        run = na.Agent(graph, "listing", journal).run([5, 6], thread="t")
        assert run.value == [5, 6, 2]
        with pytest.raises(InputError):
            na.Agent(graph, "listing", journal).run(None, thread="u")
