"""Running a notebook without a browser: real kernels, real signals."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbformat.v4 import new_notebook
from support.notebooks import gone, outputs, written

from notebook_agents.notebook.cells import CellEvent, CellState, write_atomic
from notebook_agents.notebook.errors import (
    CellFailedError,
    CellTimeoutError,
    KernelDiedError,
    NotebookError,
    NotebookFileError,
    NotebookStoppedError,
)
from notebook_agents.notebook.headless import run_notebook

if TYPE_CHECKING:
    from pathlib import Path

WHERE = """\
import json, os, sys
names = ["JPY_SESSION_NAME", "NOTEBOOK_AGENTS_HOME", "EXTRA"]
print(json.dumps([os.getpid(), sys.executable, os.getcwd(), *map(os.environ.get, names)]))"""

DYING = """\
import os, signal
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na

class State(TypedDict):
    x: int

def die(state: State) -> State:
    os.kill(os.getpid(), signal.SIGKILL)

graph = StateGraph(State)
graph.add_node(die)
graph.add_edge(START, "die")
na.Agent(graph, name="dying").run({"x": 1}, thread="lost work")"""

PARENT = """\
import sys
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.notebook.headless import run_notebook

def show(event):
    print(event.number, event.state, flush=True)

try:
    run_notebook(sys.argv[1], on_cell=show, on_kernel=lambda pid: print(pid, flush=True))
except NotebookAgentsError as error:
    print(f"{type(error).__name__} {error.exit_code} {error}", flush=True)
"""

R = {"name": "ir", "display_name": "R", "language": "R"}

WAIT = """\
import time
print("waiting", flush=True)
time.sleep(60)"""


def test_runs_in_this_python_and_knows_its_notebook_and_journal(tmp_path: Path) -> None:
    """The kernel is this very Python, installed or not, and is told notebook and journal."""
    notebook = written(tmp_path / "a.ipynb", WHERE)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    before = notebook.read_bytes()
    kernels: list[int] = []

    result = run_notebook(
        notebook,
        journal=tmp_path / "j",
        cwd=folder,
        on_kernel=kernels.append,
        environment={"EXTRA": "one more"},
    )

    pid, *rest = json.loads(outputs(result.path)[0])
    expected = [sys.executable, folder, notebook, tmp_path / "j", "one more"]
    assert rest == [str(value) for value in expected]
    assert [pid] == kernels == [result.kernel]
    assert gone(pid)
    assert (result.path, result.cells) == (tmp_path / "a.executed.ipynb", 1)
    assert notebook.read_bytes() == before


def test_a_failing_cell_is_named_and_the_rest_is_saved(tmp_path: Path) -> None:
    """A cell that raises ends the notebook: what ran is saved, what did not run has no outputs."""
    notebook = written(tmp_path / "a.ipynb", "print('fine')", "\n1 / 0", "print('never')")
    events: list[CellEvent] = []

    with pytest.raises(CellFailedError, match=r"code cell 2 .*ZeroDivisionError: ") as caught:
        run_notebook(notebook, out=tmp_path / "sub" / "out.ipynb", on_cell=events.append)

    assert caught.value.cell == 2
    assert "run the notebook again to go on" in str(caught.value)
    assert outputs(tmp_path / "sub" / "out.ipynb") == ["fine\n", "ZeroDivisionError", ""]
    assert [(event.number, event.line, event.state) for event in events] == [
        (1, "print('fine')", CellState.STARTED),
        (1, "print('fine')", CellState.FINISHED),
        (2, "1 / 0", CellState.STARTED),
        (2, "1 / 0", CellState.FAILED),
    ]


@pytest.mark.crash
def test_a_killed_kernel_is_reported_with_the_way_to_resume(tmp_path: Path) -> None:
    """After SIGKILL the error says the cell, the signal and the command that goes on."""
    notebook = written(tmp_path / "a.ipynb", "print('before')", DYING)
    home = tmp_path / "j"

    with pytest.raises(KernelDiedError) as caught:
        run_notebook(notebook, journal=home, restarts=0)

    error = caught.value
    assert (error.cell, error.signum) == (2, signal.SIGKILL)
    assert gone(error.kernel)
    assert f"code cell 2 of {notebook}: its kernel (pid {error.kernel}) died by signal 9" in str(
        error
    )
    assert f"notebook-agents resume 'lost work' --journal {home}" in str(error)
    before, died = outputs(tmp_path / "a.executed.ipynb")
    assert before == "before\n"
    # Its run's timeline, if that had left the kernel when it was killed.
    assert not died or died.startswith("dying · thread lost work · run 1 · ▸ running\n")


async def test_a_cell_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    """At the timeout the cell gets a KeyboardInterrupt, also where the caller has a loop."""
    notebook = written(tmp_path / "a.ipynb", WAIT)

    with pytest.raises(CellTimeoutError, match=r"cell 1 .* not done after 0\.3 s"):
        run_notebook(notebook, timeout=0.3)

    assert outputs(tmp_path / "a.executed.ipynb") == ["waiting\nKeyboardInterrupt"]


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_the_cell_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM to the runner interrupt the cell, save the outputs and leave no kernel."""
    notebook = written(tmp_path / "a.ipynb", "1", WAIT, "print('never')")
    command = [sys.executable, "-c", PARENT, str(notebook)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        kernel = int(parent.stdout.readline())
        for line in parent.stdout:
            if line == "2 started\n":
                break
        parent.send_signal(number)
        rest = parent.stdout.read().splitlines()

    assert rest[0] == "2 failed"
    assert rest[1].startswith(f"NotebookStoppedError {128 + number} code cell 2 of {notebook}")
    assert f"stopped by {number.name}" in rest[1]
    assert parent.returncode == 0  # it returned by itself, after the error
    assert gone(kernel)
    assert outputs(tmp_path / "a.executed.ipynb")[2] == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no notebook"),
        ("not JSON", "is no Jupyter notebook"),
        ('{"some": "JSON"}', "is no Jupyter notebook"),
        (
            nbformat.writes(new_notebook(metadata={"kernelspec": R})),
            "is written in R",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_kernel_starts(
    tmp_path: Path, text: str | None, says: str
) -> None:
    """A file that is no Python notebook is refused in one sentence, and nothing is written."""
    path = tmp_path / "a.ipynb"
    if text is not None:
        path.write_text(text)

    with pytest.raises(NotebookFileError, match=says):
        run_notebook(path)

    assert list(tmp_path.glob("*.executed.ipynb")) == []


def test_an_unknown_kernel_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    """A kernel name that is not installed is refused, and the message lists what is."""
    notebook = written(tmp_path / "a.ipynb", "1")

    with pytest.raises(NotebookFileError, match="no kernel 'no-such'; installed are: "):
        run_notebook(notebook, kernel_name="no-such")


@pytest.mark.parametrize(
    "error",
    [
        CellFailedError("a.ipynb", 2, "it raised X", "do this"),
        KernelDiedError("a.ipynb", 3, "its kernel died", "do that", 4711, 9),
        NotebookStoppedError("a.ipynb", 1, "stopped by SIGINT", "do so", 12, signal.SIGINT),
    ],
)
def test_errors_survive_pickling(error: NotebookError) -> None:
    """A notebook's error crosses a process boundary whole."""
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Writing a file either succeeds or changes nothing and leaves nothing behind."""
    path = tmp_path / "file"
    write_atomic(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new" + "\ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
