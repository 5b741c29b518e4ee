"""LangGraph's `@task`: durable calls without the user's code changing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, interrupt
from support.checks import State

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.faults import Fault
from notebook_agents.model import Kind, Outcome, RunStatus
from notebook_agents.runtime.events import observe

if TYPE_CHECKING:
    from notebook_agents.runtime.events import StepEvent


def go(home: Any, flow: Any, given: Any) -> na.Run:
    """Run a graph or entrypoint, or go on with it, on thread `t`."""
    with na.Journal.open(home) as journal:
        run = na.Agent(flow, "flow", journal).run(given, thread="t")
        assert run.view
        if run.status is RunStatus.SUCCEEDED:
            assert run.value is run.value
        return run


def test_tasks_are_not_called_again(home, ledger, dies, trips):
    """A task that returned before a kill gives its recorded result, with the types it had."""

    @task
    def look(n: int) -> tuple[int, int]:
        ledger.note(n)
        if n == 3:
            trips()
        return n, n * 10

    @entrypoint()
    def flow(n: int) -> list[Any]:
        futures = [look(number) for number in range(n)]
        return [future.result() for future in futures] + [look(n).result()]

    dies(lambda: go(home, flow, 3))
    run = go(home, flow, 3)
    assert run.value == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert Counter(ledger.lines()) == {"0": 1, "1": 1, "2": 1, "3": 2}
    assert Counter(step.name for step in run.steps) == {"flow": 1, "look": 4}
    assert [len(step.attempts) for step in run.steps if step.name == "flow"] == [2]


def test_tasks_in_another_order(home, ledger):
    """Calls that come in another order when a run goes on get their own results."""

    @task
    def look(n: int) -> int:
        ledger.note(n)
        return n * 10

    @entrypoint()
    def flow(_: int) -> dict[int, int]:
        first = not ledger.lines()
        found = {n: look(n).result() for n in ([1, 2] if first else [2, 1])}
        if first:
            raise OSError("the first try fails")
        return found

    with pytest.raises(OSError, match="the first try fails"):
        go(home, flow, 0)
    assert go(home, flow, 0).value == {2: 20, 1: 10}
    assert ledger.lines() == ["1", "2"]


async def test_async_tasks(home, ledger, dies, trips):
    """Coroutine tasks that ran at the same time give their own results again."""

    @task
    async def look(n: int) -> int:
        ledger.note(n)
        await asyncio.sleep(0)
        return n * 10

    @entrypoint()
    async def flow(n: int) -> list[int]:
        found = await asyncio.gather(*(look(number) for number in range(n)))
        trips()
        return [*found, await look(0)]

    dies(lambda: go(home, flow, 4))
    assert go(home, flow, 4).value == [0, 10, 20, 30, 0]
    assert Counter(ledger.lines()) == {"0": 2, "1": 1, "2": 1, "3": 1}


def test_task_in_a_node(home, ledger, dies, trips):
    """A task that a graph's node calls is a durable call of that node."""

    @task
    def look(n: int) -> int:
        ledger.note(n)
        return n * 10

    def node(state: State) -> State:
        found = look(state["n"]).result()
        trips()
        return {"n": found}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    dies(lambda: go(home, graph, {"n": 1}))
    assert go(home, graph, {"n": 1}).value["n"] == 10
    assert ledger.lines() == ["1"]


def test_task_is_retried(home, ledger):
    """Each try of a task under a retry policy is an attempt of the same step."""

    @task(retry_policy=RetryPolicy(initial_interval=0.0, jitter=False, retry_on=OSError))
    def shaky(n: int) -> int:
        ledger.note(n)
        if len(ledger.lines()) < 3:
            raise OSError("not yet")
        return n

    @entrypoint()
    def flow(n: int) -> int:
        return shaky(n).result()

    run = go(home, flow, 7)
    assert run.value == 7
    (step,) = [step for step in run.steps if step.name == "shaky"]
    outcomes = [attempt.outcome for attempt in step.attempts]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.RETURNED]


def test_task_asks(home, ledger):
    """A task that asks a person waits; tasks before it are not called again when it is answered."""

    @task
    def look(n: int) -> int:
        ledger.note(n)
        return n * 10

    @task
    def ask(n: int) -> Any:
        return interrupt(f"is {n} right?")

    @entrypoint()
    def flow(n: int) -> Any:
        return ask(look(n).result()).result()

    with na.Journal.open(home) as journal:
        agent = na.Agent(flow, "flow", journal)
        assert agent.run(1, thread="t").status is RunStatus.WAITING
        run = agent.run(Command(resume="yes"), thread="t")
        assert run.value == "yes"
    assert ledger.lines() == ["1"]


