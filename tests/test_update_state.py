"""A state that was changed by hand: no task behind it gets a result made for the old one."""

from __future__ import annotations

import pytest
from langgraph.types import Command
from support.checks import ask, chain
from support.forks import fan_out, nested, sequential, step_of

import notebook_agents as na
from notebook_agents.errors import UnknownThreadError
from notebook_agents.model import RunStatus


def test_update_then_go_on(journal, effects):
    """Behind a changed state nobody gets an old result: all tasks there run, under new keys."""
    agent = na.Agent(fan_out(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    fork = agent.fork("t", at=step_of(first, "b"))
    fork.update_state({"items": ["edited"]}, as_node="a")
    assert journal.thread(fork.name).status is RunStatus.PENDING
    done = len(effects.ledger.lines())
    run = fork.resume()
    assert run.value["items"][:2] == ["a", "edited"]
    assert effects.names(done) == ["b", "c", "d0", "d1", "d2", "e"]
    for name in "bce":
        assert len(set(effects.keys(name))) == 2
    assert na.Run(journal, "t", 1).value == first.value


def test_update_in_a_subgraph(journal, effects):
    """A state inside a subgraph is changed where the fork stands; the graph around is not."""
    agent = na.Agent(nested(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    fork = agent.fork("t", at=step_of(first, "d"))
    moment = next(m for m in fork.history() if m.next == ("d",))
    fork.update_state({"items": ["edited"]}, as_node="c", at=moment.checkpoint)
    done = len(effects.ledger.lines())
    run = fork.resume()
    assert run.status is RunStatus.SUCCEEDED
    assert "edited" in run.value["items"]
    assert effects.names(done) == ["d", "e", "h"]


def test_update_of_a_waiting_run(journal, effects):
    """An update in the place of the node that asks makes its question void."""
    agent = na.Agent(chain(ask, effects.node("b")), "asking", journal)
    agent.run({"n": 0}, thread="t")
    agent.thread("t").update_state({"n": 6}, as_node="ask")
    run = agent.resume("t")
    assert (run.status, run.value["n"], effects.names()) == (RunStatus.SUCCEEDED, 6, ["b"])


def test_update_of_a_finished_run(journal, effects):
    """An edited memory leaves a finished run finished; the next input meets what was edited."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 1}, thread="t")
    agent.thread("t").update_state({"n": 50})
    assert journal.thread("t").status is RunStatus.SUCCEEDED
    assert na.Run(journal, "t", 1).value == first.value
    assert agent.thread("t").state().values["n"] == 50
    agent.thread("t").update_state({"n": 60}, as_node="b")
    assert agent.resume("t").value["n"] == 60
    assert effects.names() == ["a", "b", "c", "c"]


def test_update_at_an_older_checkpoint(journal, effects):
    """The thread goes on from there, and the counts of its run stay."""
    agent = na.Agent(sequential(effects), "forking", journal)
    first = agent.run({"n": 1}, thread="t")
    agent.thread("t").update_state({"n": 9}, at=step_of(first, "b"))
    assert journal.thread("t").returned == 3
    run = agent.resume("t")
    assert (run.value["n"], run.value["items"]) == (9, ["a", "b", "c"])
    assert effects.names() == ["a", "b", "b", "c", "c"]


def test_update_that_cannot_be_made(journal, effects):
    """LangGraph's refusal changes nothing about where the run stands."""
    agent = na.Agent(chain(ask), "asking", journal)
    agent.run({"n": 0}, thread="t")
    with pytest.raises(Exception, match="nobody"):
        agent.thread("t").update_state({"n": 6}, as_node="nobody")
    assert journal.thread("t").status is RunStatus.WAITING
    assert agent.run(Command(resume=4), thread="t").value["n"] == 4


def test_pruned_checkpoints_are_gone_from_the_history(journal, effects):
    """What was pruned is not listed, and a state cannot go on from it."""
    agent = na.Agent(sequential(effects), "forking", journal)
    agent.run({"n": 0}, thread="t")
    before = agent.thread("t").history()
    na.JournalSaver(journal).prune(["t"], strategy="keep_latest")
    after = agent.thread("t").history()
    assert [moment.checkpoint for moment in after] == [before[0].checkpoint]
    with pytest.raises(UnknownThreadError, match=before[1].checkpoint):
        agent.thread("t").update_state({"n": 1}, at=before[1].checkpoint)
