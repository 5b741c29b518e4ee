"""A run is resumed by an empty process: all that it needs of `__main__` comes from the journal.

One script leaves every run of this module behind unfinished and kills itself; one empty process
then resumes them all. Each test looks at one of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = '''
import enum
import functools
import json as js
import operator
import os
import signal
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Send, interrupt
from pydantic import BaseModel

import notebook_agents as na

FACTOR = 10
SECRET = os.environ["SERVICE_TOKEN"]


class Color(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    color: Color = Color.RED


@dataclass
class Leaf:
    name: str
    points: list[int] = field(default_factory=list)


class Typed(TypedDict, total=False):
    n: int
    point: Point
    leaf: Leaf
    color: Color
    rows: Annotated[list[Leaf], operator.add]
    said: Annotated[list[str], operator.add]


class Modelled(BaseModel):
    n: int = 0
    point: Point | None = None
    leaf: Leaf | None = None
    color: Color = Color.RED


@dataclass
class Classed:
    n: int = 0
    point: Point | None = None
    leaf: Leaf | None = None
    color: Color = Color.RED


def helper(n):
    return js.loads(js.dumps(n)) * FACTOR


def ledger(line):
    with open(os.environ["LEDGER"], "a") as file:
        file.write(line + "\\n")


def get(state, name):
    return state[name] if isinstance(state, dict) else getattr(state, name)


def first(kind, state):
    ledger(f"{kind} first")
    return {"n": 3, "point": Point(x=1), "leaf": Leaf("a", [1, 2]), "color": Color.RED}


def second(state):
    if "BROKEN" in os.environ:
        raise RuntimeError("out of order")
    assert isinstance(get(state, "point"), Point), type(get(state, "point"))
    assert isinstance(get(state, "leaf"), Leaf)
    assert get(state, "leaf").points == [1, 2]
    assert get(state, "color") is Color.RED
    return {"n": helper(get(state, "n"))}


def graph_of(schema, kind):
    graph = StateGraph(schema)
    graph.add_node("first", functools.partial(first, kind))
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_conditional_edges("first", lambda state: "second", ["second"])
    graph.add_edge("second", END)
    return graph


class Worker:
    """A node that is an object."""

    def __init__(self, times):
        self.times = times

    def __call__(self, state):
        if "BROKEN" in os.environ and state["n"] == 2:
            raise RuntimeError("out of order")
        ledger(f"fan-out {state['n']}")
        return {"rows": [Leaf(str(state["n"] * self.times))]}


def fan_out():
    graph = StateGraph(Typed)
    graph.add_node("one", Worker(2))
    graph.add_conditional_edges(
        START, lambda state: [Send("one", {"n": n}) for n in range(4)], ["one"]
    )
    return graph


def compiled():
    def said(state, *, store):
        item = store.get(("facts",), "answer")
        return {"said": [f"store {None if item is None else item.value['is']}"]}

    store = InMemoryStore()
    store.put(("facts",), "answer", {"is": 42})
    graph = StateGraph(Typed)
    graph.add_node("one", lambda state: {"said": ["one"]})
    graph.add_node("two", said)
    graph.add_node("three", lambda state: {"said": ["three"]})
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.add_edge("two", "three")
    return graph.compile(
        store=store, interrupt_before=["two"], interrupt_after=["two"], name="held"
    )


def nested():
    graph = StateGraph(Typed)
    graph.add_node("inner", graph_of(Typed, "nested").compile())
    graph.add_edge(START, "inner")
    return graph


@na.step
def call(leaf):
    ledger("call")
    return Leaf(leaf.name * 2)


@entrypoint()
def flow(leaf: Leaf) -> Leaf:
    found = call(leaf)
    if "BROKEN" in os.environ:
        raise RuntimeError("out of order")
    return found


def token():
    graph = StateGraph(Typed)

    def node(state):
        if "BROKEN" in os.environ:
            raise RuntimeError("out of order")
        return {"said": [f"{len(SECRET)} characters"]}

    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph


def asking():
    graph = StateGraph(Typed)
    graph.add_node("ask", lambda state: {"point": interrupt(Point(x=7))})
    graph.add_edge(START, "ask")
    return graph


runs = {
    "typed": (graph_of(Typed, "typed"), {"n": 0}),
    "modelled": (graph_of(Modelled, "modelled"), {"n": 0}),
    "classed": (graph_of(Classed, "classed"), Classed()),
    "fan-out": (fan_out(), {"n": 0}),
    "compiled": (compiled(), {"n": 0}),
    "nested": (nested(), {"n": 0}),
    "flow": (flow, Leaf("ab")),
    "token": (token(), {"n": 0}),
    "asking": (asking(), {"n": 0}),
}
begun = {}
for name, (graph, given) in runs.items():
    try:
        run = na.Agent(graph, name=None if name == "compiled" else name).run(given, thread=name)
        begun[name] = str(run.status)
    except Exception as error:
        begun[name] = f"{type(error).__name__}: {error}"
print(js.dumps(begun), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
'''

RESUME = """
import json
import sys

