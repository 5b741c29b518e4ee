"""What every test starts from: its own journal, its own key, and programs run in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from crash.processes import fork

import notebook_agents as na

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 120.0
"""After this a program counts as hung; the slowest honest one takes a few seconds."""


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
    """The directory of a journal that nobody has made yet."""
    return tmp_path / "journal"


@pytest.fixture
def journal(home: Path) -> Iterator[na.Journal]:
    """A fresh journal, closed afterwards."""
    with na.Journal.open(home) as opened:
        yield opened


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


Python = "Callable[..., Ended]"


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Ended]:
    """Run a program in a fresh interpreter, as a script or as an empty one's first command."""

    def run(program: str, *, script: bool = False, **env: str) -> Ended:
        if script:
            path = tmp_path / "program.py"
            path.write_text(program)
            return _ended([sys.executable, str(path)], tmp_path, env)
        return _ended([sys.executable, "-c", program], tmp_path, env)

    return run


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Ended]:
    """Run a command of `notebook-agents` in a process of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, **env: str) -> Ended:
        return _ended([sys.executable, "-m", "notebook_agents", *arguments], cwd, env)

    return run


def _ended(command: list[str], cwd: Path, env: dict[str, str]) -> Ended:
    # Warnings of other people's packages are not what these programs say.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **env},
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def dies(tmp_path: Path) -> Callable[[Callable[[], object]], None]:
    """Run something in a forked process that has to be killed by SIGKILL on the way."""

    def run(body: Callable[[], object]) -> None:
        log = tmp_path / "died.log"
        code = fork(body, log).end()
        assert code == -signal.SIGKILL, f"ended with {code}:\n{log.read_text()}"

    return run
