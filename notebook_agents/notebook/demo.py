"""The demo: a kernel is killed in the middle of a fan-out, and an empty one goes on.

Everything is real: the kernel is a Jupyter kernel, the signal is SIGKILL, the input is the Python
environment, and the check reads two files that the crash cannot reach: the journal, and the ledger
of outside effects.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import UsageError
from notebook_agents.model import NOTEBOOK as A_NOTEBOOK
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.notebook.cells import write_atomic
from notebook_agents.notebook.errors import KernelDiedError
from notebook_agents.notebook.execution import SESSION_VARIABLE
from notebook_agents.notebook.headless import run_notebook
from notebook_agents.resources import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from notebook_agents.model import RunView

NOTEBOOK = "01_kill_and_resume.ipynb"
RESUME = "import notebook_agents as na\n\nrun = na.resume()"
"""All that the empty kernel is told."""

_CELLS = {"resume": RESUME, "look": "run"}
_MARK = ".notebook-agents-demo"
_EFFECT = "measure"
"""The durable call that writes a line into the ledger."""
_PYTHON_VARIABLE = "AUDIT_PYTHON"
_COUNT = "import importlib.metadata as m; print(sum(1 for _ in m.distributions()))"
_POLL_SECONDS = 0.001
_TIMEOUT_SECONDS = 600.0
"""For environments far larger than those that take seconds."""
_TRIES = 3
_FEWEST = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What the demo did, and whether what it promises was true.

    Attributes:
        ok: Whether every check held.
        problems: What did not hold, one sentence each.
        killed_pid: The process id of the kernel that was killed.
        resumed_pid: The process id of the empty kernel that went on; 0 if there was none.
        signal: The signal that ended the first one, as the system reports it; None if none did.
        thread: The agent's thread.
        journal: The journal's directory.
        ledger: The file with one line per outside effect.
        report: The agent's report.
        distributions: How many distributions the environment has.
        lines_at_kill: How many lines the ledger had when the kernel was dead.
        lines: How many it has now.
        repeated: How many effects stand there twice; all of them were in doubt.
        steps: How many steps the run has, durable calls included.
        replayed: How many of them the second kernel did not run again.
        in_doubt: How many may or may not have happened when the first kernel died.
        seconds_saved: What the replayed nodes took when they ran.
        seconds: How long the demo took.
    """

    ok: bool
    problems: tuple[str, ...]
    killed_pid: int
    resumed_pid: int
    signal: int | None
    thread: str
    journal: str
    ledger: str
    report: str
    lines_at_kill: int
    lines: int
    repeated: int
    steps: int
    replayed: int
    in_doubt: int
    seconds_saved: float
    distributions: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a demo keeps its things."""

    home: Path

    @property
    def journal(self) -> Path:
        return self.home / "journal"

    @property
    def ledger(self) -> Path:
        return self.home / "ledger.jsonl"

    @property
    def report(self) -> Path:
        return self.home / "report.md"

    def lines(self) -> list[dict[str, Any]]:
        """Return the ledger's lines."""
        if not self.ledger.exists():
            return []
        return [json.loads(line) for line in self.ledger.read_text(encoding="utf-8").splitlines()]

    def view(self) -> RunView | None:
        """Return what the journal tells about the run; None before it has one."""
        from notebook_agents.journal import Journal
        from notebook_agents.runtime.view import run_view

        with Journal.open(self.journal) as journal:
            threads = [info for info in journal.threads() if info.agent != A_NOTEBOOK]
            return run_view(journal, threads[0].thread) if threads else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kill:
    """How the first kernel died, and what was on disk then."""

    pid: int
    signum: int | None
    lines: int
    view: RunView

    @property
    def returned(self) -> frozenset[str]:
        """The keys of the steps that had returned."""
        steps = self.view.steps
        return frozenset(step.key for step in steps if step.outcome is Outcome.RETURNED)


