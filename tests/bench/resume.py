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
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph, add_messages

import notebook_agents as na

from .measure import ROOT, Bench, child, interleave, quartiles, sandbox

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
    with sandbox() as home:
        journals = _killed_journals(home, steps, chats=(False,) if bench.small else (False, True))
        arms = {IMPORT: partial(_import, home)}
        for name, journal in journals.items():
            arms[name] = partial(_resume, journal, home)
        times = interleave(bench, arms, rounds=11)
    base = statistics.median(times[IMPORT])
    bench.say(f'  python -c "{IMPORT}", start to end: {base:.3f} s{quartiles(times[IMPORT])}')
    for name in journals:
        ratios = [own / peer for own, peer in zip(times[name], times[IMPORT], strict=True)]
        middle = statistics.median(times[name])
        line = (
            f"notebook-agents resume, {steps} steps killed in step {steps - 1}, {name}: start to "
            f"first new step {middle:.3f} s, ratio"
        )
        bench.judge(line, middle / base, BAR, spread=quartiles(ratios))


def _killed_journals(home: Path, steps: int, *, chats: tuple[bool, ...]) -> dict[str, Path]:
    """Return journals of killed threads by what there is to say of them."""
    journals = {}
    for chat in chats:
        state = "state of 100 messages" if chat else "small state"
        fresh, ingested = home / f"chat-{chat}", home / f"chat-{chat}-ingested"
        ended = subprocess.run(child("resume", fresh, steps, int(chat)), cwd=ROOT, check=False)
        if ended.returncode != -signal.SIGKILL:
            raise AssertionError(f"exit {ended.returncode} instead of a death by SIGKILL")
        shutil.copytree(fresh, ingested)
        with na.Journal.open(ingested) as journal:
            journal.ingest()
        journals[f"{state}, records in SQLite"] = fresh
        journals[f"{state}, records in DuckDB"] = ingested
    return journals


def _import(home: Path) -> float:
    began = time.time_ns()
    subprocess.run([sys.executable, "-c", IMPORT], cwd=home, check=True)
    return (time.time_ns() - began) / 1e9


def _resume(journal: Path, home: Path) -> float:
    """Resume a copy of a journal; return the seconds to the first new step."""
    copy = home / secrets.token_hex(4)
    shutil.copytree(journal, copy)
    stamp = copy.with_suffix(".stamp")
    command = Path(sys.executable).with_name("notebook-agents")
    began = time.time_ns()
    subprocess.run(
        [command, "resume", THREAD, "--journal", copy],
        cwd=copy.parent,
        env={**os.environ, STAMP: str(stamp)},
        check=True,
        capture_output=True,
    )
    return (int(stamp.read_text()) - began) / 1e9


def _be_killed(home: Path, steps: int, *, chat: bool) -> None:
    # Not a name of this module: the graph is then kept by value, as one from a notebook is.
    with na.Journal.open(home) as journal:
        agent = na.Agent(killed_graph(steps, chat=chat), name="bench", journal=journal)
        given = {"n": 0, "log": [], "messages": []}
        agent.run(given, thread=THREAD, config={"recursion_limit": 10 * steps})


if __name__ == "__main__":
    _be_killed(Path(sys.argv[1]), int(sys.argv[2]), chat=sys.argv[3] == "1")
