"""What journaling adds to a step, against what LangGraph's sqlite saver adds."""

from __future__ import annotations

import operator
import statistics
import time
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

import notebook_agents as na

from .measure import Bench, interleave, quartiles, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_core.runnables import RunnableConfig

BAR = 0.7
ROUNDS = 21
WIDTH = 16
MEMORY, SQLITE, OURS = "InMemorySaver", "SqliteSaver sync", "Agent"


class _State(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]


class Cost(NamedTuple):
    """What a whole run took, in seconds."""

    wall: float
    cpu: float


def sequence(steps: int) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph whose one node runs `steps` times."""

    def work(state: _State) -> dict[str, Any]:
        return {"n": state["n"] + 1, "log": [f"step {state['n']}"]}

    builder = StateGraph(_State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges(
        "work", lambda state: "work" if state["n"] < steps else END, ["work", END]
    )
    return builder


def fan_out(laps: int) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph that sends `WIDTH` tasks out and joins them, `laps` times."""

    def part(state: _State) -> dict[str, Any]:
        return {"log": [f"part {state['n']}"]}

    def join(state: _State) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    def send(state: _State) -> Any:
        return [Send("part", {"n": place, "log": []}) for place in range(WIDTH)]

    builder = StateGraph(_State)
    builder.add_node("part", part)
    builder.add_node("join", join)
    builder.add_conditional_edges(START, send, ["part"])
    builder.add_edge("part", "join")
    builder.add_conditional_edges(
        "join", lambda state: send(state) if state["n"] < laps else END, ["part", END]
    )
    return builder


def run(bench: Bench) -> None:
    """Report the ratio of both overheads."""
    steps, laps = bench.size(200, 4), bench.size(10, 1)
    with sandbox() as home:
        costs = _compare(bench, home / "sequence", sequence(steps))
        _report(bench, f"one node {steps} times in a row", costs, steps, bar=BAR)
        costs = _compare(bench, home / "fan-out", fan_out(laps))
        _report(bench, f"{WIDTH} wide, {laps} times", costs, laps * (WIDTH + 1), bar=None)


def _compare(
    bench: Bench, home: Path, builder: StateGraph[Any, Any, Any, Any]
) -> dict[str, list[Cost]]:
    """Run a graph in all three ways, each time on new files.

    The files stay until the end: deleting them would make the file system work under the next arm.
    """
    home.mkdir()
    numbers = count()
    given = {"n": 0, "log": []}
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 10_000}

    def memory() -> Cost:
        graph = builder.compile(checkpointer=InMemorySaver())
        return _cost(lambda: graph.invoke(given, config))

    def sqlite() -> Cost:
        with SqliteSaver.from_conn_string(str(home / f"{next(numbers)}.sqlite")) as saver:
            saver.setup()
            graph = builder.compile(checkpointer=saver)
            return _cost(lambda: graph.invoke(given, config, durability="sync"))

    def ours() -> Cost:
        with na.Journal.open(home / f"{next(numbers)}") as journal:
            agent = na.Agent(builder, name="bench", journal=journal)
            return _cost(lambda: agent.run(given, thread="t", config={"recursion_limit": 10_000}))

    arms = {MEMORY: memory, SQLITE: sqlite, OURS: ours}
    return interleave(bench, arms, rounds=ROUNDS)


def _cost(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def _report(
    bench: Bench, what: str, costs: dict[str, list[Cost]], steps: int, *, bar: float | None
) -> None:
    for clock in ("wall", "cpu"):
        each = {
            name: [getattr(cost, clock) / steps * 1e3 for cost in arm]
            for name, arm in costs.items()
        }
        middle = {name: statistics.median(arm) for name, arm in each.items()}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in middle.items())
        bench.say(f"  {what}, {clock} ms a step, run start and end included: {shown}")
        sqlite, ours = middle[SQLITE] - middle[MEMORY], middle[OURS] - middle[MEMORY]
        ratios = [(o - m) / (s - m) for m, s, o in zip(*each.values(), strict=True) if s != m]
        line = f"{clock}: over {MEMORY}, {OURS} {ours:.3f} ÷ {SQLITE} {sqlite:.3f} ="
        ratio = ours / sqlite
        if bar is not None and clock == "wall":
            bench.judge(line, ratio, bar, spread=quartiles(ratios))
        else:
            bench.say(f"  {line} {ratio:.2f}{quartiles(ratios)}; for information")
