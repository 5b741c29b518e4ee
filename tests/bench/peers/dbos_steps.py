"""DBOS on SQLite: a durable step of a workflow, beside a durable call of a node."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, TypedDict

from dbos import DBOS, SetWorkflowID
from langgraph.graph import END, START, StateGraph

import notebook_agents as na

from ..measure import Bench, cost
from ..weights import files
from .inside import measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUNDS = 11


class _State(TypedDict):
    n: int


@DBOS.step()
def _theirs(n: int) -> int:
    return n + 1


@DBOS.workflow()
def _workflow(calls: int) -> int:
    return _all(_theirs, calls)


@na.step
def _ours(n: int) -> int:
    return n + 1


def _all(call: Callable[[int], int], calls: int) -> int:
    n = 0
    while n < calls:
        n = call(n)
    return n


def _measure(bench: Bench, home: Path) -> None:
    calls = bench.size(200, 5)
    numbers = count()

    def node(state: _State) -> dict[str, Any]:
        return {"n": _all(_ours, calls)}

    builder = StateGraph(_State).add_node("node", node)
    builder.add_edge(START, "node").add_edge("node", END)
    theirs = home / "dbos"
    theirs.mkdir()
    where = f"sqlite:///{theirs / 'dbos.sqlite'}"
    DBOS(config={"name": "bench", "system_database_url": where, "log_level": "WARNING"})
    DBOS.launch()
    with na.Journal.open(home / "journal") as journal:
        agent = na.Agent(builder, name="bench", journal=journal)

        def dbos() -> object:
            with SetWorkflowID(f"workflow{next(numbers)}"):
                return _workflow(calls)

        arms = {
            "DBOS, @DBOS.step": lambda: cost(dbos),
            "Agent, @na.step": lambda: cost(lambda: agent.run({"n": 0}, thread=f"{next(numbers)}")),
        }
        work = f"{calls} durable calls in a row, in one workflow or node"
        bench.compare("calls", work, arms, rounds=ROUNDS, unit="ms a call", per=calls)
    DBOS.destroy()
    for name, folder in (("DBOS", theirs), ("Agent", home / "journal")):
        size, done = sum(files(folder).values()), calls * (1 if bench.small else ROUNDS + 1)
        bench.say(f"{name}, files after {done:,} such calls, closed: {size:,} bytes")
    bench.say(
        "DBOS keeps a call's result when it has returned; ours also says before it that it begins"
    )


if __name__ == "__main__":
    measured(_measure, "dbos", "sqlalchemy")
