"""A thread that one process deletes, in a process that knew its key."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from support.checks import add, chain

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.journal import Draft
from notebook_agents.journal.copying import copy_records
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T: Any = {"configurable": {"thread_id": "t"}}
LINE = "a line that is long enough to be a chunk of its own " * 8


class Lines(TypedDict, total=False):
    lines: Annotated[list[str], operator.add]
    fixed: str


def grown(journal: na.Journal, times: int = 1) -> Any:
    """Return a plain LangGraph graph on thread `t`, run so often."""
    builder = StateGraph(Lines).add_node("grow", lambda _: {"lines": [LINE]})
    graph = builder.add_edge(START, "grow").compile(checkpointer=na.JournalSaver(journal))
    for _ in range(times):
        graph.invoke({}, T)
    return graph


def delete(home: Path) -> None:
    """Delete the thread."""
    with na.Journal.open(home) as journal:
        journal.delete_thread("t")


def delete_and_make_again(home: Path) -> None:
    """Delete the thread and begin another of that name."""
    with na.Journal.open(home) as journal:
        journal.delete_thread("t")
        grown(journal)


@pytest.mark.parametrize("elsewhere", [delete, delete_and_make_again])
def test_what_is_put_after_a_deletion_elsewhere_can_be_read(
    home: Path, journal: na.Journal, elsewhere: Callable[[Path], None], forked: Callable[..., int]
) -> None:
    """A process that had the key of a thread which another deleted goes on with the new key."""
    graph = grown(journal)
    assert forked(lambda: elsewhere(home)) == 0
    graph.invoke({}, T)
    with na.Journal.open(home) as fresh:
        lines = grown(fresh, 0).get_state(T).values["lines"]
    assert lines == [LINE] * (2 if elsewhere is delete_and_make_again else 1)


@pytest.mark.parametrize("elsewhere", [delete, delete_and_make_again])
def test_a_record_that_was_made_before_a_deletion_elsewhere_is_refused(
    home: Path, journal: na.Journal, elsewhere: Callable[[Path], None], forked: Callable[..., int]
) -> None:
    """What rests on the deleted key is never written; what other threads append meanwhile is."""
    grown(journal)
    drafts = [Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"x", digest=b"x" * 16)]
    other = Draft(kind=Kind.CHUNK, thread="o", scope="o", plain=b"x", digest=b"x" * 16)
    assert forked(lambda: elsewhere(home)) == 0
    journal.stage([other])
    with pytest.raises(errors.FencedError, match="thread 't' was deleted by another process"):
        journal.append(drafts, durable=False)
    assert drafts[0].seq == 0
    assert other.seq > 0


@pytest.mark.parametrize("elsewhere", ["deleted", "made again"])
def test_an_agent_runs_on_a_thread_that_was_deleted_elsewhere(
    home: Path, journal: na.Journal, elsewhere: str, forked: Callable[..., int]
) -> None:
    """The run's definition and state, stored before under the lost key, are stored again."""
    agent = na.Agent(chain(add), "adder", journal)
    agent.run({"n": 1}, thread="t")

    def program() -> None:
        with na.Journal.open(home) as other:
            other.delete_thread("t")
            if elsewhere == "made again":
                na.Agent(chain(add), "adder", other).run({"n": 5}, thread="t")

    assert forked(program) == 0
    run = agent.run({"n": 1}, thread="t", new=True)
    with na.Journal.open(home) as fresh:
        read = na.Agent(chain(add), "adder", fresh)
        assert read.thread("t").state().values == run.value
        assert fresh.thread("t").status is RunStatus.SUCCEEDED
        fork = read.fork("t", at=run.steps[-1].id).resume()
        assert fork.value == run.value


@pytest.mark.parametrize("elsewhere", [delete, delete_and_make_again])
def test_a_graph_goes_on_whose_thread_is_deleted_elsewhere_while_it_runs(
    home: Path, journal: na.Journal, elsewhere: Callable[[Path], None], forked: Callable[..., int]
) -> None:
    """What it stores from then on refers to nothing that went with the thread."""

    def lose(_: Lines) -> Lines:
        assert forked(lambda: elsewhere(home)) == 0
        return {"lines": ["2"]}

    builder = StateGraph(Lines).add_node("lose", lose).add_edge(START, "lose")
    graph = builder.compile(checkpointer=na.JournalSaver(journal))
    graph.invoke({"lines": ["1"], "fixed": LINE}, T, durability="sync")
    with na.Journal.open(home) as fresh:
        values = grown(fresh, 0).get_state(T).values
    assert values == {"lines": ["1", "2"], "fixed": LINE}


def checkpoint(journal: na.Journal) -> list[Draft]:
    """Return what a checkpoint of the thread would append."""
    saver = na.JournalSaver(journal)
    given: Any = {"id": "2", "channel_values": {"lines": [LINE]}}
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    return [*saver._checkpoint_drafts(place, given, {})]


def a_copy(journal: na.Journal) -> list[Draft]:
    """Return what a copy of the thread would append."""
    return copy_records(journal, journal.select(thread="t", kinds=[Kind.CHECKPOINT]), "copy")


@pytest.mark.parametrize("made", [checkpoint, a_copy])
def test_what_was_made_with_a_deleted_key_is_refused_when_the_new_one_is_known(
    home: Path,
    journal: na.Journal,
    made: Callable[[na.Journal], list[Draft]],
    forked: Callable[..., int],
) -> None:
    """Another thread of this process has met the new thread of that name in the meantime."""
    grown(journal)
    drafts = made(journal)
    assert forked(lambda: delete_and_make_again(home)) == 0
    grown(journal)
    with pytest.raises(errors.FencedError, match="was deleted by another process"):
        journal.append(drafts, durable=True)
    assert {one.thread for one in journal.threads()} == {"t"}
    with na.Journal.open(home) as fresh:
        assert grown(fresh, 0).get_state(T).values["lines"] == [LINE] * 2
