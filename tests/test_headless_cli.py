"""`notebook-agents run notebook.ipynb`, and how the other commands present such a run."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from support.command_line import Driving, cli, inside, threads
from support.notebooks import AGENT, SETUP, gone, ledger, outputs, written

import notebook_agents as na
from notebook_agents.errors import DefinitionError, UnknownThreadError
from notebook_agents.model import NOTEBOOK, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

WAIT = """\
import time
note(f"waiting {os.getpid()}")
while not Path("mended").exists():
    time.sleep(0.01)"""


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    """Work in a folder of one's own."""


def waited(folder: Path) -> int:
    """Return the kernel's process id when its cell waits."""
    while not ledger(folder)["waiting"]:
        pass
    lines = (folder / "ledger").read_text().splitlines()
    return int(lines[-1].removeprefix("waiting "))


def notebook_thread() -> str:
    """Return the thread of the only notebook."""
    (name,) = (name for name, info in threads().items() if info["agent"] == NOTEBOOK)
    return name


@pytest.mark.crash
def test_a_notebook_with_parameters_is_told_cell_by_cell(here: Path) -> None:
    """Cells, steps and restarts are lines on stderr; the parameters stand in the notebook."""
    written(
        here / "a.ipynb",
        SETUP + "DEADLY = False",
        "year = 1\nname = ''",
        AGENT,
        "print(year + 1, name, agent.run({'x': 1}).value)\ndie()",
        tags={1: "parameters"},
    )

    done = cli("run", "a.ipynb", "-p", "year", "2026", "-p", "name", "x y", "--out", "out.ipynb")

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{here / 'out.ipynb'}\n"
    shown = outputs(here / "out.ipynb")
    assert len(shown) == 5
    assert "2027 x y {'x': 20}\n" in shown[4]
    lines = done.stderr.splitlines()
    assert "▸ cell 5/5 print(year + 1, name, agent.run({'x': 1}).value)" in lines
    assert "  ▸ first" in lines
    assert "  ▸   effect" in lines
    assert any(line.startswith("  ✓ second · ") for line in lines)
    assert any(line.startswith("! cell 5: its kernel (pid ") for line in lines)
    assert any(line.startswith("✓ cell 5/5 ") for line in lines)


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_goes_on_when_it_is_given_again(
    here: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end it with 130 and 143 and leave no kernel; then cells are skipped."""
    written(here / "a.ipynb", SETUP + "note('one')", WAIT, "print('end')")
    command = Driving("run", "a.ipynb")
    kernel = waited(here)
    command.process.send_signal(number)
    _, errors = command.process.communicate()
    (here / "mended").touch()

    again = cli("run", "a.ipynb", "--json")

    assert command.process.returncode == 128 + number
    assert f"stopped by {number.name}; run the notebook again to go on from there" in errors
    assert gone(kernel)
    told = json.loads(again.stdout)
    assert (told["skipped"], told["restarts"], told["cells"], told["notes"]) == (1, 0, 3, [])
    assert ledger(here) == {"one": 1, "waiting": 2}


@pytest.mark.crash
def test_a_cell_that_takes_too_long_ends_it_with_124(here: Path) -> None:
    """The error says how long; the same command goes on with that cell."""
    written(here / "a.ipynb", SETUP + "note('one')", WAIT)

    done = cli("run", "a.ipynb", "--timeout", "0.5")

    assert done.returncode == 124
    assert "code cell 2 of " in done.stderr
    assert "it was not done after 0.5 s and was interrupted" in done.stderr
    (here / "mended").touch()
    again = cli("run", "a.ipynb", "--timeout", "30")
    assert again.returncode == 0
    assert again.stderr.startswith("↺ 1 cell had finished before and did not run again\n▸ cell 2/2")


def test_an_unfinished_notebook_is_shown_and_not_taken_for_an_agent(here: Path) -> None:
    """`list`, `show` and `log` have it; what resumes or forks agents leaves it alone."""
    path = written(here / "a.ipynb", SETUP + "note('one')", "1 / 0")
    done = cli("run", "a.ipynb", "-p", "text", "12 and more")
    assert done.returncode == 1
    thread = notebook_thread()
    with na.Journal.open() as journal:
        assert na.unfinished(journal) == []
        with pytest.raises(DefinitionError, match=r"is a notebook and no agent: .* run .*a\.ipynb"):
            na.resume(thread, journal=journal)
        with pytest.raises(UnknownThreadError, match="waiting to be resumed"):
            na.resume(journal=journal)

    shown = inside("show", thread).stdout
    assert "cell 2" in shown
    assert "✓ returned" in shown
    assert "it raised ZeroDivisionError" in shown
    command = f"notebook-agents run {path} -p text '12 and more'"
    assert "".join(command.split()) in "".join(shown.split())  # its lines are cut where they end
    assert inside("fork", thread).exit_code == 2
    assert "step_returned  cell 1" in inside("log", thread).stdout
    assert "a.ipynb" in inside("list").stdout


def test_a_finished_one_is_shown_and_can_be_removed(here: Path) -> None:
    """Its value is where its outputs are; a compaction takes its variables, `delete` all of it."""
    written(here / "a.ipynb", "big = 'secret of the variables' * 1000\nn = 0", "n += 1", "n")
    assert cli("run", "a.ipynb").returncode == 0
    thread = notebook_thread()

    assert "'cells': 3" in inside("show", thread).stdout
    told = json.loads(inside("show", thread, "--json").stdout)
    assert [step["name"] for step in told["steps"]] == ["cell 1", "cell 2", "cell 3"]
    with na.Journal.open() as journal:
        assert len(journal.select(thread=thread, kinds=["snapshot"])) == 2
    for command in ("check", "prune --keep 1", "compact", "check"):
        assert inside("journal", *command.split()).exit_code == 0, command
    with na.Journal.open() as journal:
        assert journal.select(thread=thread, kinds=["snapshot"]) == []
    assert "'cells': 3" in inside("show", thread).stdout
    assert inside("delete", thread, "--yes").exit_code == 0
    assert threads() == {}


@pytest.mark.crash
def test_a_notebook_is_cancelled_wherever_it_runs(here: Path) -> None:
    """`cancel` interrupts its process; a run that nobody drives is ended at once."""
    written(here / "a.ipynb", SETUP + "note('one')", WAIT)
    command = Driving("run", "a.ipynb")
    waited(here)

    assert cli("cancel", notebook_thread()).returncode == 0

    command.process.communicate()
    assert threads()[notebook_thread()]["status"] == RunStatus.CANCELLED
    written(here / "b.ipynb", "1 / 0")
    assert cli("run", "b.ipynb").returncode == 1
    failed = next(name for name in threads() if name.startswith("b-"))
    assert inside("cancel", failed).exit_code in (0, 1)
    assert threads()[failed]["status"] == RunStatus.CANCELLED


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a.ipynb", "--key", "k"), "--key means nothing for a notebook"),
        (("a.ipynb", "-p", "a-b", "1"), "'a-b' is no name of a Python variable"),
        (("agents.py:worker", "-p", "a", "1"), "--parameter means nothing for an agent"),
        (("agents.py:worker", "--no-resume"), "--no-resume means nothing for an agent"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    here: Path, words: tuple[str, ...], says: str
) -> None:
    """Before anything runs, with exit code 2."""
    written(here / "a.ipynb", "1")

    done = inside("run", *words)

    assert done.exit_code == 2
    assert says in done.output
