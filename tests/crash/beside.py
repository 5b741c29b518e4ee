"""LangGraph with its own sqlite saver, killed at the same place, beside our runs.

A graph of three steps is killed by SIGKILL when LangGraph hands its saver the checkpoint behind
the second step: that step has returned, and the third may have begun. A second process goes on
with `invoke(None)`. What counts is the ledger: the effects that stand there twice.
"""

from __future__ import annotations

import functools
import operator
import os
import secrets
import signal
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

import notebook_agents as na
from notebook_agents.graph.driver_saver import DriverSaver

from .ledger import Ledger, What, note, write_to
from .processes import fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

STEPS = ("first", "second", "third")
RETURNED = STEPS[:2]
"""The steps that have returned when the saver is given the checkpoint behind the second."""

Durability = Literal["async", "sync"]


class _State(TypedDict):
    order: Annotated[list[str], operator.add]


class _KilledSaver(SqliteSaver):
    """LangGraph's saver, in a process that dies at the `put` behind the second step."""

    def put(self, config: RunnableConfig, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        if metadata["step"] == len(RETURNED):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().put(config, checkpoint, metadata, versions)


def three_steps() -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of three steps in a row, each of which notes one effect."""
    builder = StateGraph(_State)
    for name in STEPS:
        builder.add_node(name, _step(name))
    for before, after in zip((START, *STEPS), (*STEPS, END), strict=True):
        builder.add_edge(before, after)
    return builder


def _step(name: str) -> Callable[[_State], dict[str, list[str]]]:
    def step(state: _State) -> dict[str, list[str]]:
        note(What.EFFECT, label=name, value=secrets.token_hex(4))
        return {"order": [name]}

    return step


@dataclass(frozen=True, slots=True)
class Beside:
    """What some killed and resumed runs did outside.

    Attributes:
        name: Who ran.
        runs: How many runs there were, each killed once and resumed once.
        twice: In how many of them some effect happened twice.
        returned_twice: In how many of them it was the effect of a step that had returned.
        wrong: How many did not come to the undisturbed answer.
    """

    name: str
    runs: int
    twice: int
    returned_twice: int
    wrong: int


def langgraph_alone(durability: Durability, runs: int = 20) -> Beside:
    """Kill and resume plain LangGraph with its sqlite saver `runs` times."""
    return measure(
        f"LangGraph, sqlite saver, {durability}",
        lambda home, *, killed: _langgraph(home, durability, killed=killed),
        runs,
    )


def measure(name: str, live: Callable[..., None], runs: int) -> Beside:
    """Kill and resume `runs` runs of `live(home, killed=…)` and count their effects.

    `live` runs the three steps in a child, in the directory `home`. It dies at the saver's `put`
    when `killed` is true, and otherwise goes on from there and notes its answer.
    """
    twice = returned_twice = wrong = 0
    for _ in range(runs):
        effects, right = _one(live)
        twice += any(effects.count(step) > 1 for step in STEPS)
        returned_twice += any(effects.count(step) > 1 for step in RETURNED)
        wrong += not right
    return Beside(name, runs, twice, returned_twice, wrong)


def _one(live: Callable[..., None]) -> tuple[list[str], bool]:
    with tempfile.TemporaryDirectory(prefix="beside-") as folder:
        home = Path(folder)
        ledger = Ledger(home / "ledger")
        for life, killed in enumerate((True, False), start=1):

            def body(life: int = life, killed: bool = killed) -> None:
                write_to(ledger, life=life)
                live(home, killed=killed)

            code = fork(body, home / "log").end()
            expected = -signal.SIGKILL if killed else 0
            if code != expected:
                raise AssertionError(
                    f"exit {code} instead of {expected}: {(home / 'log').read_text()}"
                )
        lines = ledger.lines()
        ledger.close()
    effects = [line.label for line in lines if line.what is What.EFFECT]
    answers = [line.value for line in lines if line.what is What.DONE]
    return effects, answers == [list(STEPS)]


def _langgraph(home: Path, durability: Durability, *, killed: bool) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    with closing(sqlite3.connect(home / "saver.db", check_same_thread=False)) as connection:
        saver = (_KilledSaver if killed else SqliteSaver)(connection)
        graph = three_steps().compile(checkpointer=saver)
        answer = graph.invoke({"order": []} if killed else None, config, durability=durability)
        note(What.DONE, value=answer["order"])


def journaled(runs: int = 20) -> Beside:
    """Kill and resume the same graph at the same place, journaled, `runs` times."""
    return measure("notebook-agents", _journaled, runs)


def _journaled(home: Path, *, killed: bool) -> None:
    os.environ["JUPYTER_DATA_DIR"] = str(home / "data")
    if killed:
        DriverSaver.put = _deadly(DriverSaver.put)  # type: ignore[method-assign]
    with na.Journal.open(home / "journal") as journal:
        agent = na.Agent(three_steps(), name="three-steps", journal=journal)
        run = agent.run({"order": []}, thread="t") if killed else na.resume("t", journal=journal)
        note(What.DONE, value=run.value["order"])


def _deadly(put: Callable[..., Any]) -> Callable[..., Any]:
    """Return `put` in a process that dies at the one behind the second step."""

    @functools.wraps(put)
    def deadly(
        saver: DriverSaver, config: RunnableConfig, checkpoint: Any, metadata: Any, versions: Any
    ) -> Any:
        if metadata["step"] == len(RETURNED):
            os.kill(os.getpid(), signal.SIGKILL)
        return put(saver, config, checkpoint, metadata, versions)

    return deadly
