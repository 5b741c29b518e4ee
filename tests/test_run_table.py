"""What `run` and `resume` do with a thread, line by line of the table in the design."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from crash.processes import fork
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command
from support.checks import refused
from support.running import Fragile

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from pathlib import Path


def leave(home: Path, mood: str, tmp_path: Path, given: Any = None) -> RunStatus:
    """Leave an unfinished run on thread `t` behind; return where it stands."""
    given = {"n": 1} if given is None else given

    def program() -> None:
        with na.Journal.open(home) as journal:
            Fragile(journal, mood).agent.run(given, thread="t")

    if mood == "die":
        log = tmp_path / "left.log"
        assert fork(program, log).end() == -signal.SIGKILL, log.read_text()
    elif mood == "doubt":
        with pytest.raises(TimeoutError):
            program()
        program()
    elif mood == "fail":
        with pytest.raises(RuntimeError, match="out of order"):
            program()
    else:
        program()
    with na.Journal.open(home) as journal:
        return journal.thread("t").status


UNFINISHED = {
    "die": RunStatus.ORPHANED,
    "wait": RunStatus.WAITING,
    "doubt": RunStatus.IN_DOUBT,
    "fail": RunStatus.FAILED,
}


# -- unfinished --------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["die", "wait", "fail"])
def test_unfinished_with_the_same_input_resumes(home, tmp_path, call, mood):
    """The run goes on behind what returned, with the code that is here now."""
    assert leave(home, mood, tmp_path) is UNFINISHED[mood]
    with na.Journal.open(home) as journal:
        mended = Fragile(journal)
        run = call(mended.agent, {"n": 1}, thread="t")
        assert (run.number, run.status, run.stored) == (1, RunStatus.SUCCEEDED, False)
        assert mended.ran == ["second"]
        assert run.value["items"] == ["first", "second"]
        assert [step.replayed for step in run.steps] == [True, False]
        assert run.view.sessions == 2


def test_in_doubt_with_the_same_input_stays_in_doubt(home, tmp_path, call):
    """A doubtful step is not run again by asking once more."""
    assert leave(home, "doubt", tmp_path) is RunStatus.IN_DOUBT
    with na.Journal.open(home) as journal:
        again = Fragile(journal, "doubt")
        assert call(again.agent, {"n": 1}, thread="t").status is RunStatus.IN_DOUBT
        assert again.ran == ["second"]


def test_waiting_with_the_same_input_still_waits(home, tmp_path, call):
    """A run that waits for a person is not pushed on by being asked for again."""
    leave(home, "wait", tmp_path)
    with na.Journal.open(home) as journal:
        again = Fragile(journal, "wait")
        run = call(again.agent, {"n": 1}, thread="t")
        assert (run.number, run.status) == (1, RunStatus.WAITING)
        run = call(again.agent, Command(resume=9), thread="t")
        assert (run.number, run.value["n"]) == (1, 9)


@pytest.mark.parametrize("mood", ["die", "wait", "doubt"])
def test_unfinished_with_other_input_is_refused(home, tmp_path, call, mood):
    """Other input neither takes the run over nor starts another; `new=True` does."""
    leave(home, mood, tmp_path)
    with na.Journal.open(home) as journal:
        other = Fragile(journal)
        named = ("'t'", "run 1", str(UNFINISHED[mood]), 'na.resume("t")', "new=True")
        with refused(home, errors.RunUnfinishedError, *named):
            call(other.agent, {"n": 2}, thread="t")
        assert other.ran == []
        run = call(other.agent, {"n": 2}, thread="t", new=True)
        assert (run.number, run.status) == (2, RunStatus.SUCCEEDED)
        assert other.ran == ["first", "second"]


def test_failed_with_other_input_starts_the_next_run(home, tmp_path, call):
    """A failed run is given up by asking something else."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        run = call(Fragile(journal).agent, {"n": 2}, thread="t")
        assert (run.number, run.status) == (2, RunStatus.SUCCEEDED)


