"""A process that stays inside a write: the others say who it is, and go on when it is gone."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

import pytest
from crash.processes import fork
from test_journal import names, note

from notebook_agents import faults
from notebook_agents.cli.doctor import Level
from notebook_agents.cli.doctor_files import examine_files
from notebook_agents.faults import Fault
from notebook_agents.journal import Journal, stalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crash.processes import Child

    from notebook_agents.cli.doctor import Check


@pytest.fixture
def stopped(home: Path, tmp_path: Path) -> Iterator[Child]:
    """Have a process stopped between its record and its commit."""

    def program() -> None:
        with Journal.open(home) as journal:
            journal.append([note("before")], durable=True)
            faults.arm(
                lambda at: at is Fault.COMMIT_BEFORE and os.kill(os.getpid(), signal.SIGSTOP)
            )
            journal.append([note("stopped")], durable=True)
            faults.arm(None)

    child = fork(program, tmp_path / "stopped.log")
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), child.log.read_text()
    yield child
    child.kill()


def waiting(home: Path, to: int) -> None:
    """Append a record; write what is logged meanwhile to a descriptor, one line each."""
    handler = logging.StreamHandler(os.fdopen(to, "w", buffering=1))
    logging.getLogger("notebook_agents").addHandler(handler)
    stalls.LONG_SECONDS = 0.1
    signal.alarm(20)  # who never says anything waits for ever
    with Journal.open(home) as journal:
        journal.append([note("waited")], durable=True)


def write_lock(home: Path) -> Check:
    """Return the doctor's check."""
    return next(check for check in examine_files(home) if check.name == "write lock")


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_who_waits_for_a_stopped_writer_says_so_once(
    end: signal.Signals, home: Path, tmp_path: Path, stopped: Child
) -> None:
    """The process, since when, and the way out; the doctor says it too; then writing goes on."""
    said, saying = os.pipe()
    waiter = fork(lambda: waiting(home, saying), tmp_path / "waiter.log")
    os.close(saying)
    with os.fdopen(said) as lines:
        told = lines.readline()
        check = write_lock(home)  # that takes several of the waiter's looks
        stopped.kill(end)
        assert waiter.end() == 0, waiter.log.read_text()
        assert lines.read() == ""
    for text in (told, f"{check.found}: {check.remedy}"):
        assert f"process {stopped.pid} (stopped) has kept the write lock" in text
        assert str(home) in text
        assert " UTC, or longer" in text
        assert f"kill -CONT {stopped.pid}" in text
    assert check.level is Level.BAD
    assert "nothing was recorded after" in check.found
    assert stopped.end() == (0 if end is signal.SIGCONT else -signal.SIGKILL)
    assert write_lock(home).level is Level.OK
    with Journal.open(home) as journal:
        assert names(journal) == [
            "before",
            *(["stopped"] if end is signal.SIGCONT else []),
            "waited",
        ]