def run_demo(
    *,
    out: Path,
    say: Callable[[str], None],
    record: Path | None = None,
    python: Path | None = None,
    share: float = 1 / 3,
) -> DemoResult:
    """Run the demo notebook, kill its kernel in the middle, and let an empty one go on.

    Args:
        out: A folder for all that it makes. One that an earlier demo made is emptied first.
        say: Called with each piece of text to print.
        record: Where the result is written as JSON; by default `demo.json` in the working folder.
        python: The interpreter whose environment is audited; by default this one.
        share: How much of the fan-out has to be done before the kernel is killed.

    Returns:
        What happened, and whether every check held.

    Raises:
        UsageError: `out` holds other things, or `python` does not run or has too few distributions.
        MissingPartError: nbclient or ipykernel is not installed.
        NotebookError: The notebook failed for another reason than the kill, or could not go on.
    """
    began = time.monotonic()
    place, record = _Place(home=out.absolute()), (record or Path("demo.json")).absolute()
    notebook, count = resource("notebooks", NOTEBOOK), _distributions(python)
    if count < _FEWEST:
        raise UsageError(_too_few(python, count))
    _empty(place.home)
    record.unlink(missing_ok=True)
    say(f"1. A kernel runs {NOTEBOOK}. Its agent audits this environment:")
    say(f"   {python or sys.executable}, {count} distributions.")
    kill = _kill_in_the_middle(notebook, place, python, count, share, say)
    pid = _resume(notebook, place, say)
    after = place.view()
    assert after is not None
    result = _judge(kill, pid, after, place)
    result = replace(result, distributions=count, seconds=round(time.monotonic() - began, 3))
    write_atomic(record, json.dumps(asdict(result), indent=2) + "\n")
    _say_result(result, after, place, say)
    say(f"   {'result':10}{_short(record)}")
    return result


def _distributions(python: Path | None) -> int:
    """Count what is installed in an interpreter's environment."""
    command = [str(python or sys.executable), "-c", _COUNT]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603
        return int(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{command[0]} is no Python that runs ({error}); check the path") from None


def _empty(home: Path) -> None:
    """Make the folder, or empty it if a demo made it.

    Raises:
        UsageError: It holds something else.
    """
    if home.exists():
        if not home.is_dir() or (any(home.iterdir()) and not (home / _MARK).exists()):
            raise UsageError(f"{home} was not made by the demo; name a new folder with --out")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / _MARK).touch()


def _kill_in_the_middle(
    notebook: Path,
    place: _Place,
    python: Path | None,
    count: int,
    share: float,
    say: Callable[[str], None],
) -> _Kill:
    """Run the notebook and kill its kernel while distributions are still to be measured."""
    for _ in range(_TRIES):
        kill = _run_and_kill(notebook, place, python, max(1, math.ceil(count * share)))
        if kill.signum is not None and kill.lines < count:
            name = signal.Signals(kill.signum).name
            begun, returned = len(kill.view.steps), len(kill.returned)
            say(f"2. Signal {kill.signum} ({name}) killed kernel {kill.pid} in the middle:")
            say(f"   {kill.lines} of {count} distributions are in the ledger of outside effects.")
            say(
                f"   The journal has {returned} steps that returned, and {begun - returned} that "
                "started and may or\n   may not have happened."
            )
            return kill
        say("   The fan-out was over before the signal came. Once more, from the start.")
        _empty(place.home)
    raise UsageError(_too_few(python, count))


def _too_few(python: Path | None, count: int) -> str:
    return (
        f"{python or sys.executable} has {count} distributions, too few for a kill in their midst; "
        "name an environment that has more"
    )


def _run_and_kill(notebook: Path, place: _Place, python: Path | None, lines: int) -> _Kill:
    """Run the notebook and kill its kernel when the ledger has so many lines."""
    with _killer(place, lines) as aim:
        try:
            result = run_notebook(
                notebook,
                out=place.home / "killed.ipynb",
                journal=place.journal,
                on_kernel=aim,
                restarts=0,
                timeout=_TIMEOUT_SECONDS,
                cwd=place.home,
                environment={} if python is None else {_PYTHON_VARIABLE: str(python)},
            )
            pid, signum = result.kernel, None
        except KernelDiedError as error:
            if error.signum != signal.SIGKILL:
                raise
            pid, signum = error.kernel, error.signum
    view = place.view()
    assert view is not None  # the ledger has lines, so the journal had the run before them
    return _Kill(pid=pid, signum=signum, lines=len(place.lines()), view=view)


@contextmanager
def _killer(place: _Place, lines: int) -> Iterator[Callable[[int], None]]:
    """Give a function that has a process killed as soon as the ledger has so many lines."""
    over = threading.Event()
    watchers: list[threading.Thread] = []

    def watch(pid: int) -> None:
        while not over.wait(_POLL_SECONDS):
            if place.ledger.exists() and place.ledger.read_bytes().count(b"\n") >= lines:
                os.kill(pid, signal.SIGKILL)
                return

    def aim(pid: int) -> None:
        watchers.append(threading.Thread(target=watch, args=(pid,), daemon=True))
        watchers[-1].start()

    try:
        yield aim
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()


