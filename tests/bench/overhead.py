"""What journaling adds to a step, against what LangGraph's sqlite saver adds."""

from __future__ import annotations

import operator
import statistics
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from .measure import Bench, Cost, cost, quartiles, sandbox
from .systems import (
    MEMORY,
    MEMORY_LOOP,
    ON_A_LOOP,
    OURS,
    OURS_LOOP,
    SQLITE_LOOP,
    SYNC,
    SYSTEMS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .systems import Builder, Opening

BARS = {"sequence": 0.6, "fan-out": 0.3}
ROUNDS = 21
WIDTH = 16


class _State(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]


def sequence(steps: int) -> Builder:
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


def async_sequence(steps: int) -> Builder:
    """Return the same graph with an async node."""

    async def work(state: _State) -> dict[str, Any]:
        return {"n": state["n"] + 1, "log": [f"step {state['n']}"]}

    builder = StateGraph(_State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges(
        "work", lambda state: "work" if state["n"] < steps else END, ["work", END]
    )
    return builder


def fan_out(laps: int) -> Builder:
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
    """Compare the systems, and judge the ratio of the overheads."""
    with sandbox() as home:
        rows(bench, home, SYSTEMS)
        steps = bench.size(200, 4)
        work = f"one async node {steps} times in a row, on an event loop"
        arms = _arms(home / "awaited", ON_A_LOOP, async_sequence(steps))
        costs = bench.compare("awaited", work, arms, rounds=ROUNDS, unit="ms a step", per=steps)
        _ratio(bench, work, costs, (MEMORY_LOOP, SQLITE_LOOP, OURS_LOOP), bar=None)


def rows(bench: Bench, home: Path, systems: Mapping[str, Opening], *, rounds: int = ROUNDS) -> None:
    """Measure both rows; judge them where the systems are there that the bars name."""
    steps, laps = bench.size(200, 4), bench.size(10, 1)
    sequential = f"one node {steps} times in a row"
    wide = f"{WIDTH} tasks side by side and their join, {laps} times"
    for name, work, builder, unit, per in (
        ("sequence", sequential, sequence(steps), "ms a step", steps),
        ("fan-out", wide, fan_out(laps), f"ms for {WIDTH} tasks and their join", laps),
    ):
        arms = _arms(home / name, systems, builder)
        costs = bench.compare(name, work, arms, rounds=rounds, unit=unit, per=per)
        if {MEMORY, SYNC, OURS} <= set(systems):
            _ratio(bench, work, costs, (MEMORY, SYNC, OURS), bar=BARS[name])


def _arms(home: Path, systems: Mapping[str, Opening], builder: Builder) -> dict[str, Any]:
    """Return an arm for each system: it runs the graph on new files.

    The files stay until the end: deleting them would make the file system work under the next arm.
    """
    numbers = count()
    return {
        name: partial(_once, home, numbers, opening, builder) for name, opening in systems.items()
    }


def _once(home: Path, numbers: Iterator[int], opening: Opening, builder: Builder) -> Cost:
    folder = home / str(next(numbers))
    folder.mkdir(parents=True)
    with opening(folder) as system:
        return cost(lambda: system.run(builder, {"n": 0, "log": []}))


def _ratio(
    bench: Bench,
    what: str,
    costs: dict[str, list[Cost]],
    names: tuple[str, str, str],
    *,
    bar: float | None,
) -> None:
    """Report what ours adds to the first system ÷ what the second one adds to it."""
    base, peer, ours = (([cost.wall * 1e3 for cost in costs[name]]) for name in names)
    middle = [statistics.median(values) for values in (base, peer, ours)]
    added, own = middle[1] - middle[0], middle[2] - middle[0]
    ratios = [(o - m) / (s - m) for m, s, o in zip(base, peer, ours, strict=True) if s != m]
    line = f"{what}: over {names[0]}, {names[2]} {own:.3f} ms ÷ {names[1]} {added:.3f} ms ="
    if bar is None:
        bench.say(f"  {line} {own / added:.2f}{quartiles(ratios)}; for information")
    else:
        bench.judge(line, own / added, bar, spread=quartiles(ratios))
