"""A time to live: finished threads go by themselves, and nothing else does."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.checks import State, add, ask, chain, refused
from support.holding import holding, until

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.journal import expiry
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.holding import Held

TTL = "0.001s"
T = timedelta(milliseconds=1)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first look come at once."""
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 0.01)


def finished(home: Path, *threads: str, name: str = "done") -> None:
    """Have a finished run on each of these threads."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), name, journal)
        for thread in threads:
            agent.run({"n": 0}, thread=thread)


def there(journal: na.Journal) -> set[str]:
    """Return the names of the threads that there are."""
    return {info.thread for info in journal.threads()}


def fails(state: State) -> State:
    """Raise: a node."""
    raise RuntimeError("out of order")


def dies_here(state: State) -> State:
    """Kill the process: a node."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def unfinished(home: Path, dies: Callable[..., None]) -> set[str]:
    """Have a thread of each kind that may be needed; return their names."""

    @na.step(at_most_once=True)
    def charge() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def pay(state: State) -> State:
        charge()
        return {}

    def begin(name: str, node: Any) -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chain(node), name, journal).run({"n": 0}, thread=name)

    begin("waiting", ask)
    with pytest.raises(RuntimeError):
        begin("failed", fails)
    dies(lambda: begin("orphaned", dies_here))
    dies(lambda: begin("in_doubt", pay))
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(pay), "in_doubt", journal)
        assert agent.resume("in_doubt").status is RunStatus.IN_DOUBT
        chain(add).compile(checkpointer=na.JournalSaver(journal)).invoke(
            {"n": 0}, {"configurable": {"thread_id": "plain"}}
        )
        first = na.Agent(chain(add), "forked", journal).run({"n": 0}, thread="forked")
        na.Agent(chain(add), "forked", journal).fork("forked", at=first.steps[0].id, name="pending")
    return {"waiting", "failed", "orphaned", "in_doubt", "plain", "pending"}


def test_an_idle_process_deletes_what_is_over(
    home: Path, dies: Callable[..., None], held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Succeeded and cancelled threads go; what can go on or is driven elsewhere stays."""
    stay = unfinished(home, dies)
    finished(home, "a", "b")
    with na.Journal.open(home) as journal:
        na.Agent(chain(ask), "cancelled", journal).run({"n": 0}, thread="cancelled")
        assert na.cancel("cancelled", journal=journal).status is RunStatus.CANCELLED
        assert there(journal) == {*stay, "t", "a", "b", "cancelled", "forked"}
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", TTL)
    with na.Journal.open(home) as journal:
        until(lambda: there(journal) == {*stay, "t"})
    with na.Journal.open(home) as journal:  # the last look of the one before changed nothing
        assert there(journal) == {*stay, "t"}
        assert held.let_go() == 0
        assert na.Agent(chain(add), "forked", journal).resume("pending").value["n"] == 1
        assert na.Agent(chain(ask), "waiting", journal).resume("waiting", answer=3).value["n"] == 3


def test_a_short_process_deletes_at_its_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that runs an agent every night is never idle for long."""
    finished(home, "old")
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", TTL)
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    with na.Journal.open(home) as journal:
        assert there(journal) == {"old"}
    monkeypatch.delenv("NOTEBOOK_AGENTS_TTL")
    with na.Journal.open(home) as journal:
        assert there(journal) == set()


def test_an_agents_time_to_live_is_for_its_threads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for them alone, and before the variable."""
    finished(home, "a", name="short")
    finished(home, "b", name="long")
    finished(home, "c", name="other")
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "short", journal, ttl=T)
        na.Agent(chain(add), "long", journal, ttl=timedelta.max)
        until(lambda: there(journal) == {"b", "c"})
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", TTL)
    with na.Journal.open(home, scheduled=False) as journal:
        na.Agent(chain(add), "other", None, ttl=T).on(journal)
        until(lambda: there(journal) == {"b"})
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "long", journal, ttl=timedelta(days=1))
        journal.expiry._look()
        assert there(journal) == {"b"}


OPENED: list[na.Journal] = []


def look(state: State) -> State:
    """Have each opening of the journal look for old threads, and say what it left: a node."""
    return {"items": [each.expiry._look() or there(each) for each in OPENED]}


def test_nothing_goes_while_this_process_drives(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run never waits for a deletion of its own process, whichever opening of the journal."""
    finished(home, "old")
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", TTL)
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        OPENED[:] = [journal, other]
        run = na.Agent(chain(look), "looking", journal).run({"n": 0}, thread="new")
        assert run.value["items"] == [{"old", "new"}] * 2
        journal.expiry._look()
        assert there(journal) == set()


def test_a_look_deletes_a_few(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are old, one look is short; the next ones go on."""
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    monkeypatch.setattr(expiry, "AT_ONCE", 3)
    finished(home, *map(str, range(7)))
    with na.Journal.open(home) as journal:
        journal.expiry.of("done", T)
        assert [journal.expiry._look() for _ in range(3)] == [True, True, False]
        assert there(journal) == set()


def test_a_run_that_begins_before_the_deletion_commits_keeps_its_thread(
    home: Path, tmp_path: Path
) -> None:
    """Looked at when it was finished, it waits for a person when the deletion has its turn."""
    finished(home, "t", name=f"holding-{tmp_path.name}")
    with na.Journal.open(home) as journal:
        with journal._writer.leading:  # it has looked, and has its turn when this block ends
            journal.expiry.of(f"holding-{tmp_path.name}", T)
            until(lambda: journal._writer._waiting)
            with holding(home, tmp_path, ask) as driver:
                assert driver.let_go() == 0
        journal.expiry.close()
        assert journal.thread("t").status is RunStatus.WAITING


def test_what_cannot_be_deleted_stops_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once and left, the others go; no run fails for it."""
    finished(home, "a", "b", "c")
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "done", journal).fork("a", name="f")
        journal.delete_thread("a")
        journal._writer.execute("DELETE FROM keys WHERE scope = $scope", {"scope": "a"})
    with na.Journal.open(home) as journal, caplog.at_level(logging.WARNING):
        journal.expiry.of("done", T)
        for _ in range(2):
            journal.expiry._look()
        assert there(journal) == {"f"}
        assert caplog.text.count("thread 'f' is old and was not deleted") == 1
        assert na.Agent(chain(add), "done", journal).run({"n": 0}, thread="d").value["n"] == 1


def test_a_time_that_means_nothing_is_refused(
    home: Path, journal: na.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when it is too late."""
    with refused(home, errors.UsageError, "'counter'", "ttl"):
        na.Agent(chain(add), "counter", journal, ttl=timedelta(0))
    for said in ("soon", "30", "-1d", "0s", "nand", "1e999d"):
        monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", said)
        with pytest.raises(errors.UsageError, match=f"NOTEBOOK_AGENTS_TTL is '{said}'"):
            na.Journal.open(home)
    monkeypatch.delenv("NOTEBOOK_AGENTS_TTL")


def test_without_it_there_is_no_thread_and_a_child_has_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, forked: Callable[..., int]
) -> None:
    """Who asks for nothing pays nothing; a child of a process that idles works on."""

    def names() -> list[str]:
        return [each.name for each in threading.enumerate() if "expiry" in each.name]

    def child() -> None:
        assert names() == []
        na.Agent(chain(add), "done", journal).run({"n": 0}, thread="child")

    finished(home, "t")
    with na.Journal.open(home) as journal:
        assert names() == []
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", "1d")
    with na.Journal.open(home) as journal:
        assert names() == ["notebook-agents-expiry"]
        assert forked(child) == 0
        assert there(journal) == {"t", "child"}
    assert names() == []
