"""Many processes on one journal: what an intent's commit takes while others write and read."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any, TypedDict

from langgraph.graph import END, START, StateGraph

import notebook_agents as na
from notebook_agents.model import Kind

from .measure import ROOT, Bench, child, sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITERS, READERS, STEPS = 8, 2, 500
PAUSE = 0.05
"""Seconds between a reader's questions: each has DuckDB take over what is new."""
BARS = {"p50": 1.5, "p99": 50.0, "max": 250.0}


class _State(TypedDict):
    n: int


@na.step
def work(number: int) -> int:
    """Be a durable step."""
    return number


def run(bench: Bench) -> None:
    """Run writers beside readers, count what is there afterwards, judge the commits' times."""
    writers, steps = bench.size(WRITERS, 2), bench.size(STEPS, 20)
    with sandbox() as folder:
        home = folder / "journal"
        with na.Journal.open(home):
            pass
        readers = [Popen(child("many", "read", home, folder / "stop"), cwd=ROOT) for _ in "ab"]
        begun = time.monotonic()
        writing = [
            Popen(child("many", "write", home, f"t{n}", steps, folder / f"{n}.json"), cwd=ROOT)
            for n in range(writers)
        ]
        failed = [process.wait() for process in writing]
        seconds = time.monotonic() - begun
        (folder / "stop").touch()
        failed += [process.wait() for process in readers]
        assert not any(failed), failed
        took = [ms for n in range(writers) for ms in json.loads((folder / f"{n}.json").read_text())]
        lost, disorder = _missing(home, [f"t{n}" for n in range(writers)], steps)
    bench.say(
        f"  {writers} processes of {steps} durable steps beside {READERS} that read in bursts: "
        f"{seconds:.1f} s, imports included"
    )
    bench.judge("results lost", lost, 0)
    bench.judge("results out of order within a thread", disorder, 0)
    _report(bench, took)


def _report(bench: Bench, took: Sequence[float]) -> None:
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(took))):
        bench.judge(f"commit of an intent, {name} of {len(took)}, ms", value, BARS[name])


def _missing(home: Path, threads: Sequence[str], steps: int) -> tuple[int, int]:
    """Return how many results are missing, and how many threads have theirs in another order."""
    lost = disorder = 0
    with na.Journal.open(home) as journal:
        for thread in threads:
            view = na.Run(journal, thread, 1)
            lost += steps - sum(step.name == "work" for step in view.steps)
            returned = [
                record.step
                for record in journal.select(thread=thread, kinds=[Kind.STEP_RETURNED])
                if record.name == "work"
            ]
            disorder += returned != [step.id for step in view.steps if step.name == "work"]
            lost += view.value != {"n": steps}
    return lost, disorder


def write(home: Path, thread: str, steps: int, out: Path) -> None:
    """Be a writer."""

    def node(state: _State) -> dict[str, Any]:
        return {"n": sum(work(number) >= 0 for number in range(steps))}

    took: list[float] = []
    with na.Journal.open(home) as journal:
        append = journal.append

        def timed(drafts: Any, *, durable: bool) -> None:
            begun = time.perf_counter()
            append(drafts, durable=durable)
            if any(draft.kind is Kind.STEP_INTENDED for draft in drafts):
                took.append((time.perf_counter() - begun) * 1e3)

        journal.append = timed  # type: ignore[method-assign]
        builder = StateGraph(_State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        na.Agent(builder, f"many-{thread}", journal).run({"n": 0}, thread=thread)
    out.write_text(json.dumps(took))


def read(home: Path, stop: Path) -> None:
    """Be a reader: ask for all of the history again and again."""
    os.nice(5)
    with na.Journal.open(home) as journal:
        while not stop.exists():
            journal.sql("SELECT thread, count(*) FROM steps GROUP BY thread")
            time.sleep(PAUSE)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
