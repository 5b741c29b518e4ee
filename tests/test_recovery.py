"""All that is unfinished goes on, by itself if one wants; a run that kills is not let kill on."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.checks import State, add, ask, chain, says
from support.holding import until

import notebook_agents as na
from notebook_agents import settings
from notebook_agents.errors import DefinitionError, UsageError
from notebook_agents.graph import recovery
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def poison(state: State) -> State:
    """Kill the process, every time."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def agents(
    journal: na.Journal, trips: Callable[..., None], **options: object
) -> dict[str, na.Agent]:
    """Return agents whose runs end in all ways."""

    def once(state: State) -> State:
        trips("once")
        return {"n": 2}

    def fails(state: State) -> State:
        raise RuntimeError("out of order")

    return {
        name: na.Agent(chain(add, node), name, journal, **options)
        for name, node in {"once": once, "fails": fails, "asks": ask, "poison": poison}.items()
    }


@pytest.fixture
def started(home, dies, trips) -> None:
    """Have one run of each kind in the journal at `home`."""
    for name in ("once", "fails", "asks", "poison"):

        def run(name: str = name) -> None:
            with na.Journal.open(home) as journal, suppress(RuntimeError):
                agents(journal, trips)[name].run({"n": 1}, thread=name)
            os.kill(os.getpid(), signal.SIGKILL)

        dies(run)


def test_resume_all(home, started, trips):
    """One that fails is reported and the others go on; who waits for a person is left alone."""
    with na.Journal.open(home) as journal:
        agents(journal, trips)
        na.cancel("poison", journal=journal)
        found = dict(na.resume_all(journal))
        assert list(found) == ["fails", "once"]
        assert found["once"].status is RunStatus.SUCCEEDED
        assert str(found["fails"]) == "out of order"
        assert [info.thread for info in na.unfinished(journal)] == ["fails", "asks"]


def test_one_that_cannot_be_rebuilt(home, started, monkeypatch):
    """It is reported, its thread is given back, and the others go on."""
    with na.Journal.open(home) as journal:
        na.cancel("poison", journal=journal)

        def rebuild(*_: object, **__: object) -> None:
            raise DefinitionError("nothing here")

        monkeypatch.setattr("notebook_agents.graph.definition.rebuild", rebuild)
        monkeypatch.setattr("notebook_agents.graph.agent._live", {})
        ((thread, error),) = na.resume_all(journal, recoveries=1)
        assert (thread, type(error)) == ("once", DefinitionError)
        assert journal.head("once").driver is None


def test_a_poison_run_is_parked(home, started, dies, trips):
    """What kills every process is resumed as often as was allowed, then failed, with the reason."""

    def recover() -> None:
        with na.Journal.open(home) as journal:
            agents(journal, trips)
            na.resume_all(journal, recoveries=2)

    dies(recover)
    dies(recover)
    with na.Journal.open(home) as journal:
        found = dict(na.resume_all(journal, recoveries=2))
        run = found["poison"]
        assert run.status is RunStatus.FAILED
        says(run.view.error, "'poison'", "in each of 2 attempts", "na.resume")
        assert na.resume_all(journal, recoveries=2) == []
        assert journal.head("poison").driver is None
        said = [r.name for r in journal.select(thread="poison", kinds=[Kind.DECISION])]
        assert said == ["recovering", "recovering", "parked"]


def test_by_hand_a_parked_run_goes_on(home, started, dies, trips):
    """It is failed like any other, and a person's resume begins the count anew."""

    def recover() -> None:
        with na.Journal.open(home) as journal:
            agents(journal, trips)
            na.resume_all(journal, recoveries=1)

    def by_hand() -> None:
        with na.Journal.open(home) as journal:
            na.resume("poison", journal=journal)

    dies(recover)
    with na.Journal.open(home) as journal:
        assert dict(na.resume_all(journal, recoveries=1))["poison"].status is RunStatus.FAILED
    dies(by_hand)
    dies(recover)
    with na.Journal.open(home) as journal:
        mended = na.Agent(chain(add, _healed), "poison", journal)
        assert mended.resume("poison").status is RunStatus.SUCCEEDED


