"""A run that another process drives is cancelled there."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from support.checks import State, add, chain
from support.holding import holding, until

import notebook_agents as na
from notebook_agents.errors import ThreadBusyError
from notebook_agents.graph import requests
from notebook_agents.graph.drive import Drive
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.driver import RunDriver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash.processes import Child
    from support.holding import Held


def never(state: State) -> State:
    """Be the node that must not run."""
    raise AssertionError("it was cancelled before this")


def endless(home, log) -> Child:
    """Have another process drive thread `t`, in a node that awaits for ever."""
    inside = os.pipe()

    async def wait(state: State) -> State:
        os.write(inside[1], b"x")
        await asyncio.get_running_loop().create_future()
        return {}

    def program() -> None:
        with na.Journal.open(home) as journal:
            agent = na.Agent(chain(wait, never), "endless", journal)
            run = asyncio.run(agent.arun({"n": 1}, thread="t"))
            assert run.status is RunStatus.CANCELLED

    child = fork(program, log)
    os.close(inside[1])
    assert os.read(inside[0], 1) == b"x", log.read_text()
    os.close(inside[0])
    return child


@pytest.fixture
def held(home, tmp_path) -> Iterator[Held]:
    """Have another process drive thread `t`, in a node in front of one that must not run."""
    with holding(home, tmp_path, never) as one:
        yield one


def test_an_async_step_of_another_process(home, tmp_path):
    """What awaits there is cancelled where it stands, within a second."""
    child = endless(home, tmp_path / "log")
    with na.Journal.open(home) as journal:
        na.cancel("t", journal=journal)
        seconds = until(lambda: journal.thread("t").status is RunStatus.CANCELLED)
        assert seconds < 1.0
        assert na.Run(journal, "t", 1).steps[0].outcome is Outcome.UNCERTAIN
    assert child.end() == 0, child.log.read_text()


def test_a_sync_step_of_another_process(home, held, cli):
    """It is let finish, its result is kept, and the run ends there; no other step begins."""
    done = cli("cancel", "t", "--journal", str(home), "--json")
    assert json.loads(done.out) == {"thread": "t", "run": 1, "status": "running"}
    assert held.let_go() == 0
    with na.Journal.open(home) as journal:
        run = na.cancel("t", journal=journal)
        assert run.status is RunStatus.CANCELLED
        assert [step.outcome for step in run.steps] == [Outcome.RETURNED]


def test_a_stopped_process_takes_no_note(home, held, monkeypatch):
    """Whoever cancels is told so; the wish stands, and is heard when the process goes on."""
    monkeypatch.setattr(requests, "_PATIENCE_SECONDS", 0.3)
    held.stop()
    with na.Journal.open(home) as journal:
        with pytest.raises(ThreadBusyError, match="takes no note of being cancelled, stop it"):
            na.cancel("t", journal=journal)
        held.go_on()
        token = journal.head("t").token
        until(lambda: not journal.leases.stands("t", token))
        assert held.let_go() == 0
        assert journal.thread("t").status is RunStatus.CANCELLED


def test_a_wish_is_for_one_driver(home, held):
    """Who takes the thread after the one that was asked is not cancelled."""
    with na.Journal.open(home) as journal:
        held.stop()
        journal.leases.cancel("t", journal.head("t").token)
        held.child.kill()
        assert held.let_go() < 0
        with pytest.raises(AssertionError, match="it was cancelled before this"):
            na.resume("t", journal=journal)


def test_cancelled_while_a_run_is_taken_up(journal, monkeypatch):
    """A run can be cancelled from when it has its thread: no node of it begins."""
    load = RunDriver.load

    def cancelled(driver: RunDriver) -> None:
        na.cancel("t", journal=journal)
        load(driver)

    monkeypatch.setattr(RunDriver, "load", cancelled)
    run = na.Agent(chain(never), "never", journal).run({"n": 1}, thread="t")
    assert (run.status, run.steps) == (RunStatus.CANCELLED, ())


def test_a_wish_that_comes_right_behind_the_claim_stands(journal, monkeypatch):
    """Before there is a run that could be cancelled, the wish is not taken for answered."""
    start = Drive._start
    stands: list[bool] = []

    def asked(drive: Drive, *args: Any) -> None:
        start(drive, *args)
        token = journal.head("t").token
        journal.leases.cancel("t", token)
        journal.leases._answer()
        stands.append(journal.leases.stands("t", token))

    monkeypatch.setattr(Drive, "_start", asked)
    na.Agent(chain(add), "adding", journal).run({"n": 1}, thread="t")
    assert stands == [True]


def test_cancelling_a_run_that_its_driver_puts_down(home, journal, monkeypatch):
    """Where the driver leaves the run unfinished before it takes note, the run is cancelled."""
    stream = na.Agent(chain(never), "never", journal).stream({"n": 1}, thread="t")
    with na.Journal.open(home) as other:
        ask = other.leases.cancel

        def and_close(thread: str, token: int) -> None:
            ask(thread, token)
            stream.close()

        monkeypatch.setattr(other.leases, "cancel", and_close)
        assert na.cancel("t", journal=other).status is RunStatus.CANCELLED
