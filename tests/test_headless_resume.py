"""A notebook without a browser survives its kernel and its runner: real kernels, real SIGKILLs."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.notebooks import AGENT, SETUP, counts, gone, ledger, outputs, written

import notebook_agents as na
from notebook_agents.errors import ThreadBusyError
from notebook_agents.model import NOTEBOOK, RunStatus
from notebook_agents.notebook.cells import CellEvent, CellState
from notebook_agents.notebook.errors import CellFailedError, KernelDiedError
from notebook_agents.notebook.headless import arun_notebook, run_notebook

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_agents.model import ThreadInfo

RUNNER = """\
import sys
from notebook_agents.notebook.headless import run_notebook
run_notebook(sys.argv[1], on_kernel=lambda pid: print(pid, flush=True))
"""

KINDS = """\
from enum import Enum
class Color(Enum):
    RED = 1
a = b = [Color.RED]
def double():
    return factor * 2
factor = 1
_kept = 3
note("two")
print("second")"""

IMMORTAL = """\
os.getppid = lambda parent=os.getppid(): parent  # its poller does not see that its parent is gone
note(f"pid {os.getpid()}")"""

WAIT = """\
import time
note("waiting")
if Path("ledger").read_text().count("waiting") < 2:
    time.sleep(600)
before = [Path(f"/proc/{line[4:].strip()}/stat") for line in open("ledger") if line[:3] == "pid"]
print([path.exists() and " Z " not in path.read_text() for path in before])"""


@pytest.fixture(autouse=True)
def own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the journal that a notebook finds beside itself."""
    monkeypatch.delenv("NOTEBOOK_AGENTS_HOME")


def threads(folder: Path, *, of_notebooks: bool = True) -> list[ThreadInfo]:
    """Return the threads of a folder's journal that are notebooks, or those that are not."""
    with na.Journal.open(folder / ".notebook_agents", create=False) as journal:
        found = journal.threads()
    return [info for info in found if (info.agent == NOTEBOOK) is of_notebooks]


def waiting(notebook: Path, runner: subprocess.Popen[str]) -> int:
    """Return the kernel's process id when its cell waits."""
    assert runner.stdout is not None
    kernel = int(runner.stdout.readline())
    while not ledger(notebook.parent)["waiting"]:
        assert runner.poll() is None
    return kernel


