"""What cannot be captured is named when the run starts, what cannot be rebuilt when it resumes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.checks import AGENTS, State, add, chain, refused, says, standing, told

import notebook_agents as na
from notebook_agents import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# -- graphs that cannot be captured, or not be rebuilt -----------------------------------------


def _lock_in_a_closure() -> Callable[[State], Any]:
    guard = threading.Lock()

    def node(state: State) -> State:
        with guard:
            return {"n": 1}

    return node


def _open_file_in_a_closure(path: Path) -> Callable[[State], Any]:
    file = path.open("w")

    def node(state: State) -> State:
        file.write("x")
        return {"n": 1}

    return node


def _connection_in_a_closure() -> Callable[[State], Any]:
    connection = sqlite3.connect(":memory:")

    def node(state: State) -> State:
        return {"n": connection.execute("SELECT 1").fetchone()[0]}

    return node


@pytest.mark.parametrize("make", ["lock", "file", "connection"])
def test_graph_that_cannot_be_captured(home, journal, done, tmp_path, make):
    """What cannot be kept is named when the run starts, with the object and why."""
    path = tmp_path / "notes.txt"
    node, variable, what = {
        "lock": lambda: (_lock_in_a_closure(), "guard", "lock"),
        "file": lambda: (_open_file_in_a_closure(path), "file", "open file"),
        "connection": lambda: (_connection_in_a_closure(), "connection", "database connection"),
    }[make]()
    agent = na.Agent(chain(node), "held", journal)
    with refused(home, errors.DefinitionError, "'held'", variable, what, "module"):
        agent.run({"n": 1}, thread="fresh")
    held = next(cell.cell_contents for cell in node.__closure__)
    if make != "lock":
        held.close()


def test_secret_inside_a_larger_string(home, journal, done, monkeypatch):
    """A secret that would get into the journal is named by its variable, never by its value."""
    secret = "sk-3f9a77b1c2d4"
    monkeypatch.setenv("SERVICE_TOKEN", secret)
    header = f"Bearer {secret}"

    def node(state: State) -> State:
        return {"n": len(header)}

    agent = na.Agent(chain(node), "calling", journal)
    with pytest.raises(errors.DefinitionError) as caught:
        agent.run({"n": 1}, thread="fresh")
    says(caught.value, "calling", "SERVICE_TOKEN")
    assert secret not in str(caught.value)
    assert secret.encode() not in b"".join(path.read_bytes() for path in home.iterdir())
    with pytest.raises(errors.UnknownThreadError):
        journal.thread("fresh")


def test_what_is_no_graph(home, journal, done):
    """An agent is not made of something else."""
    with refused(home, errors.DefinitionError, "StateGraph", "function"):
        na.Agent(add, "counter", journal)


IMPORTED = """
import gone
import notebook_agents as na

try:
    gone.agent.run({"n": 1}, thread="t")
except RuntimeError:
    pass
"""
BY_VALUE = """
from typing import TypedDict

from langgraph.graph import START, StateGraph

import gone
import notebook_agents as na


class State(TypedDict):
    n: int


def node(state):
    return gone.fragile(state)


graph = StateGraph(State)
graph.add_node("node", node)
graph.add_edge(START, "node")
try:
    na.Agent(graph, name="breaking").run({"n": 1}, thread="t")
except RuntimeError:
    pass
"""


@pytest.mark.parametrize("program", [IMPORTED, BY_VALUE], ids=["imported", "by value"])
def test_definition_that_cannot_be_rebuilt(python, cli, tmp_path, program):
    """Where a module is gone, the resume names it and changes nothing; put back, it goes on."""
    module = tmp_path / "gone.py"
    content = AGENTS.replace("breaking = ", "agent = breaking = ")
    module.write_text(content)
    home = tmp_path / ".notebook_agents"
    begun = python(program, script=True, BROKEN="1")
    assert begun.code == 0, begun.err
    before = standing(home)
    module.unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    stopped = cli("resume", "t")
    told(stopped, 2, "'t'", "gone")
    says(stopped.err.strip().removeprefix("notebook-agents: "))
    assert standing(home) == before

    module.write_text(content)
    resumed = cli("resume", "t", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["value"]["n"] == 10


@pytest.mark.parametrize("how", ["run", "resume"])
def test_pending_node_that_is_gone(home, journal, how):
    """A node that has to run next and was renamed is named; LangGraph alone would skip it."""
    broken = [True]

    def fetch(state: State) -> State:
        if broken:
            raise RuntimeError("out of order")
        return {"n": 7}

    def load(state: State) -> State:
        return {"n": 8}

    before = na.Agent(chain(add, fetch), "renaming", journal)
    with pytest.raises(RuntimeError, match="out of order"):
        before.run({"n": 1}, thread="t")
    after = na.Agent(chain(add, load), "renaming", journal)
    with refused(home, errors.DefinitionError, "'t'", "'fetch'"):
        after.run({"n": 1}, thread="t") if how == "run" else after.resume("t")
    broken.clear()
    assert before.resume("t").value["n"] == 7
