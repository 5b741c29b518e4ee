"""How large the files become for a conversation that grows at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph, add_messages

import notebook_agents as na
from notebook_agents.runtime.events import observe

from .measure import ROOT, Bench, child, sandbox
from .texts import BYTES, KINDS, say

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from notebook_agents.runtime.events import StepEvent

BARS = {"closed": 1.5, "killed": 2.0}
JUDGED = "random words"


class _State(TypedDict):
    n: int
    messages: Annotated[list[AnyMessage], add_messages]


def conversation(steps: int, kind: str, seed: int) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of `steps` steps, each of which adds a question and an answer."""

    def turn(state: _State) -> dict[str, Any]:
        n = state["n"]
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
    with sandbox() as home:
        for kind in list(KINDS)[: bench.size(len(KINDS), 1)]:
            for ending in ("closed", "killed"):
                folder = home / f"{kind}-{ending}"
                said = _spawn(folder, kind, ending, steps, seed)
                _report(bench, folder, kind, ending, content)
                if said:
                    bench.say(f"    most at the end of one of its last {steps // 5} steps: {said}")
        folder = home / "sqlite"
        folder.mkdir()
        _spawn(folder, JUDGED, "sqlite", steps, seed)
        total = sum(_files(folder).values())
    bench.say(f"  SqliteSaver, {JUDGED}, closed: {total:,} bytes, ÷ content {total / content:.1f}")


def _report(bench: Bench, folder: Path, kind: str, ending: str, content: int) -> None:
    files = _files(folder)
    total = sum(files.values())
    shown = ", ".join(f"{name} {number:,}" for name, number in files.items() if number)
    after = "closed" if ending == "closed" else "after a SIGKILL"
    line = f"Agent, {kind}, {after}: {total:,} bytes ({shown}), ÷ content"
    if kind == JUDGED:
        bench.judge(line, total / content, BARS[ending])
    else:
        bench.say(f"  {line} {total / content:.2f}; for information")


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _spawn(folder: Path, kind: str, ending: str, steps: int, seed: int) -> str:
    """Run the conversation in a child; return what it says."""
    arguments = json.dumps([str(folder), kind, ending, steps, seed])
    command = child("size", arguments)
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    expected = -signal.SIGKILL if ending == "killed" else 0
    if ended.returncode != expected:
        raise AssertionError(f"exit {ended.returncode} instead of {expected}")
    return ended.stdout.strip()


def _run_once(folder: Path, kind: str, ending: str, steps: int, seed: int) -> None:
    builder = conversation(steps, kind, seed)
    given: dict[str, Any] = {"n": 0, "messages": []}
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 2 * steps}
    if ending == "sqlite":
        with SqliteSaver.from_conn_string(str(folder / "saver.sqlite")) as saver:
            builder.compile(checkpointer=saver).invoke(given, config, durability="sync")
        return
    ratios: list[float] = []

    def look(event: StepEvent) -> None:
        if event.what == "returned":
            ratios.append(sum(_files(folder).values()) / ((len(ratios) + 1) * 2 * BYTES))

    with na.Journal.open(folder) as journal:
        agent = na.Agent(builder, name="bench", journal=journal)
        with observe(look):
            agent.run(given, thread="t", config={"recursion_limit": 2 * steps})
        if ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    print(f"{max(ratios[-steps // 5 :]):.2f} × the content until then")


if __name__ == "__main__":
    _folder, *_rest = json.loads(sys.argv[1])
    _run_once(Path(_folder), *_rest)
