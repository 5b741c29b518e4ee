"""How large the files become for a conversation that grows at every step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph, add_messages

from .measure import ROOT, Bench, child, sandbox
from .systems import ASYNC, EXCLUSIVE, OURS, SYNC, SYSTEMS
from .texts import BYTES, KINDS, say
from .weights import files, note, noted

if TYPE_CHECKING:
    from collections.abc import Callable

    from .systems import Builder

BARS = {"closed": 1.5, "killed": 2.0}
JUDGED = "random words"
MARKS = 50
"""How often the files are weighed during a run."""


class _State(TypedDict):
    n: int
    messages: Annotated[list[AnyMessage], add_messages]


def conversation(
    steps: int, kind: str, seed: int, *, begun: Callable[[int], None] | None = None
) -> Builder:
    """Return a graph of `steps` steps, each of which adds a question and an answer.

    Args:
        steps: How many.
        kind: One of `KINDS`.
        seed: The same seed makes the same texts.
        begun: Called as each step begins, with how many have ended.
    """

    def turn(state: _State) -> dict[str, Any]:
        n = state["n"]
        if begun:
            begun(n)
        said = [HumanMessage(say(kind, seed, n, 0)), AIMessage(say(kind, seed, n, 1))]
        return {"n": n + 1, "messages": said}

    builder = StateGraph(_State)
    builder.add_node("turn", turn)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if state["n"] < steps else END, ["turn", END]
    )
    return builder


def run(bench: Bench) -> None:
    """Report the files' size against the size of the messages in them."""
    steps, seed = bench.size(500, 5), bench.rng.randrange(2**32)
    content = steps * 2 * BYTES
    bench.say(f"  {steps} steps with two messages of {BYTES} bytes: {content:,} bytes of content")
    every = range(1, steps + 1, max(steps // MARKS, 1))
    series = {"the messages themselves": [(step, step * 2 * BYTES) for step in every]}
    with sandbox() as home:
        for ending in BARS:
            found = {}
            for system in (OURS, EXCLUSIVE, SYNC, ASYNC):
                over, ratio = _weigh(bench, home, system, JUDGED, ending, steps, seed)
                found[system] = {"values": [ratio], "cpu": []}
                if ending == "killed":
                    series[system] = over
            after = "closed" if ending == "closed" else "after a SIGKILL"
            work = f"all files after {steps} steps of a growing conversation, {after}"
            bench.row(f"size-{ending}", work, "bytes ÷ content", found)
        for kind in [kind for kind in KINDS if kind != JUDGED][: bench.size(len(KINDS), 0)]:
            for ending in BARS:
                _weigh(bench, home, OURS, kind, ending, steps, seed)
    bench.kept["files"] = series


def _weigh(
    bench: Bench, home: Path, system: str, kind: str, ending: str, steps: int, seed: int
) -> tuple[list[tuple[int, int]], float]:
    """Run the conversation in a process; return its files' bytes over the steps, and ÷ content."""
    folder = home / f"{system}-{kind}-{ending}"
    folder.mkdir()
    over = _spawn(folder, system, kind, ending, steps, seed)
    content = steps * 2 * BYTES
    found = files(folder)
    total = sum(found.values())
    shown = ", ".join(f"{name} {number:,}" for name, number in found.items() if number)
    line = f"{system}, {kind}, {steps} steps, {ending}: {total:,} bytes ({shown}), ÷ content"
    if kind == JUDGED and system in (OURS, EXCLUSIVE):
        bench.judge(line, total / content, BARS[ending])
    else:
        bench.say(f"  {line} {total / content:.2f}; for information")
    if system == OURS:
        most = max(size / (step * 2 * BYTES) for step, size in over[-MARKS // 5 :] if step)
        bench.say(f"  its most during the last fifth of the run, ÷ content until then: {most:.2f}")
    shutil.rmtree(folder)
    return [*over, (steps, total)], total / content


def _spawn(
    folder: Path, system: str, kind: str, ending: str, steps: int, seed: int
) -> list[tuple[int, int]]:
    arguments = json.dumps([str(folder), system, kind, ending, steps, seed])
    command = child("size", arguments)
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    expected = -signal.SIGKILL if ending == "killed" else 0
    if ended.returncode != expected:
        raise AssertionError(f"exit {ended.returncode} instead of {expected}")
    return [(step, size) for step, size in json.loads(ended.stdout)]


def _run_once(place: str, system: str, kind: str, ending: str, steps: int, seed: int) -> None:
    every = max(steps // MARKS, 1)

    def begun(ended: int) -> None:
        if ended % every == 0:
            note(place, ended)

    with SYSTEMS[system](Path(place)) as opened:
        opened.run(conversation(steps, kind, seed, begun=begun), {"n": 0, "messages": []})
        print(json.dumps(noted), flush=True)
        if ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _run_once(*json.loads(sys.argv[1]))
