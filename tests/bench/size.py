"""How large the files become for a conversation that grows at every step."""

from __future__ import annotations

import base64
import json
import os
import pydoc_data.topics
import re
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph, add_messages

import notebook_agents as na

from .measure import ROOT, Bench, child, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

BAR = 2.0
MESSAGE_BYTES = 1024


class _State(TypedDict):
    n: int
    messages: Annotated[list[AnyMessage], add_messages]


def _words(rng: Random) -> str:
    """Return English words in no order, as often as Python's own manual uses them."""
    found: list[str] = []
    while len(" ".join(found)) < MESSAGE_BYTES:
        found += rng.choices(_VOCABULARY, k=20)
    return " ".join(found)[:MESSAGE_BYTES]


_VOCABULARY = re.findall(r"[A-Za-z]+[.,]?", " ".join(pydoc_data.topics.topics.values()))
TEXTS: dict[str, Callable[[Random], str]] = {
    "random words": _words,
    "random hex": lambda rng: rng.randbytes(MESSAGE_BYTES // 2).hex(),
    "random base64": lambda rng: base64.b64encode(rng.randbytes(MESSAGE_BYTES * 3 // 4)).decode(),
}


def conversation(steps: int, text: Callable[[], str]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of `steps` steps, each of which adds a question and an answer."""

    def turn(state: _State) -> dict[str, Any]:
        return {"n": state["n"] + 1, "messages": [HumanMessage(text()), AIMessage(text())]}

    builder = StateGraph(_State)
    builder.add_node("turn", turn)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if state["n"] < steps else END, ["turn", END]
    )
    return builder


def run(bench: Bench) -> None:
    """Report the files' size against the size of the messages in them."""
    steps = bench.size(500, 5)
    seed = bench.rng.randrange(2**32)
    content = steps * 2 * MESSAGE_BYTES
    bench.say(f"  {steps} steps with two messages of {MESSAGE_BYTES} bytes: {content:,} bytes")
    with sandbox() as home:
        for kind in list(TEXTS)[: bench.size(len(TEXTS), 1)]:
            for ending in ("closed", "killed"):
                folder = home / f"{kind}-{ending}"
                _spawn(folder, kind, ending, steps, seed)
                _report(bench, folder, kind, ending, content)
        folder = home / "sqlite"
        folder.mkdir()
        _spawn(folder, "random words", "sqlite", steps, seed)
        total = sum(_files(folder).values())
    bench.say(f"  SqliteSaver, random words, closed: {total:,} bytes, ÷ content {total / content:.1f}")


def _report(bench: Bench, folder: Path, kind: str, ending: str, content: int) -> None:
    files = _files(folder)
    total = sum(files.values())
    shown = ", ".join(f"{name} {number:,}" for name, number in files.items() if number)
    line = f"Agent, {kind}, {'closed' if ending == 'closed' else 'SIGKILL'}: {total:,} bytes ({shown})"
    if kind == "random words" and not bench.small:
        bench.judge(f"{line}, ÷ content", total / content, BAR)
    else:
        bench.say(f"  {line}, ÷ content {total / content:.2f}; for information")


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _spawn(folder: Path, kind: str, ending: str, steps: int, seed: int) -> None:
    arguments = json.dumps([str(folder), kind, ending, steps, seed])
    ended = subprocess.run(child("size", arguments), cwd=ROOT, check=False)
    expected = -signal.SIGKILL if ending == "killed" else 0
    if ended.returncode != expected:
        raise AssertionError(f"exit {ended.returncode} instead of {expected}")


def _run_once(folder: Path, kind: str, ending: str, steps: int, seed: int) -> None:
    rng = Random(seed)
    builder = conversation(steps, lambda: TEXTS[kind](rng))
    given: dict[str, Any] = {"n": 0, "messages": []}
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "recursion_limit": 2 * steps}
    if ending == "sqlite":
        with SqliteSaver.from_conn_string(str(folder / "saver.sqlite")) as saver:
            builder.compile(checkpointer=saver).invoke(given, config, durability="sync")
        return
    with na.Journal.open(folder) as journal:
        agent = na.Agent(builder, name="bench", journal=journal)
        agent.run(given, thread="t", config={"recursion_limit": 2 * steps})
        if ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _folder, *_rest = json.loads(sys.argv[1])
    _run_once(Path(_folder), *_rest)