def test_new_on_an_unfinished_run_with_the_same_input(home, tmp_path, call):
    """`new=True` runs everything again, also what the unfinished run had done."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        again = Fragile(journal)
        assert call(again.agent, {"n": 1}, thread="t", new=True).number == 2
        assert again.ran == ["first", "second"]


def test_failed_step_runs_again_with_the_live_code(home, tmp_path, call):
    """The failed attempt stays on record beside the one that the mended code made."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        run = call(Fragile(journal).agent, {"n": 1}, thread="t")
        outcomes = {step.name: [a.outcome for a in step.attempts] for step in run.steps}
        assert outcomes == {
            "first": [Outcome.RETURNED],
            "second": [Outcome.FAILED, Outcome.RETURNED],
        }
        assert run.steps[1].attempts[0].error == "RuntimeError: out of order"


# -- finished ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "number", "stored"),
    [
        ({"n": 1}, {"key": "monday"}, 1, True),
        ({"n": 1}, {"key": "monday", "new": True}, 2, False),
        ({"n": 2}, {"key": "monday"}, 2, False),
        ({"n": 1}, {"key": "tuesday"}, 2, False),
        ({"n": 1}, {}, 2, False),
    ],
    ids=["same key", "same key, new", "same key, other input", "other key", "no key"],
)
def test_finished(journal, call, given, options, number, stored):
    """The stored answer is given for the same key and input; anything else is the next run."""
    agent = Fragile(journal)
    first = call(agent.agent, {"n": 1}, thread="t", key="monday")
    agent.ran.clear()
    run = call(agent.agent, given, thread="t", **options)
    assert (run.number, run.stored, run.status) == (number, stored, RunStatus.SUCCEEDED)
    assert agent.ran == ([] if stored else ["first", "second"])
    if stored:
        assert run.value == first.value
        assert "stored" in repr(run)


def test_finished_without_any_key(journal, call):
    """Without a key a script that asks twice gets two runs."""
    agent = Fragile(journal).agent
    assert [call(agent, {"n": 1}, thread="t").number for _ in range(3)] == [1, 2, 3]


def test_stored_answer_in_another_process(home, tmp_path):
    """The stored answer outlives the process that made it."""

    def program() -> None:
        with na.Journal.open(home) as journal:
            Fragile(journal).agent.run({"n": 1}, thread="t", key="monday")

    assert fork(program, tmp_path / "log").end() == 0, (tmp_path / "log").read_text()
    with na.Journal.open(home) as journal:
        agent = Fragile(journal)
        run = agent.agent.run({"n": 1}, thread="t", key="monday")
        assert (run.stored, run.value["items"], agent.ran) == (True, ["first", "second"], [])


def test_same_cell_gets_the_stored_answer(journal, call, cell):
    """Running a cell a second time shows its answer; another cell asks again."""
    agent = Fragile(journal)
    cell("a")
    assert not call(agent.agent, {"n": 1}, thread="t").stored
    agent.ran.clear()
    assert call(agent.agent, {"n": 1}, thread="t").stored
    assert agent.ran == []
    assert call(agent.agent, {"n": 1}, thread="t", new=True).number == 2
    cell("b")
    assert call(agent.agent, {"n": 1}, thread="t").number == 3
    cell("b", "other.ipynb")
    assert call(agent.agent, {"n": 1}, thread="t").number == 4


def test_edited_cell_asks_again(journal, call, cell):
    """The same cell with other input is the next run of the conversation."""
    agent = Fragile(journal).agent
    cell("a")
    assert call(agent, {"n": 1}, thread="t").number == 1
    assert call(agent, {"n": 2}, thread="t").number == 2


