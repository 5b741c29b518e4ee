"""A folder with agents, and the command line run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from notebook_agents.cli.app import app

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from pathlib import Path

AGENTS = '''
import operator, os
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

import notebook_agents as na

HERE = Path(__file__).parent


class State(TypedDict, total=False):
    question: str
    n: int
    done: Annotated[list, operator.add]


@na.step
def note(what):
    with open(HERE / "ledger", "a") as ledger:
        ledger.write(f"{what}\\n")
    return what


@na.step(at_most_once=True)
def charge():
    block()
    return "paid"


def block():
    """Wait until somebody writes, unless the way is free."""
    if not (HERE / "free").exists():
        (HERE / "gate").read_bytes()


def first(state):
    return {"done": [note("first")]}


def second(state):
    block()
    return {"done": [note("second")]}


def fail(state):
    if not (HERE / "mended").exists():
        raise ValueError("no [bold]report[/bold]")
    return {"done": ["mended"]}


def ask(state):
    return {"done": [interrupt("sure?")]}


def pay(state):
    return {"done": [charge()]}


def part(state):
    block()
    return {"done": [note(state["n"])]}


def fan(state):
    return [Send("part", {"n": n}) for n in range(state["n"])]


def chain(*nodes, name):
    graph = StateGraph(State)
    for node in nodes:
        graph.add_node(node)
    names = [START, *(node.__name__ for node in nodes), END]
    for one, two in zip(names, names[1:]):
        graph.add_edge(one, two)
    return graph.compile(name=name)


quick = chain(first, name="quick")
research = na.Agent(chain(first, name="research"))
slow = na.Agent(chain(first, second, name="slow"))
failing = na.Agent(chain(first, fail, name="failing"))
asking = na.Agent(chain(ask, name="asking"))
paying = na.Agent(chain(pay, name="paying"))

wide_graph = StateGraph(State)
wide_graph.add_node(part)
wide_graph.add_conditional_edges(START, fan, ["part"])
wide = na.Agent(wide_graph.compile(name="wide"))
number = 5
'''

# The console script, without the working folder on the path as `python -m` would put it there.
COMMAND = [sys.executable, "-P", "-c", "from notebook_agents.cli import main; main()"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with agents, a key of its own and no journal yet."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "agents.py").write_text(AGENTS)
    os.mkfifo(folder / "gate")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NOTEBOOK_AGENTS_HOME")  # the journal is found in the folder
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def cli(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, input=given, timeout=60
    )


def inside(*words: str) -> Result:
    """Run the command line in this process: no other Python has to start."""
    for name in ("agents", "mypackage", "broken"):
        sys.modules.pop(name, None)
    return CliRunner().invoke(app, words)


def threads() -> dict[str, dict[str, Any]]:
    """Return what `list --json` says, by thread."""
    return {info["thread"]: info for info in json.loads(inside("list", "--json").stdout)}


class Driving:
    """A command that runs until it is stopped."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = ""

    def until(self, line: str) -> None:
        """Wait until the command says a line on stderr."""
        assert self.process.stderr is not None
        for said in self.process.stderr:
            self.said += said
            if said.strip() == line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.said}")

    def stop(self, number: signal.Signals, *, again: bool = False) -> tuple[int, str]:
        """Send a signal, once or until it ends; return the exit code and what was said then."""
        self.process.send_signal(number)
        while again and self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def drive() -> Iterator[type[Driving]]:
    """Start commands, and leave none behind."""
    started: list[Driving] = []

    class Kept(Driving):
        def __init__(self, *words: str) -> None:
            super().__init__(*words)
            started.append(self)

    yield Kept
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
