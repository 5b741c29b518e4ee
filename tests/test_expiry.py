"""A time to live: finished threads go by themselves, and nothing else does."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from support.checks import State, add, ask, chain, refused, says
from support.holding import holding, until

import notebook_agents as na
from notebook_agents import clock, errors
from notebook_agents.journal import check, expiry
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Ended
    from support.holding import Held
    from support.syscalls import Shim

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


DAY = 86_400_000_000


class Clocks:
    """Two clocks that a test moves: the one that people set, and the one that only ticks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = self.passed = 0.0
        wall, ticks = clock.now_us, clock.ticking_us
        monkeypatch.setattr(clock, "now_us", lambda: wall() + round((self.set + self.passed) * DAY))
        monkeypatch.setattr(clock, "ticking_us", lambda: ticks() + round(self.passed * DAY))


def test_only_time_that_passed_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps deletes nothing, and each use of a thread begins its time anew."""
    clocks = Clocks(monkeypatch)
    finished(home, "used", "left")
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    with na.Journal.open(home) as journal:
        journal.expiry.of("done", timedelta(days=1))
        for clocks.set in (1000.0, -1000.0, 0.0):
            journal.expiry._look()
            assert there(journal) == {"used", "left"}
        clocks.passed = 0.9
        na.Agent(chain(add), "done", journal).run({"n": 1}, thread="used")
        clocks.passed = 1.8
        journal.expiry._look()
        assert there(journal) == {"used"}
        clocks.passed = 2.0
        journal.expiry._look()
        assert there(journal) == set()


def test_a_head_that_nobody_understands_holds_up_no_other(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status of a newer version, or a damaged one, stays; the journal closes as ever."""
    finished(home, "a", "b")
    monkeypatch.setattr(expiry, "_FIRST_SECONDS", 1000.0)
    with na.Journal.open(home) as journal:
        journal._writer.execute("UPDATE threads SET status = 'resting' WHERE thread = 'a'", {})
        journal.expiry.of("done", T)
        assert not journal.expiry._look()
        assert [head.thread for head in journal.queue.heads()] == ["a"]


def test_a_run_says_that_its_thread_is_gone(journal: na.Journal) -> None:
    """Its value is read when it is asked for; by then the thread may have been too old."""
    agent = na.Agent(chain(add), "done", journal)
    run, head = agent.run({"n": 0}, thread="t"), journal.head("t")
    assert run.status is RunStatus.SUCCEEDED
    assert head is not None
    na.delete("t", journal=journal)
    with pytest.raises(errors.UnknownThreadError) as caught:
        _ = run.value
    says(caught.value, "'t'", "run 1")
    with pytest.raises(errors.UnknownThreadError) as caught:
        agent.first_record(head)
    says(caught.value, "'t'")


def test_several_processes_delete_side_by_side(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread goes once, no key is left over, and nobody has anything to complain of."""
    finished(home, *(f"t{number}" for number in range(60)))
    monkeypatch.setenv("NOTEBOOK_AGENTS_TTL", TTL)

    def idle() -> None:
        with na.Journal.open(home) as journal:
            until(lambda: not journal.threads())

    children = [fork(idle, tmp_path / f"{number}.log") for number in range(3)]
    assert [child.end() for child in children] == [0, 0, 0]
    assert "".join(child.log.read_text() for child in children) == ""
    monkeypatch.delenv("NOTEBOOK_AGENTS_TTL")
    with na.Journal.open(home) as journal:
        assert len([r for r in journal.select() if r.kind == "deletion"]) == 60
        assert journal.queue.keys() == {}
    assert check.check(home).sound


def test_children_born_while_threads_go(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process forks while it deletes; neither waits for the other for ever."""
    finished(home, *map(str, range(60)))
    monkeypatch.setattr(expiry, "AT_ONCE", 60)
    with na.Journal.open(home) as journal:

        def child() -> None:
            na.Agent(chain(add), "born", journal).run({"n": 0}, thread=f"child {os.getpid()}")

        journal.expiry.of("done", T)
        children = [fork(child, tmp_path / f"{number}.log") for number in range(5)]
        assert [each.end() for each in children] == [0] * 5
        until(lambda: {info.agent for info in journal.threads()} == {"born"})
        assert len(journal.threads()) == 5


def test_an_interpreter_that_ends_without_a_word_deletes_too(
    home: Path, python: Callable[..., Ended]
) -> None:
    """Nobody closed the journal, and the last look fills the queue: the process ends well."""
    finished(home, *map(str, range(25)))
    program = (
        "import notebook_agents as na",
        "from notebook_agents import settings",
        "settings.INGEST_RECORDS = 5",
        f"journal = na.Journal.open({str(home)!r})",
    )
    ended = python("\n".join(program), NOTEBOOK_AGENTS_TTL=TTL)
    assert (ended.code, ended.err) == (0, "")
    with na.Journal.open(home) as journal:
        assert len(journal.threads()) == 25 - expiry.AT_ONCE


def test_killed_anywhere_each_thread_is_whole_or_gone(home: Path, shim: Shim) -> None:
    """What was not deleted can be read, what was has no key left, and the next look goes on."""
    finished(home, "a", "b", "c")
    said = shim.run(
        """
        import os, pathlib
        import duckdb, langgraph.graph
        import notebook_agents as na
        from notebook_agents.journal import check, keycopy
        from support.syscalls import killed_at_each
        home = pathlib.Path(os.environ["NA_ROOT"])
        seen = set()

        def expire():
            os.environ["NOTEBOOK_AGENTS_TTL"] = "0.001s"
            with na.Journal.open(home):
                pass

        def after(number):
            with na.Journal.open(home) as journal:
                names = {info.thread for info in journal.threads()}
                assert set(journal.queue.keys()) == names
                saver = na.JournalSaver(journal)
                for name in names:
                    found = [*saver.list({"configurable": {"thread_id": name}})]
                    assert found[0].checkpoint["channel_values"]["n"] == 1
            assert set(keycopy.read(home)[1]) == names
            assert check.check(home).sound
            seen.add(len(names))

        print(killed_at_each(expire, after, step=3), *sorted(seen))
        """,
        home,
    )
    killed, *seen = map(int, said.split())
    assert killed > 3
    assert {0, 3} < set(seen)


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
