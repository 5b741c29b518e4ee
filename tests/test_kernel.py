"""The kernel that says what is unfinished: installed, started for real, taken away again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from jupyter_client.manager import start_new_kernel
from support.checks import State, add, ask, chain

import notebook_agents as na
from notebook_agents.errors import UsageError
from notebook_agents.notebook import kernelspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLED = """\
import os, signal
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na

class State(TypedDict, total=False):
    x: int

@na.step
def double(x):
    return 2 * x

def first(state: State):
    return {"x": double(double(state["x"]))}

def second(state: State):
    os.kill(os.getpid(), signal.SIGKILL)

graph = StateGraph(State).add_sequence([first, second]).add_edge(START, "first")
na.Agent(graph, name="plan").run({"x": 1}, thread="research-plan")"""


@pytest.fixture(autouse=True)
def kernel() -> None:
    """Install the kernel for the user that every test has for itself."""
    kernelspec.install(kernelspec.Place(user=True))


class Kernel:
    """A kernel of a notebook, as Jupyter Server starts one, and a client that runs cells in it."""

    def __init__(self, folder: Path, notebook: str) -> None:
        environment = {**os.environ, "JPY_SESSION_NAME": str(folder / notebook)}
        self.manager, self.client = start_new_kernel(
            kernel_name=kernelspec.NAME, cwd=str(folder), env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, cell: str, **options: bool) -> str:
        """Run a cell; return what it shows, line by line."""
        shown: list[str] = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            shows = message["msg_type"] in ("display_data", "execute_result")
            if shows and "text/plain" in content["data"]:  # else it is the live view
                shown.append(content["data"]["text/plain"])
            elif message["msg_type"] == "stream":
                shown.append(content["text"])

        self.client.execute_interactive(cell, output_hook=take, timeout=60, **options)
        return "\n".join(shown)


def notebook(folder: Path, *cells: str, name: str = "plan.ipynb") -> list[str]:
    """Run cells in a new kernel of a notebook; return what each shows."""
    with Kernel(folder, name) as kernel:
        return [kernel.run(cell) for cell in cells]


def kill(folder: Path) -> None:
    """Leave a run behind whose kernel died; its first node and two calls had returned."""
    with Kernel(folder, "plan.ipynb") as kernel:
        kernel.client.execute(KILLED)
        assert kernel.manager.provisioner.process.wait(60) == -signal.SIGKILL


def fail(state: State) -> State:
    """Raise: a node."""
    raise RuntimeError("out of order")


def leave(folder: Path, node: Callable[[State], State], *threads: str) -> None:
    """Leave runs of the notebook behind that ask or failed, as a kernel that was shut down does."""
    names = {"__vsc_ipynb_file__": str(folder / "plan.ipynb")}
    shell = SimpleNamespace(kernel=None, user_ns=names)
    with pytest.MonkeyPatch.context() as patch, na.Journal.open() as journal:
        patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        agent = na.Agent(chain(add, node), "plan", journal)
        for thread in threads:
            with suppress(RuntimeError):
                agent.run({"n": 1}, thread=thread)


@pytest.mark.crash
def test_the_first_cell_says_what_a_killed_kernel_left_and_no_other_does(tmp_path: Path) -> None:
    """One quiet line, once; and the magic is there without %load_ext."""
    kill(tmp_path)

    first, second, third = notebook(tmp_path, "1 + 1", "2 + 2", "%agents show research-plan")

    line = "1 unfinished run here: research-plan, 3 of 4 steps safe; %agents resume goes on with it"
    assert first == f"{line}\n2"
    assert second == "4"
    assert "3 of 4 steps returned" in third  # the same words as in the line


@pytest.mark.crash
def test_what_is_unfinished_in_another_notebook_is_not_said(tmp_path: Path) -> None:
    """The line is about this notebook; a folder has many."""
    kill(tmp_path)

    assert notebook(tmp_path, "1 + 1", name="other.ipynb") == ["2"]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (ask, "1 run waits for an answer here: t, 1 of 2 steps safe; %agents show shows what it"),
        (fail, "1 failed run here: t, 1 of 2 steps safe; %agents resume goes on behind what"),
    ],
)
def test_a_run_that_waits_or_failed_is_called_so(
    tmp_path: Path, node: Callable[[State], State], says: str
) -> None:
    """What to do next differs, so the line does."""
    leave(tmp_path, node, "t")

    assert notebook(tmp_path, "1 + 1")[0].startswith(says)


def test_several_are_counted_and_the_first_is_named_first(tmp_path: Path) -> None:
    """The line stays one line however many there are."""
    leave(tmp_path, ask, "t0", "t1", "t2", "t3", "t4")

    said = notebook(tmp_path, "None")[0]

    assert said == (
        "5 unfinished runs here: t4, t3, t2 and 2 more; %agents lists them, "
        "%agents resume goes on with the first"
    )


def test_nothing_is_said_and_nothing_made_where_nothing_is_unfinished(tmp_path: Path) -> None:
    """No journal: no line, and none is made by looking. A finished run: no line either."""
    assert notebook(tmp_path, "1 + 1") == ["2"]
    assert not (tmp_path / ".notebook_agents").exists()
    leave(tmp_path, ask, "t")
    with na.Journal.open() as journal:
        na.cancel("t", journal=journal)
    assert notebook(tmp_path, "1 + 1") == ["2"]


@pytest.mark.parametrize("harm", ["spoilt", "lost", "file"])
def test_a_journal_that_cannot_be_read_is_one_line_and_the_kernel_starts(
    tmp_path: Path, harm: str
) -> None:
    """Whatever is wrong with the journal, the cell runs."""
    leave(tmp_path, ask, "t")
    home = tmp_path / ".notebook_agents"
    if harm == "spoilt":
        (home / "queue.sqlite").write_bytes(b"nothing of the kind" * 1000)
    elif harm == "lost":
        (home / "queue.sqlite").unlink()
    else:
        shutil.rmtree(home)
        home.touch()

    (said,) = notebook(tmp_path, "1 + 1")

    line, result = said.splitlines()
    assert line.startswith("The journal of this notebook cannot be read: ")
    assert result == "2"


def test_a_cell_that_is_not_in_the_history_does_not_take_the_line(tmp_path: Path) -> None:
    """What tools run unseen is not what a person runs first; nothing was read before that."""
    leave(tmp_path, ask, "t")
    loaded = "import sys; 'cryptography' in sys.modules, 'langgraph' in sys.modules"

    with Kernel(tmp_path, "plan.ipynb") as kernel:
        assert kernel.run(loaded, store_history=False) == "(False, False)"
        assert "waits for an answer" in kernel.run("1 + 1", store_history=True)


# -- installing --------------------------------------------------------------------------------


def test_install_and_uninstall_by_the_command_line(
    tmp_path: Path, cli: Callable[..., None]
) -> None:
    """A kernel under a name of its own in an environment, found by Jupyter, and gone again."""
    place = ("--prefix", str(tmp_path / "venv"), "--name", "mine")
    done = cli("kernel", "install", *place, "--display-name", "My Python", "--json")
    folder = tmp_path / "venv" / "share" / "jupyter" / "kernels" / "mine"
    assert json.loads(done.out) == {"name": "mine", "folder": str(folder)}
    spec = json.loads((folder / "kernel.json").read_text())
    assert (spec["display_name"], spec["argv"][0]) == ("My Python", sys.executable)

    assert cli("kernel", "uninstall", *place).out.strip() == str(folder)
    assert not folder.exists()
    again = cli("kernel", "uninstall", *place)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "there is no kernel 'mine'" in again.err


def test_another_kernel_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    """A kernel that something else installed stays as it is."""
    place = kernelspec.Place(prefix=str(tmp_path))
    folder = place.folder("python3")
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": ["python"], "display_name": "P"}))
    for act in (kernelspec.install, kernelspec.uninstall):
        with pytest.raises(UsageError, match="is another kernel"):
            act(place, name="python3")
    assert json.loads((folder / "kernel.json").read_text())["argv"] == ["python"]


def test_what_cannot_be_is_refused_by_name(tmp_path: Path, cli: Callable[..., None]) -> None:
    """A name that is none, two places at once, and a folder that is a file."""
    with pytest.raises(UsageError, match="is no name for a kernel"):
        kernelspec.install(kernelspec.Place(user=True), name="a b/../c")
    both = cli("kernel", "install", "--user", "--prefix", str(tmp_path))
    assert both.code == 2
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written .* --user"):
        kernelspec.install(kernelspec.Place(prefix=str(tmp_path / "file")))
