"""How long a killed run takes to go on: from the start of a process to its first new step."""

from __future__ import annotations

import operator
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph, add_messages

import notebook_agents as na

from .measure import ROOT, Bench, Cost, child, quartiles, sandbox
from .systems import OURS, SYNC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.runnables import RunnableConfig

BAR = 2.0
IMPORT = "import langgraph.graph"
THREAD = "killed"
STAMP = "BENCH_STAMP"
"""The variable that names the file into which the resumed step writes the time."""


class _State(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


def killed_graph(steps: int, *, chat: bool) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of `steps` steps that is killed in the last but one, unless it is resumed."""

    def work(state: _State) -> dict[str, Any]:
        n = state["n"] + 1
        if n == steps - 1:
            stamp = os.environ.get(STAMP)
            if stamp is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                Path(stamp).write_text(str(time.time_ns()))
        said = [HumanMessage(f"{n} " * 300)] if chat else []
        return {"n": n, "log": [f"step {n}"], "messages": said}

    builder = StateGraph(_State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges(
        "work", lambda state: "work" if state["n"] < steps else END, ["work", END]
    )
    return builder


def run(bench: Bench) -> None:
    """Report the time to the first new step against the time of LangGraph's own import."""
    steps = bench.size(100, 5)
    chats = (False,) if bench.small else (False, True)
    with sandbox() as home:
        for chat in chats:
            state = f"state of {steps} messages" if chat else "small state"
            journals = killed_journals(home, steps, chat=chat)
            saver = home / f"saver-{chat}"
            saver.mkdir()
            _kill(saver, steps, "sqlite", chat=chat)
            arms: dict[str, Callable[[], Cost]] = {
                IMPORT: partial(_import, home),
                SYNC: partial(_resume_saver, saver, steps, chat),
            }
            for name, journal in journals.items():
                arms[name] = partial(_resume, journal, home)
            work = f"resume of {steps} steps killed in step {steps - 1}, {state}: a new process, "
            work += "start to first new step"
            name = "resume-chat" if chat else "resume"
            costs = bench.compare(name, work, arms, rounds=11, unit="ms")
            _judge(bench, work, costs)


def _judge(bench: Bench, work: str, costs: dict[str, list[Cost]]) -> None:
    base = [cost.wall for cost in costs.pop(IMPORT)]
    for name, own in costs.items():
        ratios = [cost.wall / peer for cost, peer in zip(own, base, strict=True)]
        line = f"{work}, {name}, ÷ python -c '{IMPORT}'"
        middle = statistics.median(cost.wall for cost in own) / statistics.median(base)
        if name == SYNC:
            bench.say(f"  {line} {middle:.2f}{quartiles(ratios)}; for information")
        else:
            bench.judge(line, middle, BAR, spread=quartiles(ratios))


def killed_journals(home: Path, steps: int, *, chat: bool) -> dict[str, Path]:
    """Return journals of killed threads by where their records are."""
    fresh, ingested = home / f"chat-{chat}", home / f"chat-{chat}-ingested"
    _kill(fresh, steps, "agent", chat=chat)
    shutil.copytree(fresh, ingested)
    with na.Journal.open(ingested) as journal:
        journal.ingest()
    return {f"{OURS}, records in SQLite": fresh, f"{OURS}, records in DuckDB": ingested}


def _kill(folder: Path, steps: int, who: str, *, chat: bool) -> None:
    command = child("resume", who, folder, steps, int(chat))
    ended = subprocess.run(command, cwd=ROOT, check=False)
    if ended.returncode != -signal.SIGKILL:
        raise AssertionError(f"exit {ended.returncode} instead of a death by SIGKILL")


def _import(home: Path) -> Cost:
    began = time.time_ns()
    subprocess.run([sys.executable, "-c", IMPORT], cwd=home, check=True)
    return Cost((time.time_ns() - began) / 1e9)


def _resume(journal: Path, home: Path) -> Cost:
    """Resume a copy of a journal in an empty process, which rebuilds the graph."""
    copy = home / secrets.token_hex(4)
    shutil.copytree(journal, copy)
    program = Path(sys.executable).with_name("notebook-agents")
    return _until_stamp([program, "resume", THREAD, "--journal", copy], copy)


def _resume_saver(folder: Path, steps: int, chat: bool) -> Cost:
    """Resume a copy of a saver's file in a process that has the graph's code."""
    copy = folder.with_name(secrets.token_hex(4))
    shutil.copytree(folder, copy)
    return _until_stamp(child("resume", "sqlite", copy, steps, int(chat)), copy)


def _until_stamp(command: Sequence[str | Path], copy: Path) -> Cost:
    """Return the seconds from the start of a process to the first new step of its run."""
    stamp = copy.with_suffix(".stamp")
    env = {**os.environ, STAMP: str(stamp)}
    began = time.time_ns()
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return Cost((int(stamp.read_text()) - began) / 1e9)


def _run_agent(home: Path, steps: int, *, chat: bool) -> None:
    # Not a name of this module: the graph is then kept by value, as one from a notebook is.
    with na.Journal.open(home) as journal:
        agent = na.Agent(killed_graph(steps, chat=chat), name="bench", journal=journal)
        given = {"n": 0, "log": [], "messages": []}
        agent.run(given, thread=THREAD, config={"recursion_limit": 10 * steps})


def _run_saver(home: Path, steps: int, *, chat: bool) -> None:
    """Begin a run, or go on with it where it was begun."""
    config: RunnableConfig = {"configurable": {"thread_id": THREAD}, "recursion_limit": 10 * steps}
    with SqliteSaver.from_conn_string(str(home / "saver.sqlite")) as saver:
        graph = killed_graph(steps, chat=chat).compile(checkpointer=saver)
        given = None if STAMP in os.environ else {"n": 0, "log": [], "messages": []}
        graph.invoke(given, config, durability="sync")


if __name__ == "__main__":
    _run = {"agent": _run_agent, "sqlite": _run_saver}[sys.argv[1]]
    _run(Path(sys.argv[2]), int(sys.argv[3]), chat=sys.argv[4] == "1")