def _resume(notebook: Path, place: _Place, say: Callable[[str], None]) -> int:
    """Let a fresh kernel resume the run; return its process id."""

    def tell(pid: int) -> None:
        say(f"3. A fresh, empty kernel (pid {pid}) runs nothing but:")
        say(indent(RESUME, "     ", lambda line: line.strip() != ""))

    path = place.home / "resumed.ipynb"
    cell: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
    }
    cells = [{**cell, "id": name, "source": source} for name, source in _CELLS.items()]
    empty = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    write_atomic(path, json.dumps(empty))
    result = run_notebook(
        path,
        out=path,
        journal=place.journal,
        on_kernel=tell,
        timeout=_TIMEOUT_SECONDS,
        # In JupyterLab it would be this notebook's kernel that was started anew.
        environment={SESSION_VARIABLE: str(notebook)},
    )
    return result.kernel


def _judge(kill: _Kill, pid: int, after: RunView, place: _Place) -> DemoResult:
    """Compare the journal with the ledger."""
    lines = place.lines()
    count = Counter(line["key"] for line in lines)
    problems = [
        *_kernel_problems(kill, pid, after),
        *_step_problems(kill, after, count),
        *_line_problems(kill, lines),
    ]
    if not place.report.exists():
        problems.append(f"there is no report at {place.report}")
    return DemoResult(
        ok=not problems,
        problems=tuple(problems),
        killed_pid=kill.pid,
        resumed_pid=pid,
        signal=kill.signum,
        thread=after.thread,
        journal=str(place.journal),
        ledger=str(place.ledger),
        report=str(place.report),
        lines_at_kill=kill.lines,
        lines=len(lines),
        repeated=sum(number > 1 for number in count.values()),
        steps=len(after.steps),
        replayed=sum(step.replayed for step in after.steps),
        in_doubt=len(after.doubtful),
        seconds_saved=round(after.seconds_saved, 3),
    )


def _kernel_problems(kill: _Kill, pid: int, after: RunView) -> Iterator[str]:
    if kill.signum is None:
        yield f"kernel {kill.pid} came to its end before the signal did"
    if pid == kill.pid:
        yield f"both kernels had the process id {pid}"
    if after.status is not RunStatus.SUCCEEDED:
        yield f"the run is {after.status}, not succeeded"


def _step_problems(kill: _Kill, after: RunView, count: Mapping[str, int]) -> Iterator[str]:
    effects = {step.key: step for step in after.steps if step.name == _EFFECT}
    for step in after.steps:
        last = step.attempts[-1]
        if step.key in kill.returned and last.session > kill.view.sessions:
            yield f"step {step.name} ({step.id}) had returned before the kill and ran again"
    for key, step in effects.items():
        most = len(step.attempts) if step.was_in_doubt else 1
        if not 1 <= count.get(key, 0) <= most:
            yield f"the ledger has {count.get(key, 0)} lines of step {step.id}, not 1 to {most}"
    for key in count.keys() - effects.keys():
        yield f"the ledger has a line with the key {key}, which no step has"


def _line_problems(kill: _Kill, lines: list[dict[str, Any]]) -> Iterator[str]:
    keys_of = defaultdict(set)
    for line in lines:
        keys_of[line["info"]].add(line["key"])
        if line["key"] in kill.returned and line["pid"] != kill.pid:
            yield f"{line['info']} was measured before the kill, but its line is of {line['pid']}"
    for info, keys in keys_of.items():
        if len(keys) > 1:
            yield f"{info} was measured under {len(keys)} idempotency keys"


def _say_result(
    result: DemoResult, after: RunView, place: _Place, say: Callable[[str], None]
) -> None:
    from notebook_agents.runtime.timeline import to_text

    say("4. The run, as the journal tells it:\n")
    say(indent(to_text(after), "   "))
    effects = [step for step in after.steps if step.name == _EFFECT]
    say(f"\n5. The ledger has {result.lines} lines for {len(effects)} outside effects:")
    if result.ok:
        old = sum(step.replayed for step in effects)
        doubtful = sum(step.was_in_doubt for step in effects)
        say(f"   {old} had returned before the kill. Each stands there once: none ran again.")
        say(f"   {doubtful} were in doubt: they ran again under the same idempotency key.")
        say(f"   {result.repeated} of these had reached the ledger before; they stand there twice.")
        say(f"   {len(effects) - old - doubtful} had not begun. Each stands there once.\n")
        say(f"Every check held. {result.seconds_saved:.1f} s of work were not done again.")
    else:
        say("   This is not as it should be:")
        for problem in result.problems:
            say(f"   - {problem}")
        say("")
    for what, path in {
        "report": place.report,
        "ledger": place.ledger,
        "journal": place.journal,
        "notebooks": place.home / "*.ipynb",
    }.items():
        say(f"   {what:10}{_short(path)}")


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
