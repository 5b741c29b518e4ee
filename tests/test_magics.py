"""`%agents` in a real IPython shell, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.checks import add, ask, chain

import notebook_agents as na
from notebook_agents.ui.magics import Listing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHELL = """
import contextlib, io, json, sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "notebook_agents")
assert "langgraph" not in sys.modules, "loading the extension is light"
told = []
for cell in json.loads({cells!r}):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        result = shell.run_cell(cell, store_history=True)
    told.append([result.success, out.getvalue()])
def completed(text):
    with provisionalcompleter():  # as ipykernel asks
        return sorted(found.text for found in shell.Completer.completions(text, len(text)))

told.append([completed(text) for text in json.loads({texts!r})])
print("TOLD", json.dumps(told))
"""

WORK = """
import threading
from langgraph.graph import START, StateGraph
from typing import TypedDict
import notebook_agents as na

class State(TypedDict, total=False):
    n: int

begun, go_on = threading.Event(), threading.Event()

def first(state):
    begun.set()
    assert go_on.wait(60)
    return {"n": 1}

def second(state):
    return {"n": 2}

agent = na.Agent(StateGraph(State).add_sequence([first, second]).add_edge(START, "first"), "slow")

def work():
    try:
        agent.run({"n": 0}, thread="long one")
    except BaseException as error:
        ended.append(type(error).__name__)

ended = []
worker = threading.Thread(target=work)
"""
START = "from work import begun, ended, go_on, worker; worker.start(); assert begun.wait(60)"


@pytest.fixture
def shell(python: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Run cells in a shell that has the extension; give what each said, then completions."""

    def run(*cells: str, complete: tuple[str, ...] = ()) -> list[Any]:
        program = SHELL.format(cells=json.dumps(cells), texts=json.dumps(complete))
        done = python(program, PYTHONPATH=os.pathsep.join(sys.path))
        assert done.code == 0, done.err
        return json.loads(done.out.rpartition("TOLD ")[2])

    return run


@pytest.fixture
def threads() -> None:
    """Leave a finished run and one that asks, in the journal that a shell here finds."""
    with na.Journal.open() as journal:
        na.Agent(chain(add), "counter", journal).run({"n": 1}, thread="done")
        na.Agent(chain(add, ask), "asker", journal).run({"n": 1}, thread="asks me")


def test_list_show_resume_and_help(shell: Callable[..., list[Any]], threads: None) -> None:
    """What each word shows: a table, a run, the run that went on, the words themselves."""
    cells = ("%agents", "%agents list", "%agents show done", "%agents show", "%agents help")
    listed, again, done, newest, said = (text for ok, text in shell(*cells)[:-1] if ok)

    lines = [re.split(r"  +", line.strip()) for line in listed.splitlines() if "  " in line]
    assert [line[:4] for line in lines[-2:]] == [
        ["asks me", "asker", "‖ waiting", "1"],
        ["done", "counter", "✓ succeeded", "1"],
    ]
    assert listed.count("\n") == again.count("\n")
    assert "thread done" in done
    assert "thread asks me" in newest
    assert "%agents resume [THREAD]" in said


def test_resume_returns_the_run(shell: Callable[..., list[Any]], threads: None) -> None:
    """`run = %agents resume` is the run; without a thread it is the newest that is unfinished."""
    asked = "run = %agents resume"
    (ok, said), (_, value), _ = shell(
        asked, "import notebook_agents as na; print(na.resume(run.thread, answer=7).value['n'])"
    )
    assert ok, said
    assert value.strip() == "7"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%agents shwo", "there is no %agents shwo: did you mean show?"),
        ("%agents xyz", "there is no %agents xyz: it has list, show, resume, stop, help"),
        ("%agents list done", "%agents list takes no thread: leave 'done' out"),
        ("%agents show nobody", "there is no thread 'nobody'"),
        ("%agents resume nobody", "there is no thread 'nobody'"),
        ("%agents stop", "this kernel runs 0 threads: there is nothing to stop"),
        ("%agents stop done", "thread 'done' does not run now: there is nothing to stop"),
    ],
)
def test_a_mistake_is_one_sentence(
    shell: Callable[..., list[Any]], threads: None, line: str, says: str
) -> None:
    """No traceback, and the cell counts as failed."""
    (ok, said), _ = shell(line)
    assert not ok
    assert says in said
    assert said.strip().count("\n") == 0


def test_without_a_journal_it_says_so_and_makes_none(
    shell: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """Looking makes nothing."""
    (ok, said), _ = shell("%agents", complete=("%agents show ",))
    assert not ok
    assert "there is no journal here" in said
    assert not (tmp_path / ".notebook_agents").exists()


def test_completion_gives_words_and_threads(shell: Callable[..., list[Any]], threads: None) -> None:
    """Tab completes the word, then the thread."""
    words, shows, none = shell(
        complete=("%agents s", "%agents show d", "%agents list d"),
    )[-1]
    assert words == ["show", "stop"]
    assert shows == ["done"]
    assert "done" not in none


def test_stop_lets_the_step_end_and_no_other_begin(
    shell: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """A run in a worker thread is stopped, is resumable, and resume does not repeat the step."""
    (tmp_path / "work.py").write_text(WORK)
    cells = (
        START,
        "%agents stop",
        "go_on.set(); worker.join(); print(ended)",
        "%agents stop long one",
        "run = %agents resume long one",
        "print(run.status, [len(step.attempts) for step in run.steps])",
    )
    said = [(ok, text.strip()) for ok, text in shell(*cells)[:-1]]
    assert said[0][0], said
    assert said[1][0]
    assert "long one begins no further step" in said[1][1]
    assert said[2] == (True, "['RunStopped']")
    assert not said[3][0]
    assert "does not run now" in said[3][1]
    assert said[5] == (True, "succeeded [1, 1]")


def test_a_list_shows_itself_and_is_escaped(home: Path) -> None:
    """Threads' names are text, in HTML too; of many the newest are shown."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), "counter", journal)
        agent.run({"n": 1}, thread="<b>bold</b>")
        (info,) = journal.threads()
    html = Listing([info] * 30)._repr_html_()
    assert html.count("&lt;b&gt;bold&lt;/b&gt;") == 20
    assert "<b>" not in html
    assert "and 10 older" in html
    assert repr(Listing()) == "no threads yet"
