"""A driver of which nobody can tell whether it lives is asked, and loses its thread by silence."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from support.checks import State, add, chain, says
from support.holding import holding, until

import notebook_agents as na
from notebook_agents import errors, settings
from notebook_agents.journal import locks
from notebook_agents.journal.sql import query
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.holding import Held

LEASE = 1.0


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease last a second, in child processes too."""
    monkeypatch.setenv(settings.LEASE_VARIABLE, str(LEASE))


@pytest.fixture
def elsewhere(home, tmp_path) -> Iterator[Held]:
    """Have a process drive thread `t` that is on another host, as far as it says."""

    def move() -> None:
        locks.host_name = lambda: "elsewhere"

    with holding(home, tmp_path, before=move) as held:
        yield held


def driven(journal: na.Journal) -> bool:
    """Whether thread `t` has a driver."""
    head = journal.head("t")
    return head is not None and head.driven


def busy(journal: na.Journal) -> errors.ThreadBusyError:
    """Try to take thread `t` and be refused."""
    with pytest.raises(errors.ThreadBusyError) as caught:
        na.resume("t", journal=journal)
    return caught.value


def test_a_stopped_driver_loses_its_thread(home, held):
    """Stopped past its lease, another resumes; continued, its writes are refused: one history."""
    held.stop()
    with na.Journal.open(home) as journal:
        refusal = busy(journal)
        says(refusal, "'t'", f"process {held.pid} on {socket.gethostname()}", "since", "from")
        assert (refusal.pid, refusal.host) == (held.pid, socket.gethostname())
        assert refusal.since < datetime.now(UTC) < refusal.expires
        assert until(lambda: not driven(journal)) <= LEASE + 0.2
        assert journal.thread("t").status is RunStatus.ORPHANED
        run = na.resume("t", journal=journal)
        assert (run.status, run.value["n"]) == (RunStatus.SUCCEEDED, 7)
        before = journal.select()
        held.go_on()
        assert held.let_go() == 70
        assert "FencedError: this process no longer drives thread 't'" in held.log
        assert journal.select() == before
        returned = [record for record in before if record.kind is Kind.STEP_RETURNED]
        assert [record.attempt for record in returned] == [2]


def test_a_stopped_driver_that_goes_on_in_time(home, held):
    """Nobody asked, or it answered before its lease was over: it keeps its thread."""
    with na.Journal.open(home) as journal:
        held.stop()
        held.go_on()
        busy(journal)
        held.stop()
        token = journal.head("t").token
        assert busy(journal).expires is not None
        assert journal._queue.requested("t", token, "answer")
        held.go_on()
        assert until(lambda: not journal._queue.requested("t", token, "answer")) < LEASE
        assert busy(journal).expires is None
    assert held.let_go() == 0


def test_a_driver_that_runs_here_is_asked_nothing(home, held):
    """Of a process that runs on this host no answer is needed, so nothing is written."""
    with na.Journal.open(home) as journal:
        refusal = busy(journal)
        assert refusal.expires is None
        assert "cannot be told" not in str(refusal)
        assert not journal._queue.requested("t", refusal.token, "answer")
    assert held.let_go() == 0


def test_a_driver_on_another_host_keeps_its_thread(home, elsewhere):
    """It answers whoever asks while its main thread is inside a node, for longer than a lease."""
    with na.Journal.open(home) as journal:
        token = journal.head("t").token
        answered = 0.0
        while answered < 1.5 * LEASE:
            refusal = busy(journal)
            assert (refusal.host, refusal.token) == ("elsewhere", token)
            answered += until(lambda: not journal._queue.requested("t", token, "answer"))
    assert elsewhere.let_go() == 0


def test_nothing_is_written_while_nobody_asks(home, elsewhere):
    """A driver that nobody disturbs commits nothing to keep its thread."""
    with na.Journal.open(home) as journal:
        before = journal.version()
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > LEASE)
        assert journal.version() == before
    assert elsewhere.let_go() == 0


def test_a_clock_of_another_host_is_not_trusted(home, elsewhere):
    """Only the host that asked judges how long it has waited."""
    elsewhere.stop()
    with na.Journal.open(home) as journal:
        asked = {"thread": "t", "token": journal.head("t").token, "what": "answer"}
        journal._writer.execute(query("queue.ask"), {**asked, "boot": "another/1", "at": -(10**12)})
        assert driven(journal)
        assert busy(journal).expires > datetime.now(UTC)


def test_a_dead_driver_on_another_host_loses_its_thread(home, elsewhere):
    """Nobody can see that it is dead; it does not answer, so its lease ends."""
    os.kill(elsewhere.pid, signal.SIGKILL)
    assert elsewhere.let_go() == -signal.SIGKILL
    with na.Journal.open(home) as journal:
        assert driven(journal)
        busy(journal)
        assert until(lambda: not driven(journal)) <= LEASE + 0.2
        assert na.resume("t", journal=journal).status is RunStatus.SUCCEEDED


def test_a_killed_driver_is_replaced_within_a_second(home, held):
    """On this host the death of a driver is seen at once."""
    os.kill(held.pid, signal.SIGKILL)
    with na.Journal.open(home) as journal:
        assert until(lambda: not driven(journal)) < 1.0
        assert na.resume("t", journal=journal).status is RunStatus.SUCCEEDED


def test_a_thread_is_deleted_when_the_lease_is_over(home, held):
    """Deleting waits for a lease too; the driver that comes back writes nothing."""
    held.stop()
    with na.Journal.open(home) as journal:
        with pytest.raises(errors.ThreadBusyError, match="then delete the thread"):
            journal.delete_thread("t")
        until(lambda: not driven(journal))
        journal.delete_thread("t")
        held.go_on()
        assert held.let_go() == 70
        assert "was deleted" in held.log
        assert journal.threads() == []
        assert journal.wrapped_key("t") is None


INSIDE, GATE = threading.Event(), threading.Event()


def hold(state: State) -> State:
    """Stay inside until let go."""
    INSIDE.set()
    assert GATE.wait(30)
    return {"n": 2}


def test_two_journals_of_one_process(home):
    """A thread that is driven through one is not taken through the other."""
    with na.Journal.open(home) as one, na.Journal.open(home) as other:
        agent = na.Agent(chain(hold), "twice", one)
        worker = threading.Thread(target=lambda: agent.run({"n": 1}, thread="t"))
        worker.start()
        try:
            assert INSIDE.wait(30)
            with pytest.raises(errors.ThreadBusyError, match=f"process {os.getpid()} "):
                na.Agent(chain(add), "twice", other).run({"n": 1}, thread="t")
        finally:
            GATE.set()
            worker.join()
        assert other.thread("t").status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("said", ["soon", "0", "nan", "-3"])
def test_a_lease_that_is_none(monkeypatch, said):
    """A lease that is no number of seconds is refused by name."""
    monkeypatch.setenv(settings.LEASE_VARIABLE, said)
    with pytest.raises(errors.UsageError) as caught:
        settings.lease_seconds()
    says(caught.value, settings.LEASE_VARIABLE, repr(said), "at least 1")
