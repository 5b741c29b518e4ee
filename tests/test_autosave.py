"""Autosave as a person meets it: a kernel that died, a fresh one, undo, the command line."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.kernels import SECONDS, Kernel
from support.shells import Shell, lived

import notebook_agents as na
from notebook_agents.cli.app import app
from notebook_agents.model import VARIABLES, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ON = "%load_ext notebook_agents\nimport notebook_agents as na\n%agents autosave on"
AGENT = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    n: int

rate = 10

@na.step
def times(n):
    return n * rate

def work(state):
    return {"n": times(state["n"]) + 1}

graph = StateGraph(State).add_sequence([work]).add_edge(START, "work")
agent = na.Agent(graph, name="worker")
"""
DATA = """
import numpy as np, pandas as pd
from dataclasses import dataclass

@dataclass
class Point:
    x: int

    def moved(self):
        return Point(self.x + step)

step, points = 2, [Point(1)]
table = pd.DataFrame({"a": np.arange(5000.0), "b": ["x"] * 5000})
column, shared = table["a"].to_numpy(copy=True), {"points": points}
stream = (n for n in range(3))

def total():
    return float(table["a"].sum()) + step
"""


@contextmanager
def kernel(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Start a kernel of the notebook `a.ipynb`."""
    patch.setenv("JPY_SESSION_NAME", str(folder / "a.ipynb"))
    made = Kernel(folder)
    try:
        yield made
    finally:
        made.close()


def until(found: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + SECONDS
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.crash
def test_a_kernel_is_killed_and_a_fresh_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of offer; everything is back and is used: data, functions, classes, the agent."""
    with kernel(tmp_path, monkeypatch) as old:
        old.cell(ON)
        old.cell(DATA)
        old.cell(AGENT + "run = agent.run({'n': 1}, thread='t')")
        old.cell("points.append(points[0].moved()); table.loc[4999, 'a'] = -1.0; column[7] = 70")
        old.cell("await __import__('asyncio').sleep(0); rate = 20; 1 / 0")
        old.cell("last = na.snapshot()")
        told = "".join(message["content"].get("text", "") for message in old.messages)
        old.begin("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", history=True)
        old.again()
        assert "the variable stream is not kept: it is a generator" in told
        line = old.cell("%load_ext notebook_agents")
        assert "This notebook's variables are kept as of cell [6], " in line
        report = old.cell("%agents restore")
        assert "refused stream: it is a generator" in report
        assert "failed" not in report
        shown = old.cell(
            "print(total(), table.shape, column[7], points[-1].x, shared['points'] is points)\n"
            "print(agent.run({'n': 2}, thread='t').value, run.value, np.sum(column) > 0)"
        )
    assert shown.startswith("12492502.0 (5000, 2) 70.0 3 True\n")
    assert shown.endswith("{'n': 41} {'n': 11} True\n")


def test_what_is_dear_waits_until_the_kernel_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken behind each cell, and is once no cell runs; also where the cell raised."""
    dear = (
        "from notebook_agents.ui import autosave as _autosave\n"
        "_autosave._CHEAP_SECONDS, _autosave._SHARE = -1.0, 10**9"
    )
    with kernel(tmp_path, monkeypatch) as made, na.Journal.open() as journal:
        made.cell(f"{ON}\n{dear}")
        made.cell("x = 1\n1 / 0")
        made.cell("y = 2")

        def taken() -> bool:
            return len(journal.select(kinds=[Kind.SNAPSHOT])) == 2

        until(taken)
        assert made.cell("print([s.line for s in na.snapshots()])").startswith("['y = 2', ")


def test_ctrl_c_in_the_hook_and_a_subshell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted snapshot is said; a thread of a subshell may change what is taken."""
    slow = """
import pathlib, time
import notebook_agents.notebook.namespace as _namespace
from notebook_agents.notebook.snapshots import strangers
_around = _namespace.around
def _once(imports):
    _namespace.around = _around
    pathlib.Path("taking").touch()
    while True:
        time.sleep(0.01)
_namespace.around = _once
x = 2
"""
    with kernel(tmp_path, monkeypatch) as made:
        made.cell(ON)
        made.cell("x = 1")
        request = made.begin(slow, history=True)
        made.until_file("taking")
        made.manager.interrupt_kernel()
        made.end(request)
        shown = [one.get("text", "") for one in made.outputs(request)]
        assert "the variables are not kept behind this cell: KeyboardInterrupt\n" in shown
        assert made.cell("print(strangers())") == "[]\n"
        made.end(made.begin("z = 3", subshell=made.subshell(), history=True))
        assert "subshell-" in made.cell("print(strangers())")
        made.cell("na.snapshot()")

    with Shell(tmp_path) as shell:
        assert shell.run("%agents restore", "print(x, z)") == "2 3\n"


def test_undo_brings_variables_and_the_agents_thread_back_together(tmp_path: Path) -> None:
    """What came later is removed, the thread is forked as it was; and the undo is undone."""
    with Shell(tmp_path) as shell:
        shell.run(ON, AGENT, "run = agent.run({'n': 1}, thread='t'); first = na.snapshot()")
        shell.run("rate = 100; later = 1\nrun = agent.run({'n': 5}, thread='t')")
        step = shell.run("print(next(s.id for s in run.steps if s.name == 'times'))").strip()
        last = int(shell.run("print(na.snapshot())"))
        undone = shell.run("print(na.restore(at=first))")
        assert "removed, since they came later: first, later\n" in undone
        forked = undone.partition("what it was then is thread '")[2].partition("'")[0]
        assert shell.run("print(rate, run.value, 'later' in globals())") == "10 {'n': 11} False\n"
        look = f"print(agent.thread({forked!r}).state().values, agent.thread('t').state().values)"
        assert shell.run(look) == "{'n': 11} {'n': 501}\n", shell.said
        again = shell.run(f"print(na.restore(at={last}))")
        assert "has gone on since" not in again
        assert shell.run("print(rate, later, run.value)") == "100 1 {'n': 501}\n", shell.said
        before = shell.run(f"print(na.restore(at={step!r}))")
        assert "what it was before that step is thread 't-fork-" in before
        assert shell.run("print(rate)") == "10\n"
        name = before.partition("before that step is thread '")[2].partition("'")[0]
        assert shell.run(f"print(na.resume({name!r}).value)") == "{'n': 51}\n"


@pytest.mark.parametrize("wish", ["on", "restore", "always"])
def test_the_environment_says_what_a_fresh_kernel_does(tmp_path: Path, wish: str) -> None:
    """It keeps the variables, or brings them back as well; what it does not know is one line."""
    lived(tmp_path, ON, "x = 41", "na.snapshot()")

    with Shell(tmp_path, environment={"NOTEBOOK_AGENTS_AUTOSAVE": wish}) as shell:
        there = shell.run("print('x' in globals())")
        shell.run("y = 1", "1")

    if wish == "always":
        said = "variables of this notebook are not kept: NOTEBOOK_AGENTS_AUTOSAVE is 'always'"
        assert said in shell.said
        assert "Traceback" not in shell.said
    assert there == f"{wish == 'restore'}\n"
    with na.Journal.open(tmp_path / ".notebook_agents") as journal:
        kernels = {record.run for record in journal.select(kinds=[Kind.SNAPSHOT])}
    assert kernels == ({1} if wish == "always" else {1, 2})


def test_the_journal_and_the_thread_stay_where_the_kernel_began(tmp_path: Path) -> None:
    """A cell that changes the folder, and another journal there: nothing goes to that."""
    (tmp_path / "other").mkdir()
    with Shell(tmp_path, environment={"NOTEBOOK_AGENTS_HOME": ""}) as shell:
        shell.run(ON, "import os; os.chdir('other'); other = na.Journal.open('.notebook_agents')")
        shell.run("x = 1", "na.snapshot()")
        assert shell.run("print(len(other.threads()), len(na.snapshots()) > 2)") == "0 True\n"
        shell.kill("1")

    with Shell(tmp_path, environment={"NOTEBOOK_AGENTS_HOME": ""}) as shell:
        shell.run("%agents restore")
        assert shell.run("print(x, os.path.basename(os.getcwd()))") == "1 other\n"


def test_the_command_line_says_what_such_a_thread_is(tmp_path: Path) -> None:
    """Listed, shown, logged, checked and compacted; neither resumed nor forked."""
    # The journal is the one that NOTEBOOK_AGENTS_HOME names.
    lived(tmp_path, ON, "x = list(range(1000))", "na.snapshot()")
    home = tmp_path / ".notebook_agents"
    with na.Journal.open(home) as journal:
        (thread,) = [info.thread for info in journal.threads() if info.agent == VARIABLES]

    def asked(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        assert result.exception is None or isinstance(result.exception, SystemExit), words
        return result.exit_code, result.output

    code, listed = asked("list")
    assert (code, thread in listed) == (0, True)
    for words in (["show", thread], ["log", thread], ["journal", "check"], ["doctor"]):
        code, said = asked(*words)
        assert code == 0, (words, said)
    for words in (["fork", thread], ["resume", thread]):
        code, said = asked(*words)
        assert code in (1, 2), (words, said)
        assert "variables" in said
    assert asked("journal", "compact")[0] == 0
    with Shell(tmp_path) as shell:
        assert shell.run("%agents restore", "print(len(x))") == "1000\n"


def test_wrong_words_are_said_in_one_sentence(tmp_path: Path) -> None:
    """No snapshot of that number, no step, no journal, no such word."""
    with Shell(tmp_path) as shell:
        for line, says in {
            "%agents restore": "no journal",
            "%agents autosave perhaps": "say on or off",
            "%agents restore --at": "it takes --list, or --at N",
        }.items():
            assert says in shell.run(line), shell.said
        shell.run(ON)
        assert "there is no snapshot 99 of this notebook's" in shell.run("%agents restore --at 99")
        assert "there is no step 'no-such'" in shell.run("%agents restore --at no-such")
        assert "--at" in shell.run("%agents restore --list")
        assert "Traceback" not in shell.said


def test_a_restore_leaves_what_could_not_be_kept(tmp_path: Path) -> None:
    """What there is now and cannot be kept is neither overwritten nor removed, and that is said."""
    with Shell(tmp_path) as shell:
        shell.run("import notebook_agents as na", "con, n = 1, 1", "na.snapshot()")
        shell.run(
            "import sqlite3\ncon, later, n = sqlite3.connect(':memory:'), sqlite3.connect('b'), 2"
        )
        told = shell.run("na.restore(1)")
        assert "left as they are, since what they are now cannot be kept: con, later" in told
        assert "removed" not in told
        left = "type(con).__name__, type(later).__name__, n"
        assert "('Connection', 'Connection', 1)" in shell.run(left)
        shell.run("del con", "na.restore(1)")
        assert "1" in shell.run("con")


def test_what_on_restore_made_is_made_again_after_the_next_kill(tmp_path: Path) -> None:
    """The hook is kept with the object, and so it is in each process that opens it."""
    hook = "na.on_restore(type(db), lambda path: sqlite3.connect(path), keep=lambda _: 'a.db')"
    with Shell(tmp_path) as shell:
        shell.run("import sqlite3\nimport notebook_agents as na\ndb = sqlite3.connect('a.db')")
        shell.run(hook, "na.snapshot()")
    for n in range(2):
        with Shell(tmp_path) as shell:
            shell.run("import notebook_agents as na", "na.restore()", f"n = {n}", "na.snapshot()")
            assert "'ok'" in shell.run("db.execute('PRAGMA integrity_check').fetchone()[0]")
            shell.kill("1")


def test_what_does_not_load_once_is_still_there_for_the_next_kernel(tmp_path: Path) -> None:
    """It is not in the namespace of the kernel between, and was not deleted by anybody."""
    hook = """
import os
import notebook_agents as na
class Remote:
    pass
@na.on_restore(Remote, keep=lambda one: 1)
def _open(_):
    if "OFFLINE" in os.environ:
        raise OSError("no network")
    return Remote()
far, near = Remote(), 1
"""
    with Shell(tmp_path) as shell:
        shell.run(hook, "na.snapshot()")
    with Shell(tmp_path, environment={"OFFLINE": "1"}) as shell:
        assert "no network" in shell.run("import notebook_agents as na", "na.restore()")
        shell.run("near = 2", "na.snapshot()")
    with Shell(tmp_path) as shell:
        shell.run("import notebook_agents as na", "na.restore()")
        assert "('Remote', 2)" in shell.run("type(far).__name__, near")


def test_what_one_thing_does_wrong_stops_nothing_else(tmp_path: Path) -> None:
    """An extension that cannot be loaded, a package that does not compile by now: y comes back."""
    extension = "def load_ipython_extension(shell):\n    import flag\n"
    (tmp_path / "ext.py").write_text(extension)
    (tmp_path / "flag.py").write_text("")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "sub.py").write_text("n = 1\n")
    with Shell(tmp_path) as shell:
        shell.run("import sys; sys.path.insert(0, '')\nimport notebook_agents as na")
        shell.run("%load_ext ext", "import pack.sub as sub", "y = 1", "na.snapshot()")
    (tmp_path / "flag.py").write_text("raise RuntimeError('cannot connect')\n")
    (tmp_path / "pack" / "__init__.py").write_text("(\n")
    with Shell(tmp_path) as shell:
        told = shell.run("import notebook_agents as na", "na.restore()")
        assert "extension ext cannot be loaded here (RuntimeError('cannot connect'))" in told
        assert "failed sub" in told
        assert "1" in shell.run("y")


def test_a_snapshot_inside_another_one_is_refused(tmp_path: Path) -> None:
    """A signal's handler or what is pickled may ask for one: it is an error, and no deadlock."""
    nested = "class Odd:\n    def __getstate__(self):\n        na.snapshot()\nodd, x = Odd(), 1"
    with Shell(tmp_path) as shell:
        shell.run("import notebook_agents as na", nested)
        assert "Out[3]: 1" in shell.run("na.snapshot()")
        shell.run("print(na.snapshots())")
        assert "in this very moment" in shell.said
