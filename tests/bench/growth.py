"""How large the files become where state is hard to store small, and what a late step costs."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.sqlite import SqliteSaver

import notebook_agents as na

from .cases import CASES, TOKENS, talk
from .measure import ROOT, Bench, child, interleave, quartiles, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

BARS = {"closed": 1.5, "killed": 2.0}
STEPS = {
    "files": 20,
    "split_files": 20,
    "small_files": 20,
    "images": 20,
    "repeated": 500,
    "delta": 500,
    "long": 100,
}
HARDER = {"repeated"}  # harder than what a bar was set for
EARLY, LATE = 20, 2000
COST_BAR = 3.0
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)


def run(bench: Bench) -> None:
    """Report sizes, the memory of a long conversation, and what a step costs late in one."""
    seed = bench.rng.randrange(2**32)
    for name in list(STEPS)[: bench.size(len(STEPS), 1)]:
        _case(bench, name, bench.size(STEPS[name], 2), seed)
    _cost(bench, seed)


def _case(bench: Bench, name: str, steps: int, seed: int) -> None:
    case = CASES[name](seed, steps)
    about = (CASES[name].__doc__ or "").removeprefix("Return ").partition(".")[0]
    bench.say(f"  {name}, {steps} rounds: {about}; {case.content:,} bytes of content")
    with sandbox() as home:
        for ending in ("closed", "killed", "sqlite"):
            folder = home / ending
            folder.mkdir()
            resident = _spawn(folder, name, ending, steps, seed)
            files = {path.name: path.stat().st_size for path in folder.rglob("*")}
            ratio = sum(files.values()) / case.content
            if ending == "sqlite":
                bench.say(f"    SqliteSaver, closed: ÷ content {ratio:.1f}")
            else:
                after = "closed" if ending == "closed" else "after a SIGKILL"
                main = max(files, key=lambda file: files[file])
                line = f"  Agent, {name}, {after}: {sum(files.values()):,} bytes ({main} "
                line += f"{files[main]:,}), ÷ content"
                if name in HARDER:
                    bench.say(f"  {line} {ratio:.2f}; for information")
                else:
                    bench.judge(line, ratio, 2.0 if name == "long" else BARS[ending])
            if name == "long":
                _memory(bench, ending, resident, case.content)


def _memory(bench: Bench, ending: str, resident: list[int], content: int) -> None:
    """Say how resident memory grew while calls went on: a fifth of the run against the last.

    Their medians: LangChain makes a string of all messages for each call, and drops it.
    """
    fifth = len(resident) // 5
    if not fifth:
        return
    early = int(statistics.median(resident[fifth : 2 * fifth]))
    late = int(statistics.median(resident[-fifth:]))
    line = f"{TOKENS:,} tokens, {ending}: {early:,} KB resident in the second fifth of the run, "
    line += f"{late:,} KB in the last (at most {max(resident):,}); grown by, ÷ content"
    if ending == "sqlite":
        bench.say(f"    {line} {(late - early) * 1024 / content:.2f}")
    else:
        bench.judge(line, (late - early) * 1024 / content, 2.0)


def _spawn(folder: Path, name: str, ending: str, steps: int, seed: int) -> list[int]:
    """Run a case in a child; return its resident memory in KB, a sample each tenth of a second."""
    arguments = json.dumps([str(folder), name, ending, steps, seed])
    command = child("growth", arguments)
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    expected = -signal.SIGKILL if ending == "killed" else 0
    if ended.returncode != expected:
        raise AssertionError(f"exit {ended.returncode} instead of {expected}")
    resident: list[int] = json.loads(ended.stdout)
    return resident


def _run_once(folder: Path, name: str, ending: str, steps: int, seed: int) -> None:
    case = CASES[name](seed, steps)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 10 * steps}
    resident: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            found = _RESIDENT.search(Path("/proc/self/status").read_text())
            resident.append(int(found[1]) if found else 0)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        if ending == "sqlite":
            with SqliteSaver.from_conn_string(str(folder / "saver.sqlite")) as saver:
                graph = case.builder.compile(checkpointer=saver)
                graph.invoke(case.given, config, durability="sync")
        else:
            journal = na.Journal.open(folder)
            agent = na.Agent(case.builder, name="bench", journal=journal)
            agent.run(case.given, thread="t", config={"recursion_limit": 10 * steps})
    finally:
        over.set()
        watcher.join()
    print(json.dumps(resident), flush=True)
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif ending == "closed":
        journal.close()


def _cost(bench: Bench, seed: int) -> None:
    """Compare a step of a conversation of 2,000 messages with one of 20."""
    late = bench.size(LATE, 40)
    arms: dict[str, Callable[[], float]] = {
        f"{saver} {count}": lambda saver=saver, count=count: _step(saver, count, seed)  # type: ignore[misc]
        for saver in ("Agent", "SqliteSaver", "no saver")
        for count in (EARLY, late)
    }
    with sandbox():
        found = interleave(bench, arms, rounds=5)
    for saver in ("Agent", "SqliteSaver", "no saver"):
        early, grown = found[f"{saver} {EARLY}"], found[f"{saver} {late}"]
        ratios = [b / a for a, b in zip(early, grown, strict=True)]
        line = f"{saver}: a step takes {statistics.median(early):.2f} ms at message {EARLY}, "
        line += f"{statistics.median(grown):.2f} ms at message {late}, ratio"
        if saver == "Agent":
            spread = quartiles(ratios)
            bench.judge(line, statistics.median(ratios), COST_BAR, spread=spread)
        else:
            bench.say(f"  {line} {statistics.median(ratios):.1f}")


def _step(saver: str, count: int, seed: int) -> float:
    """Return the median time of a step from message `count` on, in milliseconds."""
    times: list[float] = []
    steps = 30
    case = talk(seed, steps, before=count, told=lambda: times.append(time.perf_counter()))
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 10 * steps}
    with TemporaryDirectory() as folder:
        if saver == "Agent":
            with na.Journal.open(folder) as journal:
                agent = na.Agent(case.builder, name="bench", journal=journal)
                agent.run(case.given, thread="t", config={"recursion_limit": 10 * steps})
        elif saver == "SqliteSaver":
            with SqliteSaver.from_conn_string(f"{folder}/saver.sqlite") as sqlite:
                graph = case.builder.compile(checkpointer=sqlite)
                graph.invoke(case.given, config, durability="sync")
        else:
            case.builder.compile().invoke(case.given, config)
    gaps = [after - before for before, after in itertools.pairwise(times[3:])]
    return statistics.median(gaps) * 1000


if __name__ == "__main__":
    _folder, *_rest = json.loads(sys.argv[1])
    _arguments: Any = _rest
    _run_once(Path(_folder), *_arguments)
