"""What people do to conversations by way of the server."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import notebook_agents as na

from .agents import add, ask, chained, fail, look, pay

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from .served import Served


def test_resolve(
    server: Served, home: Path, where: str, dies: Callable[[Callable[[], object]], None]
) -> None:
    """What is said of a step in doubt is what the next resume goes on with."""

    def body() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chained(pay), "payer", journal).run({"n": 0}, thread="t")

    dies(body)
    with na.Journal.open(home) as journal:
        agent = na.Agent(chained(pay), "payer", journal)
        assert agent.resume("t").status == "in_doubt"
        state = server.ask("threads/t/runs/newest", journal=where)
        (step,) = [step for step in state["steps"] if step["undecided"]]
        asked = {"step": step["id"], "happened": True, "result": "receipt 7"}
        done = server.ask("threads/t/resolve", "POST", journal=where, sent=asked)
        assert done["thread"]["status"] == "in_doubt" and "resume" in done["said"]
        assert agent.resume("t").value["said"] == "receipt 7"
        again = server.ask("threads/t/resolve", "POST", journal=where, sent=asked, expect=409)
        assert again["code"] == "not_in_doubt"


def test_fork_from_a_step(server: Served, journal: na.Journal, where: str) -> None:
    """The fork is another conversation, which a resume goes on with from that step."""
    agent = na.Agent(chained(add, look), "looker", journal)
    agent.run({"n": 0}, thread="t")
    steps = {s["name"]: s for s in server.ask("threads/t/runs/1", journal=where)["steps"]}
    asked = {"at": steps["look"]["id"], "name": "second"}
    made = server.ask("threads/t/fork", "POST", journal=where, sent=asked, expect=201)
    assert made["thread"]["thread"] == "second" and made["thread"]["status"] == "pending"
    run = agent.resume("second")
    assert [step.name for step in run.view.replayed] == ["add"]
    again = server.ask("threads/t/fork", "POST", journal=where, sent=asked, expect=409)
    assert again["code"] == "thread_exists"
    named = server.ask("threads/t/fork", "POST", journal=where, expect=201)
    assert named["thread"]["thread"].startswith("t-fork-")


def test_delete(server: Served, journal: na.Journal, where: str) -> None:
    """A finished conversation goes at once, another one only if that is said."""
    na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="done")
    with pytest.raises(RuntimeError):
        na.Agent(chained(fail), "failing", journal).run({"n": 0}, thread="open")
    gone = server.ask("threads/done", "DELETE", journal=where)
    assert gone["records"] > 0
    kept = server.ask("threads/open", "DELETE", journal=where, expect=409)
    assert kept["code"] == "run_unfinished"
    server.ask("threads/open", "DELETE", journal=where, unfinished="true")
    assert server.ask("threads", journal=where)["threads"] == []
    assert journal.threads() == []


def test_compact(server: Served, journal: na.Journal, where: str) -> None:
    """What was deleted is given back, while this process has the journal open."""
    agent = na.Agent(chained(add), "counter", journal)
    for number in range(5):
        agent.run({"n": number}, thread=f"t{number}")
    journal.ingest()
    for number in range(4):
        journal.delete_thread(f"t{number}")
    sent = {"dry_run": True}
    would = server.ask("journal/compact", "POST", journal=where, sent=sent)
    assert would["dry_run"] and would["records_after"] < would["records_before"]
    done = server.ask("journal/compact", "POST", journal=where)
    assert done["records_after"] == would["records_after"]
    assert agent.thread("t4").state().values["n"] == 5


def test_stop(
    server: Served, where: str, home: Path, driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The process that drives it is interrupted; the run is orphaned and can be resumed."""
    assert server.ask("threads/t", journal=where)["thread"]["driver"]["pid"] == driver.pid
    told = server.ask("threads/t", "DELETE", journal=where, expect=409)
    assert told["code"] == "thread_busy"
    done = server.ask("threads/t/stop", "POST", journal=where)
    assert "kept" in done["said"]
    driver.wait(30)
    assert "KeyboardInterrupt" in driver.communicate()[1]
    row = server.ask("threads/t", journal=where)["thread"]
    assert row["status"] == "orphaned"
    again = server.ask("threads/t/stop", "POST", journal=where, expect=409)
    assert again["code"] == "not_driven"


def test_stop_does_not_reach_a_process_that_was_stopped(
    server: Served, where: str, driver: subprocess.Popen[str]
) -> None:
    """A process of which nobody knows whether it goes on is named, and not interrupted."""
    os.kill(driver.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, driver.pid, os.WSTOPPED | os.WNOWAIT)
    told = server.ask("threads/t/stop", "POST", journal=where, expect=409)
    assert told["code"] == "driven_elsewhere" and str(driver.pid) in told["message"]
    os.kill(driver.pid, signal.SIGCONT)


def test_cancel_asks_the_driver(
    server: Served, where: str, driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A run that a process drives begins no further step."""
    done = server.ask("threads/t/cancel", "POST", journal=where)
    assert "asked" in done["said"]
    (tmp_path / "free").touch()
    driver.wait(30)
    row = server.ask("threads/t", journal=where)["thread"]
    assert row["status"] == "cancelled" and row["returned"] == 2
    again = server.ask("threads/t/cancel", "POST", journal=where)
    assert "nothing to cancel" in again["said"]


def test_cancel_of_what_nobody_drives_needs_a_kernel(
    server: Served, journal: na.Journal, where: str
) -> None:
    """The server does not load the graph that it would take."""
    na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="t")
    told = server.ask("threads/t/cancel", "POST", journal=where, expect=409)
    assert told["code"] == "needs_kernel" and "na.cancel('t')" in told["message"]
    assert journal.thread("t").status == "waiting"
