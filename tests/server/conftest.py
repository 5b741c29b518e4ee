"""One server for the tests of a session; each test has a folder of its root."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .served import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


DRIVER = """
import sys, time
from pathlib import Path
from typing import TypedDict
from langgraph.graph import StateGraph
import notebook_agents as na


class State(TypedDict, total=False):
    n: int


def first(state):
    return {"n": 0}


def wait(state):
    print("runs", flush=True)
    while not Path("free").exists():
        time.sleep(0.01)
    return {"n": 1}


def then(state):
    return {"n": 2}


graph = StateGraph(State)
graph.add_sequence([("first", first), ("wait", wait), ("then", then)])
graph.set_entry_point("first")
na.Agent(graph, "waiter", na.Journal.open(sys.argv[1])).run({"n": 0}, thread="t")
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a server."""
    served = Served(tmp_path_factory.mktemp("served"))
    try:
        served.wait()
        yield served
    finally:
        served.close()
    assert "notebook_agents/server/" not in served.log, "a traceback went through the extension"


@pytest.fixture
def folder(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder in the server's root; this process has the server's key."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(server.data))
    made = server.root / tmp_path.name
    made.mkdir()
    return made


@pytest.fixture
def home(folder: Path) -> Path:
    """Name the directory of a journal in that folder."""
    return folder / ".notebook_agents"


@pytest.fixture
def where(server: Served, home: Path) -> str:
    """Name that directory as a request does."""
    return str(home.relative_to(server.root))


@pytest.fixture
def driver(home: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a process of its own drive thread `t`, until the file `free` is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        yield process
    finally:
        process.kill()
        process.communicate()
