"""A kernel's variables, kept behind each cell: what the next kernel has of them, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.notebooks import AGENT, SETUP, ledger, outputs, written

import notebook_agents as na
from notebook_agents import pickling
from notebook_agents.errors import ValueTooLargeError
from notebook_agents.model import Kind
from notebook_agents.notebook.errors import CellFailedError
from notebook_agents.notebook.headless import run_notebook

if TYPE_CHECKING:
    from pathlib import Path

MENDED = "1 / len(list(Path('.').glob('mended')))"
"""Fails until the file `mended` is there."""


@pytest.fixture(autouse=True)
def own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the journal that a notebook finds beside itself."""
    monkeypatch.delenv("NOTEBOOK_AGENTS_HOME")


def failed(notebook: Path, *sources: str) -> None:
    """Run a notebook until the cell behind these fails; then nothing is in its way any more."""
    written(notebook, SETUP, *sources[:-1], MENDED, sources[-1])
    with pytest.raises(CellFailedError):
        run_notebook(notebook)
    (notebook.parent / "mended").touch()


def test_agents_runs_and_journals_are_there_again(tmp_path: Path) -> None:
    """They are made again: an agent runs, a run has its value, what is shared stays so."""
    notebook = tmp_path / "a.ipynb"
    failed(
        notebook,
        AGENT + "DEADLY = False\npair = [agent, agent]\nna.Journal.open(Path('other')).close()",
        "run = agent.run({'x': 1}, thread='t')\nother = na.Journal.open('other')\n"
        "elsewhere = na.Agent(graph, 'elsewhere', other)\ncompiled = graph.compile()",
        "print(pair[0] is agent is pair[1], run.value, run.thread, agent.journal is not other)\n"
        "print(agent.run({'x': 2}, thread='t').value, elsewhere.run({'x': 3}, thread='u').value)\n"
        "print(elsewhere.journal is other, other.home.name, compiled.invoke)",
    )

    result = run_notebook(notebook)

    assert result.skipped == 3, result.notes
    assert result.notes == ()
    shown = outputs(result.path)[-1]
    assert "True {'x': 20} t True" in shown
    assert "{'x': 30} {'x': 40}\nTrue other <bound method" in shown


def test_what_cells_change_around_their_variables_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working folder, module path, environment, random numbers and imported modules."""
    notebook = tmp_path / "a.ipynb"
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "ours.py").write_text("value = 'ours'")
    change = (
        "import sys, random as dice, json\ndice.seed(7)\nos.environ['NEW'] = 'set'\n"
        "os.environ.pop('OLD')\nsys.path.append(os.path.abspath('deeper'))\nimport ours"
    )
    look = (
        "print(os.getcwd(), os.environ.get('NEW'), os.environ.get('OLD'), dice.random())\n"
        "print(ours.value, json.dumps(1))"
    )

    monkeypatch.setenv("OLD", "x")
    written(notebook, f"import os\nfrom pathlib import Path\n{change}", MENDED, look)
    with pytest.raises(CellFailedError):
        run_notebook(notebook)
    (tmp_path / "mended").touch()
    result = run_notebook(notebook)

    assert result.skipped == 1
    assert outputs(result.path)[-1] == f"{tmp_path} set None 0.32383276483316237\nours 1\n"


def test_unchanged_variables_are_stored_once(tmp_path: Path) -> None:
    """A cell that changes nothing adds less than a hundredth of what the variables take."""
    notebook = written(tmp_path / "a.ipynb", "import os\nblob = os.urandom(10**6)", *["1"] * 5)
    result = run_notebook(notebook)

    with na.Journal.open(tmp_path / ".notebook_agents") as journal:
        records = journal.select(thread=result.thread)
        stored = sum(
            len(record.payload or b"") for record in journal.sealed([r.seq for r in records])
        )

    assert len([record for record in records if record.kind is Kind.SNAPSHOT]) == 5
    assert 10**6 < stored < 1.05 * 10**6


@pytest.mark.parametrize("what", ["changed", "moved"])
def test_nothing_is_loaded_that_is_not_sealed_for_its_place(tmp_path: Path, what: str) -> None:
    """A record that was altered, or put in another's place, is refused; its cells run again."""
    notebook = tmp_path / "a.ipynb"
    failed(notebook, "note('one')\nx = 1", "print(x)")
    with na.Journal.open(tmp_path / ".notebook_agents") as journal:
        seqs = [record.seq for record in journal.select(kinds=[Kind.SNAPSHOT])]
        older, newest = sorted(journal.sealed(seqs), key=lambda record: record.seq)
        assert older.payload is not None and newest.payload is not None
        bad = newest.payload[:-1] + bytes([newest.payload[-1] ^ 1])
        journal._writer.execute(
            "UPDATE records SET payload = $payload WHERE seq = $seq",
            {"payload": older.payload if what == "moved" else bad, "seq": newest.seq},
        )

    result = run_notebook(notebook)

    assert outputs(result.path)[-1] == "1\n"
    assert ledger(tmp_path)["one"] == 2
    said = f"record {newest.seq} (snapshot) of thread {result.thread!r} does not open"
    assert any(said in text for text in result.notes)


def test_what_cannot_be_rebuilt_is_said_and_its_cells_run_again(tmp_path: Path) -> None:
    """A module that is gone: the kernel is as if nothing had been restored."""
    notebook = tmp_path / "a.ipynb"
    (tmp_path / "ours.py").write_text("class Thing:\n    pass")
    made = "import ours\nx = getattr(ours, 'Thing', dict)()"
    failed(notebook, "y = 2\nnote('one')", made, "print(y, x)")
    (tmp_path / "ours.py").write_text("")

    result = run_notebook(notebook)

    assert ledger(tmp_path)["one"] == 1
    assert outputs(result.path)[-1] == "2 {}\n"
    assert any("cell 3 could not be restored" in text for text in result.notes)


@pytest.mark.crash
def test_a_kernel_that_dies_keeping_its_variables_is_not_asked_again(tmp_path: Path) -> None:
    """The cell runs again in a fresh kernel, its variables are not kept, and it is said why."""
    deadly = "note('two')\nclass Deadly:\n    def __reduce__(self):\n        die(9)\nx = Deadly()"
    notebook = written(tmp_path / "a.ipynb", SETUP + "note('one')", deadly, "del x\nprint('end')")

    result = run_notebook(notebook, restarts=1)

    did = ledger(tmp_path)
    assert (did["one"], did["two"], did["death"], result.restarts) == (1, 2, 1, 1)
    assert any("the kernel died when it was to keep them" in text for text in result.notes)
    assert outputs(result.path)[-1] == "end\n"


def test_a_pickle_takes_no_more_bytes_than_it_may() -> None:
    """What becomes larger is refused while it is made."""
    assert pickling.dumps(b"x" * 900, what="it", limit=1000)
    with pytest.raises(ValueTooLargeError):
        pickling.dumps([b"x" * 900, b"y" * 900], what="it", limit=1000)