def test_next_run_goes_on_with_the_conversation(journal, call):
    """The next run of a thread begins with the state that the one before it left."""
    agent = Fragile(journal).agent
    call(agent, {"n": 1}, thread="t")
    run = call(agent, {"n": 2}, thread="t")
    assert run.value["items"] == ["first", "second"] * 2
    assert call(agent, {"n": 2}, thread="other").value["items"] == ["first", "second"]


# -- what "the same input" is ------------------------------------------------------------------


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


def test_input_is_compared_as_it_was_given(journal, call):
    """LangGraph writes ids into messages; that neither changes the input nor the comparison."""
    broken = [True]

    def reply(state: Chat) -> Chat:
        if broken:
            raise RuntimeError("out of order")
        return {"messages": [("ai", "hello")]}

    graph = StateGraph(Chat)
    graph.add_node("reply", reply)
    graph.add_edge(START, "reply")
    agent = na.Agent(graph, "chatting", journal)
    given = {"messages": [HumanMessage("hi")]}
    with pytest.raises(RuntimeError):
        call(agent, given, thread="t")
    assert given["messages"][0].id is None
    broken.clear()
    run = call(agent, {"messages": [HumanMessage("hi")]}, thread="t")
    assert run.number == 1
    assert [message.content for message in run.value["messages"]] == ["hi", "hello"]


def test_order_of_fields_does_not_count(home, tmp_path, call):
    """The same fields in another order are the same input."""
    leave(home, "fail", tmp_path, {"n": 1, "at": {"x": 1, "y": 2}})
    with na.Journal.open(home) as journal:
        again = Fragile(journal)
        assert call(again.agent, {"at": {"y": 2, "x": 1}, "n": 1}, thread="t").number == 1
        assert again.ran == ["second"]


# -- without a thread --------------------------------------------------------------------------


def test_thread_is_made_and_said(journal, call, capsys):
    """Without a thread a readable name is made, and said where it does not mix with results."""
    run = call(Fragile(journal).agent, {"n": 1})
    assert re.fullmatch(r"fragile-[a-z]+-[a-z]+-[0-9a-f]{8}", run.thread)
    said = capsys.readouterr()
    assert run.thread in said.err
    assert said.out == ""


def test_unfinished_run_is_found_without_its_thread(home, tmp_path, call):
    """The same agent and input give the same name, so a rerun goes on where the first stopped."""
    with na.Journal.open(home) as journal:
        with pytest.raises(RuntimeError):
            call(Fragile(journal, "fail").agent, {"n": 1})
        (left,) = journal.threads()
    with na.Journal.open(home) as journal:
        mended = Fragile(journal)
        run = call(mended.agent, {"n": 1})
        assert (run.thread, run.number, mended.ran) == (left.thread, 1, ["second"])
        assert call(mended.agent, {"n": 2}).thread != left.thread


def test_finished_run_without_a_thread(journal, call):
    """Outside a notebook, asking again after the end is another conversation."""
    agent = Fragile(journal).agent
    threads = {call(agent, {"n": 1}).thread for _ in range(3)}
    assert len(threads) == 3
    assert call(agent, {"n": 1}, new=True).thread not in threads


def test_stored_answer_without_a_thread(journal, call):
    """The same `key=` gives the stored answer also where no thread is named."""
    agent = Fragile(journal)
    first = call(agent.agent, {"n": 1}, key="monday")
    agent.ran.clear()
    again = call(agent.agent, {"n": 1}, key="monday")
    assert (again.thread, again.stored, agent.ran) == (first.thread, True, [])


def test_same_cell_without_a_thread(journal, call, cell):
    """A cell that is run again finds its own conversation and its stored answer."""
    agent = Fragile(journal)
    cell("a")
    first = call(agent.agent, {"n": 1})
    agent.ran.clear()
    again = call(agent.agent, {"n": 1})
    assert (again.thread, again.stored, agent.ran) == (first.thread, True, [])
    cell("b")
    assert call(agent.agent, {"n": 1}).thread != first.thread