def runner(notebook: Path) -> subprocess.Popen[str]:
    """Run a notebook in another process, which tells its kernel's id."""
    command = [sys.executable, "-c", RUNNER, str(notebook)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.crash
def test_a_killed_kernel_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    """Finished cells do not run again, and the cut-off cell's agent has its effect once."""
    sources = [
        SETUP + "DEADLY = True\nnote('one')\n'first'",
        KINDS,
        AGENT + "note('three')",
        "value = agent.run({'x': 1}).value\nvalue",
        "factor = 21\na.append(4)\nprint(b[0] is Color.RED, b[1], double(), value, _kept)",
    ]
    notebook = written(tmp_path / "a.ipynb", *sources)
    events: list[CellEvent] = []
    kernels: list[int] = []

    result = run_notebook(notebook, on_cell=events.append, on_kernel=kernels.append)

    assert (result.restarts, result.skipped, len(kernels)) == (1, 0, 2)
    assert len(result.notes) == 1
    assert "died by signal 9" in result.notes[0]
    did = ledger(tmp_path)
    assert (did["one"], did["two"], did["three"], did["effect"], did["death"]) == (1, 1, 1, 1, 2)
    shown = outputs(result.path)
    assert shown[:3] == ["'first'", "second\n", ""]
    assert shown[3].endswith("{'x': 20}")
    assert shown[4] == "True 4 42 {'x': 20} 3\n"
    assert counts(result.path) == [1, 2, 3, 4, 5]
    assert [e.number for e in events if e.state is CellState.STARTED] == [1, 2, 3, 4, 4, 5]
    assert all(gone(kernel) for kernel in kernels)


@pytest.mark.crash
def test_a_killed_runner_is_followed_by_the_same_call(tmp_path: Path) -> None:
    """The same call goes on, and the kernel that was left behind is gone before a cell runs."""
    notebook = written(tmp_path / "a.ipynb", SETUP + IMMORTAL, "x = 5\nprint('two')", WAIT, "x")
    with runner(notebook) as first:
        kernel = waiting(notebook, first)
        first.kill()
    assert not gone(kernel)

    result = run_notebook(notebook)

    assert gone(kernel)
    assert result.skipped == 2
    assert outputs(result.path) == ["", "two\n", "[False]\n", "5"]
    assert counts(result.path) == [1, 2, 3, 4]
    assert ledger(tmp_path) == {"pid": 1, "waiting": 2}
    (thread,) = threads(tmp_path)
    assert (thread.status, thread.returned) == (RunStatus.SUCCEEDED, 4)


@pytest.mark.crash
def test_what_is_being_run_is_not_run_beside_it(tmp_path: Path) -> None:
    """A second call of a notebook that another process runs is refused and says who does."""
    notebook = written(tmp_path / "a.ipynb", SETUP, WAIT)
    with runner(notebook) as first:
        kernel = waiting(notebook, first)
        for resume in (True, False):
            with pytest.raises(ThreadBusyError, match=f"process {first.pid} ") as caught:
                run_notebook(notebook, resume=resume)
            assert caught.value.exit_code == 5
        assert not gone(kernel)
        first.send_signal(signal.SIGTERM)
        assert first.stderr is not None
        assert "stopped by SIGTERM; run the notebook again" in first.stderr.read()

    assert run_notebook(notebook).skipped == 1  # and goes on where that was stopped


def test_from_the_first_changed_cell_on_everything_runs_again(tmp_path: Path) -> None:
    """Cells before the change are skipped; the changed one and those behind it run again."""
    third = "note('three')\nassert not Path('flag').exists()"
    notebook = written(tmp_path / "a.ipynb", SETUP + "note('one')", "x = 1", third, "x / 0")
    with pytest.raises(CellFailedError, match="cell 4"):
        run_notebook(notebook)
    written(notebook, SETUP + "note('one')", "note('two')\nx = 2", third, "x")
    (tmp_path / "flag").touch()
    notes: list[str] = []
    with pytest.raises(CellFailedError, match="cell 3"):
        run_notebook(notebook, on_note=notes.append)
    (tmp_path / "flag").unlink()

    result = run_notebook(notebook)

    assert result.skipped == 2  # what the third did before the change does not count
    assert (notes, result.notes) == (["from cell 2 on the notebook has changed"], ())
    assert ledger(tmp_path) == {"one": 1, "two": 1, "three": 3}
    assert outputs(result.path) == ["", "", "", "2"]


@pytest.mark.crash
def test_an_agent_that_had_answered_in_the_broken_cell_is_not_asked_again(tmp_path: Path) -> None:
    """A run without a thread's name, finished when its cell was cut off, is found by the cell."""
    cell = "value = agent.run({'x': 1}).value\ndie()\nvalue"
    notebook = written(tmp_path / "a.ipynb", SETUP + "DEADLY = False", AGENT, cell)

    result = run_notebook(notebook)

    assert result.restarts == 1
    assert ledger(tmp_path)["effect"] == 1
    assert outputs(result.path)[2].endswith("{'x': 20}")
    assert len(threads(tmp_path, of_notebooks=False)) == 1


@pytest.mark.crash
def test_from_what_cannot_be_kept_on_cells_run_again(tmp_path: Path) -> None:
    """A lock is named when it is made; the cell that made it and those behind it run again."""
    sources = [
        SETUP + "note('one')",
        "import threading\nlock = threading.Lock()\nnote('two')",
        "note('three')",
        "die()\ndel lock",
        "note('five')\ndie(3)",
    ]
    notebook = written(tmp_path / "a.ipynb", *sources)

    result = run_notebook(notebook)

    did = ledger(tmp_path)
    assert (did["one"], did["two"], did["three"], did["five"], did["death"]) == (1, 2, 2, 2, 4)
    named = [text for text in result.notes if "the variable lock behind cell 2" in text]
    assert "a lock or something to wait for (_thread.lock)" in named[0]
    again = [text for text in result.notes if "run again" in text]
    assert len(again) == 1
    assert again[0].startswith("cells 2 to 3 run again")
    assert "lock" in again[0]


def test_variables_that_take_too_much_are_said_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the size that is set nothing is kept, and the cells run again."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_VARIABLES_MB", "0.1")
    sources = [
        SETUP + "note('one')",
        "note('two')\nx = b'x' * 200_000",
        "1 / len(list(Path('.').glob('mended')))",
    ]
    notebook = written(tmp_path / "a.ipynb", *sources)
    with pytest.raises(CellFailedError):
        run_notebook(notebook)
    (tmp_path / "mended").touch()

    result = run_notebook(notebook)

    assert ledger(tmp_path) == {"one": 1, "two": 2}
    assert any("x behind cell 2 cannot be kept (it takes more than 0.1" in t for t in result.notes)