def _healed(state: State) -> State:
    return {"n": 3}


_healed.__name__ = "poison"


def test_steps_that_return_count_as_progress(home, dies, ledger):
    """A run that is killed in one step after the other is recovered each time."""

    def deadly(name: str) -> Callable[[State], State]:
        def node(state: State) -> State:
            if ledger.note(name) and ledger.lines().count(name) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"items": [name]}

        node.__name__ = name
        return node

    def program() -> None:
        with na.Journal.open(home) as journal:
            agent = na.Agent(chain(*map(deadly, "abcd")), "deadly", journal)
            if journal.head("t") is None:
                agent.run({"n": 1}, thread="t")
            na.resume_all(journal, recoveries=1)

    for _ in "abcd":
        dies(program)
    with na.Journal.open(home) as journal:
        ((_, run),) = na.resume_all(journal, recoveries=1)
        assert run.value["items"] == list("abcd")


def test_a_node_that_is_gone(home, started):
    """By itself too a run does not go on without a node that had begun: it is named."""
    with na.Journal.open(home) as journal:
        na.cancel("poison", journal=journal)
        agent = na.Agent(chain(add), "once", journal)
        ((thread, error),) = na.resume_all(journal, recoveries=1)
        assert (thread, agent.name, type(error)) == ("once", "once", DefinitionError)
        says(error, "'once'")


def test_a_stopped_run_is_not_resumed_by_itself(home, journal):
    """Somebody pressed Ctrl-C: he did not want it to go on."""

    def stopped(state: State) -> State:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        na.Agent(chain(stopped), "stopped", journal).run({"n": 1}, thread="t")
    assert journal.thread("t").status is RunStatus.ORPHANED
    assert na.resume_all(journal, recoveries=3) == []


@pytest.mark.parametrize("by_setting", [False, True])
def test_an_agent_resumes_its_runs(home, started, trips, monkeypatch, capsys, by_setting):
    """A fresh process makes the agent again, and its dead run goes on in a worker thread."""
    options = {} if by_setting else {"auto_resume": 1}
    if by_setting:
        monkeypatch.setenv(settings.AUTO_RESUME_VARIABLE, "1")
    with na.Journal.open(home) as journal:
        na.cancel("poison", journal=journal)
        agents(journal, trips, **options)
        until(lambda: journal.thread("once").status is RunStatus.SUCCEEDED)
        until(lambda: "thread once went on by itself: succeeded" in capsys.readouterr().err)
        assert journal.thread("fails").status is RunStatus.FAILED
        assert recovery.begin(na.Agent(chain(add), "once", journal, auto_resume=0), 1) is None


def test_nothing_goes_on_by_itself_by_default(home, started, trips):
    """Without the setting an agent that is made resumes nothing."""
    with na.Journal.open(home) as journal:
        agent = agents(journal, trips)["once"]
        assert recovery.begin(agent, None) is None


def test_a_setting_that_is_none(monkeypatch):
    """A setting that is no number is refused by name."""
    monkeypatch.setenv(settings.AUTO_RESUME_VARIABLE, "yes")
    with pytest.raises(UsageError) as caught:
        settings.auto_resume()
    says(caught.value, settings.AUTO_RESUME_VARIABLE, "'yes'")


def test_from_the_command_line(home: Path, started, cli):
    """`resume --all` says how each went; the exit code is that of the first that went wrong."""
    with na.Journal.open(home) as journal:
        na.cancel("poison", journal=journal)
    done = cli("resume", "--all", "--journal", str(home), "--json")
    assert done.code == 1, done.err
    assert json.loads(done.out) == [
        {"thread": "fails", "run": None, "status": None, "error": "RuntimeError: out of order"},
        {"thread": "once", "run": 1, "status": "succeeded", "error": None},
    ]
    again = cli("resume", "--all", "--recoveries", "3", "--journal", str(home))
    assert (again.code, again.out) == (0, "nothing to resume\n")
    assert cli("resume", "t", "--all", "--journal", str(home)).code == 2
    assert cli("resume", "--recoveries", "2", "--journal", str(home)).code == 2