@pytest.mark.parametrize("name", ["double", "negate"])
def test_cached_tasks_of_one_flow(home, ledger, name):
    """Two cached tasks do not get each other's cached results."""
    policy = CachePolicy(ttl=60)

    @task(cache_policy=policy)
    def double(n: int) -> int:
        ledger.note("double")
        return n * 2

    @task(cache_policy=policy)
    def negate(n: int) -> int:
        ledger.note("negate")
        return -n

    @entrypoint(cache=InMemoryCache())
    def flow(n: int) -> list[int]:
        first, second = (double, negate) if name == "double" else (negate, double)
        return [first(n).result(), second(n).result(), first(n).result()]

    expected = [6, -3, 6] if name == "double" else [-3, 6, -3]
    assert go(home, flow, 3).value == expected


@task
def _ask(question: str) -> Any:
    """Ask twice."""
    return [interrupt(f"{question}a"), interrupt(f"{question}b")]


@task
def _ask_once(question: str) -> Any:
    """Ask."""
    return interrupt(question)


def _mixed(_: Any) -> Any:
    first = _ask("0").result()
    own = interrupt("own")
    return [first, own, _ask("1").result()]


def _in_a_row(_: Any) -> Any:
    return [_ask_once(question).result() for question in "012"]


@pytest.mark.parametrize(
    ("function", "questions"),
    [(_mixed, ["0a", "0b", "own", "1a", "1b"]), (_in_a_row, ["0", "1", "2"])],
)
def test_each_question_gets_its_own_answer(home, function, questions):
    """Tasks that ask, several times and between questions of the flow's own, get their answers."""
    with na.Journal.open(home) as journal:
        run = na.Agent(entrypoint()(function), "asking", journal).run(0, thread="t")
        for question in questions:
            assert [one.value for one in run.interrupts] == [question]
            run = na.resume("t", answer=f"<{question}>", journal=journal)
        told = str(run.value).replace("[", "").replace("]", "")
        assert told == ", ".join(f"'<{question}>'" for question in questions)


def test_a_task_that_calls_tasks(home, ledger, dies, trips):
    """A task inside a task that returned is not called again with the one around it."""

    @task
    def inner(n: int) -> int:
        ledger.note(n)
        return n * 10

    @task
    def outer() -> list[int]:
        found = [inner(n).result() for n in (1, 2)]
        trips()
        return found

    @entrypoint()
    def flow(_: int) -> list[int]:
        return outer().result()

    dies(lambda: go(home, flow, 0))
    assert go(home, flow, 0).value == [10, 20]
    assert ledger.lines() == ["1", "2"]


def test_what_an_entrypoint_saves_for_the_next_run(home):
    """`entrypoint.final` gives one value to the caller and another to the next run."""

    @entrypoint()
    def flow(n: int, *, previous: Any = None) -> Any:
        return entrypoint.final(value=previous, save=n)

    assert [go(home, flow, n).value for n in (1, 2, 3)] == [None, 1, 2]


async def test_a_task_that_begins_when_its_flow_has_failed(journal):
    """It is no sign that the flow got over the error of another one: that task is called again."""
    over, passed = threading.Event(), []
    mended = False

    @task
    def look(n: int) -> int:
        if not mended:
            raise RuntimeError("out of order")
        return n

    @entrypoint()
    def flow(given: int) -> list[int]:
        futures = [look(n) for n in range(given)]
        wait(futures, return_when=FIRST_EXCEPTION)
        return [future.result() for future in futures if future.done()]

    def hold(fault: Fault) -> None:
        if fault is Fault.INTENT_BEFORE:
            passed.append(fault)
            if len(passed) == 3:  # behind the flow and one task
                assert over.wait(20)

    def watch(event: StepEvent) -> None:
        if event.name == "flow" and event.what == "failed":
            over.set()

    agent = na.Agent(flow, "late", journal)
    try:
        faults.arm(hold)
        with observe(watch), pytest.raises(RuntimeError, match="out of order"):
            await agent.arun(2, thread="t")
    finally:
        faults.arm(None)
    kinds = [record.kind for record in journal.select(thread="t") if record.step is not None]
    assert kinds[:4] == [Kind.STEP_INTENDED, Kind.STEP_INTENDED, Kind.STEP_FAILED, Kind.STEP_FAILED]
    assert kinds[4] is Kind.STEP_INTENDED
    mended = True
    assert (await agent.arun(2, thread="t")).value == [0, 1]
