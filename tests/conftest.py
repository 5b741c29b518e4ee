"""What every test starts from: its own journal, its own key, and programs run in real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from support.checks import AGENTS, add, chain
from support.command_line import drive, here  # noqa: F401 - fixtures
from support.forks import effects  # noqa: F401 - a fixture
from support.holding import held  # noqa: F401 - a fixture
from support.running import Ledger
from support.syscalls import Shim

import notebook_agents as na

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 120.0
"""After this a program counts as hung; the slowest honest one takes a few seconds."""


# A shell's background job ignores SIGINT, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test away from this user's key, this folder's journal and LangSmith's server."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NOTEBOOK_AGENTS_HOME", str(tmp_path / ".notebook_agents"))
    monkeypatch.delenv("NOTEBOOK_AGENTS_KEY", raising=False)
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "false")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Name the directory of a journal that nobody has made yet."""
    return tmp_path / "journal"


@pytest.fixture
def journal(home: Path) -> Iterator[na.Journal]:
    """Open a fresh journal at `home`."""
    with na.Journal.open(home) as opened:
        yield opened


@pytest.fixture
def done(journal: na.Journal) -> na.Run:
    """Finish a run of agent `counter` on thread `t`, in the journal at `home`."""
    return na.Agent(chain(add), "counter", journal).run({"n": 1}, thread="t")


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """Write a module of agents, for the command line."""
    path = tmp_path / "agents.py"
    path.write_text(AGENTS)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Give the steps of a test a place for what they did."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def trips(tmp_path: Path) -> Callable[..., None]:
    """Kill the process the first time that it gets here; `times` kills as many processes."""

    def trip(name: str = "trip", times: int = 1) -> None:
        if Ledger(tmp_path / name).note(os.getpid()) <= times:
            os.kill(os.getpid(), signal.SIGKILL)

    return trip


@pytest.fixture(params=["run", "arun"])
def call(request: pytest.FixtureRequest) -> Callable[..., na.Run]:
    """Call `run`, or `arun` on a loop of its own: both follow the same table."""

    def sync(agent: na.Agent, given: Any, **options: Any) -> na.Run:
        return agent.run(given, **options)

    def on_a_loop(agent: na.Agent, given: Any, **options: Any) -> na.Run:
        return asyncio.run(agent.arun(given, **options))

    return sync if request.param == "run" else on_a_loop


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have code run as from a notebook's cell, as far as IPython tells."""

    def enter(cell: str, notebook: str = "analysis.ipynb") -> None:
        kernel = SimpleNamespace(get_parent=lambda: {"metadata": {"cellId": cell}})
        shell = SimpleNamespace(
            kernel=kernel, user_ns={"__vsc_ipynb_file__": str(tmp_path / notebook)}
        )
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    return enter


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Ended]:
    """Run a program in a fresh interpreter: as a script, or as what an empty one is told to do."""

    def run(program: str, *, script: bool = False, **env: str) -> Ended:
        command = [sys.executable, "-c", program]
        if script:
            path = tmp_path / "program.py"
            path.write_text(program)
            command = [sys.executable, str(path)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            # Warnings of other people's packages are not what the program says.
            env={**os.environ, "PYTHONWARNINGS": "ignore", **env},
            timeout=SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def dies(tmp_path: Path) -> Callable[[Callable[[], object]], None]:
    """Run something in a forked process that has to be killed by SIGKILL on the way."""

    def run(body: Callable[[], object]) -> None:
        log = tmp_path / "died.log"
        code = fork(body, log).end()
        assert code == -signal.SIGKILL, f"ended with {code}:\n{log.read_text()}"

    return run


@pytest.fixture
def forked(tmp_path: Path) -> Callable[[Callable[[], object]], int]:
    """Run something in a forked process; give its exit code, or minus the signal that ended it."""

    def run(body: Callable[[], object]) -> int:
        return fork(body, tmp_path / "forked.log").end()

    return run


@pytest.fixture
def ledger_at(tmp_path: Path) -> Callable[[str], Ledger]:
    """Give a ledger of that name."""
    return lambda name: Ledger(tmp_path / name)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """Compile what fails, writes down or ends the system calls of a child."""
    return Shim.compile(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Ended]:
    """Run a command of `notebook-agents` in a forked process.

    It has this process's imports and nothing else of it, and costs a tenth of a fresh interpreter;
    the installed script runs in `test_packaging.py`.
    """

    def run(*arguments: str, cwd: Path = tmp_path, **env: str) -> Ended:
        out, err = tmp_path / "command.out", tmp_path / "command.err"

        def command() -> None:
            from notebook_agents.cli import main
            from notebook_agents.graph.agent import _live

            _live.clear()  # agents of the test's own process are not there for a command
            os.chdir(cwd)
            os.environ.update(env)
            sys.argv = ["notebook-agents", *arguments]
            for path, descriptor in ((out, 1), (err, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            sys.stdout.flush()
            os._exit(code)

        code = fork(command, tmp_path / "command.log").end()
        return Ended(code, out.read_text(), err.read_text())

    return run
