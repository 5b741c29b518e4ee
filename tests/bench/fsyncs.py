"""How often a run waits for the disk, counted by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

import notebook_agents as na

from .measure import ROOT, Bench, child, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

BAR = 0.02
LOG = "queue.sqlite-wal"
CALLS_EVERY = 5
"""Every so many nodes there is one with a durable call inside."""
_BEGIN, _END = "bench-run-begins", "bench-run-ends"
# A question mark lets strace go on where the machine does not have that system call.
_TRACED = "fsync,fdatasync,?access,?faccessat,?faccessat2"
_SYNC = re.compile(r"\bf(?:data)?sync\(\d+<([^>]*)>")


class _State(TypedDict):
    n: int


@na.step
def _call(n: int) -> int:
    return n + 1


def chain(nodes: int, call: Callable[[int], int]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of `nodes` nodes in a row; some of them make one `call`."""

    def plain(state: _State) -> dict[str, int]:
        return {"n": state["n"] + 1}

    def calling(state: _State) -> dict[str, int]:
        return {"n": call(state["n"])}

    builder = StateGraph(_State)
    names = [f"node{number}" for number in range(nodes)]
    for number, name in enumerate(names):
        builder.add_node(name, plain if number % CALLS_EVERY else calling)
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder


def run(bench: Bench) -> None:
    """Report the fsyncs of a run against the number of its nodes and durable calls."""
    nodes = bench.size(500, 20)
    calls = len(range(0, nodes, CALLS_EVERY))
    if shutil.which("strace") is None:
        bench.say("  not measured: strace is not installed (apt install strace)")
        return
    with sandbox() as home:
        try:
            ours, sqlite = (_syncs(home, who, nodes) for who in ("agent", "sqlite"))
        except subprocess.CalledProcessError as error:
            bench.say(f"  not measured: strace failed here ({error.stderr.strip()[-300:]})")
            return
    expected, found = nodes + calls, ours[LOG]
    bench.verdict(
        f"Agent, {nodes} nodes in a row and {calls} durable calls in them: {found} fsyncs of {LOG} "
        f"÷ {expected} = {found / expected:.3f}; bar 1 ± {BAR}",
        met=abs(found - expected) <= BAR * expected,
    )
    bench.say(f"  all fsyncs of that run, by file: {_shown(ours)}")
    bench.say(f"  SqliteSaver sync, {nodes} nodes without durable calls, by file: {_shown(sqlite)}")


def _shown(found: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.most_common()) or "none"


def _syncs(home: Path, who: str, nodes: int) -> Counter[str]:
    """Return how often each file was synced in a child's run."""
    trace = home / f"{who}.strace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-e",
            f"trace={_TRACED}",
            "-o",
            trace,
            *child("fsyncs", who, home, nodes),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    text = trace.read_text(errors="replace")
    during = text.partition(_BEGIN)[2].partition(_END)[0]
    return Counter(Path(path).name for path in _SYNC.findall(during))


def _run_once(who: str, home: Path, nodes: int) -> None:
    """Run the graph; system calls that ask for files that do not exist stand around it."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": nodes + 10}
    if who == "agent":
        with na.Journal.open(home / "journal") as journal:
            agent = na.Agent(chain(nodes, _call), name="bench", journal=journal)
            os.access(home / _BEGIN, os.F_OK)
            agent.run({"n": 0}, thread="t", config={"recursion_limit": nodes + 10})
            os.access(home / _END, os.F_OK)
        return
    with SqliteSaver.from_conn_string(str(home / "saver.sqlite")) as saver:
        saver.setup()
        graph = chain(nodes, lambda n: n + 1).compile(checkpointer=saver)
        os.access(home / _BEGIN, os.F_OK)
        graph.invoke({"n": 0}, config, durability="sync")
        os.access(home / _END, os.F_OK)


if __name__ == "__main__":
    _run_once(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
