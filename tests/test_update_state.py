"""A state that was changed by hand: no task behind it gets a result made for the old one."""

from __future__ import annotations

import pytest
from langgraph.graph import END
from langgraph.types import Command, interrupt
from support.checks import add, ask, chain, says
from support.forks import fan_out, nested, sequential, step_of
from support.shapes import build

import notebook_agents as na
from notebook_agents.errors import InputError, UnknownThreadError, UsageError
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


def test_update_leaves_a_question_behind(journal):
    """What only the old state asked is asked no more, in subgraphs neither, and takes no answer."""
    inner = build(one=ask).compile()
    graph = build(first=add, inner=inner, last=ask)
    graph.add_edge("first", "inner")
    graph.add_edge("inner", "last")
    agent = na.Agent(graph, "asking", journal)
    (asked,) = agent.run({"n": 0}, thread="t").interrupts
    agent.thread("t").update_state({"n": 6}, as_node="inner")
    assert na.Run(journal, "t", 1).interrupts == ()
    with pytest.raises(InputError, match="asks nothing now"):
        agent.resume("t", answer=5)
    with pytest.raises(InputError, match="nothing waits"):
        agent.run(Command(resume=5), thread="t")
    (new,) = agent.resume("t").interrupts
    assert (new.node, asked.node) == ("last", "one")
    assert agent.resume("t", answer=7).value["n"] == 7


def test_update_beside_a_question_that_stays(journal):
    """A question asked behind the change is listed, though its node asked before it too."""
    agent = na.Agent(chain(add, ask), "asking", journal)
    (old,) = agent.run({"n": 0}, thread="t").interrupts
    agent.thread("t").update_state({"n": 6}, as_node="add")
    assert na.Run(journal, "t", 1).interrupts == ()
    (new,) = agent.resume("t").interrupts
    assert new.id != old.id
    assert agent.resume("t", answer=7).value["n"] == 7


def test_update_behind_which_a_route_needs_a_run(journal):
    """LangGraph calls the route at once, outside any run: it is refused, and nothing changed."""

    @na.step
    def look() -> str:
        return END

    for name, route in {"a": lambda state: look(), "b": lambda state: interrupt("?")}.items():
        graph = build(first=add)
        graph.add_conditional_edges("first", route, [END])
        agent = na.Agent(graph, "routing", journal)
        agent.run({"n": 0}, thread=name)
        before = journal.thread(name).status
        with pytest.raises(UsageError, match=f"'{name}'") as caught:
            agent.thread(name).update_state({"n": 6}, as_node="first")
        says(caught.value, name, "as_node")
        assert journal.thread(name).status is before
        assert agent.thread(name).state().values["n"] in (0, 1)


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