@pytest.mark.crash
def test_a_cell_that_kills_each_kernel_ends_the_notebook(tmp_path: Path) -> None:
    """After so many restarts the cell is named with what killed it; the same call tries again."""
    notebook = written(tmp_path / "a.ipynb", SETUP + "note('one')", "die(2)\nnote('done')")

    with pytest.raises(KernelDiedError) as caught:
        run_notebook(notebook, restarts=1)

    assert caught.value.signum == signal.SIGKILL
    assert "code cell 2 of " in str(caught.value)
    assert "by signal 9 (SIGKILL), the last of 2 that died in this cell" in str(caught.value)
    (thread,) = threads(tmp_path)
    assert thread.status is RunStatus.FAILED
    assert run_notebook(notebook).skipped == 1
    assert ledger(tmp_path) == {"one": 1, "death": 3, "done": 1}


def test_a_notebook_that_ended_begins_anew(tmp_path: Path) -> None:
    """The next call of a finished notebook runs all of it, and its agents answer anew."""
    sources = [SETUP + "DEADLY = False", AGENT, "agent.run({'x': 1}).value"]
    notebook = written(tmp_path / "a.ipynb", *sources)

    first, second = run_notebook(notebook), run_notebook(notebook)

    assert first.thread != second.thread
    assert second.skipped == 0
    assert ledger(tmp_path) == {"effect": 2}
    assert {info.status for info in threads(tmp_path)} == {RunStatus.SUCCEEDED}
    assert len(threads(tmp_path, of_notebooks=False)) == 2


def test_an_unfinished_one_is_started_over_where_that_is_asked(tmp_path: Path) -> None:
    """Without resume all cells run again, and the unfinished run is cancelled."""
    notebook = written(tmp_path / "a.ipynb", SETUP + "note('one')", "1 / 0")
    with pytest.raises(CellFailedError):
        run_notebook(notebook)

    with pytest.raises(CellFailedError):
        run_notebook(notebook, resume=False)

    assert ledger(tmp_path) == {"one": 2}
    assert [info.status for info in threads(tmp_path)] == [RunStatus.FAILED, RunStatus.CANCELLED]


def test_other_parameters_are_another_run(tmp_path: Path) -> None:
    """Runs with other parameters neither go on with each other nor take each other's thread."""
    notebook = written(
        tmp_path / "a.ipynb",
        SETUP,
        "year = 1",
        "note(year)\n1 / (year - 1)",
        tags={1: "parameters"},
    )
    with pytest.raises(CellFailedError):
        run_notebook(notebook)

    result = run_notebook(notebook, {"year": 2026})

    assert result.skipped == 0
    assert ledger(tmp_path) == {"1": 1, "2026": 1}
    assert outputs(result.path)[2] == ""
    with pytest.raises(CellFailedError):
        run_notebook(notebook)
    assert ledger(tmp_path) == {"1": 2, "2026": 1}


@pytest.mark.crash
async def test_a_cancelled_task_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """Cancelling `arun_notebook` interrupts the cell and leaves no kernel; the next goes on."""
    block = "import time\nwhile not Path('mended').exists():\n    time.sleep(0.01)"
    notebook = written(tmp_path / "a.ipynb", SETUP + "note('one')", block)
    kernels: list[int] = []
    loop, waits = asyncio.get_running_loop(), asyncio.Event()

    def tell(event: CellEvent) -> None:
        if event.number == 2:
            loop.call_soon_threadsafe(waits.set)

    work = arun_notebook(notebook, on_kernel=kernels.append, on_cell=tell)
    task = asyncio.ensure_future(work)
    await waits.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert gone(kernels[0])
    (tmp_path / "mended").touch()
    assert (await arun_notebook(notebook)).skipped == 1
    assert ledger(tmp_path) == {"one": 1}


@pytest.mark.crash
def test_a_notebook_of_skipped_cells_renders(tmp_path: Path) -> None:
    """Nbconvert makes a page of it that has the outputs of skipped cells, tables and images."""
    table = "from IPython.display import HTML\nprint('<i>')\nHTML('<b>bold</b>')"
    notebook = written(tmp_path / "a.ipynb", SETUP + table, "die()\nprint('the end')")
    result = run_notebook(notebook)
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(result.path))

    assert "<b>bold</b>" in page
    assert "&lt;i&gt;" in page
    assert "the end" in page