import notebook_agents as na
from langgraph.types import Command

found = {}
for name in sys.argv[1:]:
    try:
        run = na.resume(name)
        said = {"status": str(run.status), "agent": run.view.agent}
        if run.status == "succeeded":
            said["value"] = repr(run.value)
        said["steps"] = [[step.name, step.replayed] for step in run.steps]
        found[name] = said
        if name == "compiled":
            run = na.resume(name)
            said["then"] = [str(run.status), run.value.get("said")]
    except BaseException as error:
        found.setdefault(name, {})["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

THREADS = (
    "typed",
    "modelled",
    "classed",
    "fan-out",
    "compiled",
    "nested",
    "flow",
    "token",
    "asking",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder in which the two processes live."""
    return tmp_path_factory.mktemp("empty")


def _python(folder: Path, *command: str, code: int, **more: str) -> dict[str, Any]:
    env = {
        **os.environ,
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "NOTEBOOK_AGENTS_HOME": str(folder / "journal"),
        "LANGSMITH_TRACING": "false",
        "PYTHONWARNINGS": "ignore",
        "LEDGER": str(folder / "ledger"),
        "SERVICE_TOKEN": "tok-5e2f90aa17",
        **more,
    }
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def begun(folder: Path) -> dict[str, str]:
    """Say how each run stood when the script killed itself."""
    (folder / "script.py").write_text(SCRIPT)
    return _python(folder, "script.py", code=-signal.SIGKILL, BROKEN="1")


@pytest.fixture(scope="module")
def resumed(folder: Path, begun: dict[str, str]) -> dict[str, Any]:
    """Say what an empty process made of each run."""
    return _python(folder, "-c", RESUME, *THREADS, code=0)


@pytest.mark.parametrize("thread", THREADS)
def test_every_run_began(begun, thread):
    """The script's runs began: each failed in a node or waits, none at its start."""
    expected = {"compiled": "waiting", "asking": "waiting"}
    assert begun[thread] == expected.get(thread, "RuntimeError: out of order")


@pytest.mark.parametrize("thread", ["typed", "modelled", "classed"])
def test_types_of_main(resumed, folder, thread):
    """State of types defined in `__main__` comes back as those types, in its helpers' hands."""
    run = resumed[thread]
    assert run.get("error") is None
    assert run["status"] == "succeeded"
    assert run["steps"] == [["first", True], ["second", False]]
    for part in ("30", "Point(x=1", "Leaf(name='a', points=[1, 2])", "<Color.RED: 'red'>"):
        assert part in run["value"]
    assert (folder / "ledger").read_text().splitlines().count(f"{thread} first") == 1


def test_fan_out_of_objects(resumed, folder):
    """A fan-out whose node is an object goes on with what is missing of it."""
    run = resumed["fan-out"]
    assert run.get("error") is None
    for n in (0, 2, 4, 6):
        assert f"Leaf(name='{n}', points=[])" in run["value"]
    lines = (folder / "ledger").read_text().splitlines()
    assert sorted(line for line in lines if line.startswith("fan-out")) == [
        f"fan-out {n}" for n in range(4)
    ]


def test_compile_arguments(resumed):
    """Name, store and interrupts that the graph was compiled with come back with it."""
    run = resumed["compiled"]
    assert run.get("error") is None
    assert run["agent"] == "held"
    assert run["status"] == "waiting"  # behind `two`, as the graph was compiled to
    assert run["then"] == ["succeeded", ["one", "store 42", "three"]]


def test_subgraph(resumed):
    """A graph inside a graph is rebuilt with it."""
    run = resumed["nested"]
    assert run.get("error") is None
    assert run["status"] == "succeeded"
    assert run["steps"] == [["first", True], ["second", False]]


def test_entrypoint(resumed, folder):
    """An `@entrypoint` comes back by its function, and its durable call is replayed."""
    run = resumed["flow"]
    assert run.get("error") is None
    assert run["value"] == "Leaf(name='abab', points=[])"
    assert (folder / "ledger").read_text().splitlines().count("call") == 1


def test_secret_comes_from_the_environment(resumed, folder):
    """A global that is a secret is read from the environment again and is in no file."""
    assert resumed["token"].get("error") is None
    assert "14 characters" in resumed["token"]["value"]
    for path in (folder / "journal").iterdir():
        assert b"tok-5e2f90aa17" not in path.read_bytes()


def test_waiting_run_still_waits(resumed):
    """A run that waits for a person waits in the next process too."""
    run = resumed["asking"]
    assert run.get("error") is None
    assert run["status"] == "waiting"
