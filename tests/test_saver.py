"""What `JournalSaver` keeps, copies, hides and refuses, beyond LangGraph's own checks."""

from __future__ import annotations

import operator
import os
import signal
import warnings
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core._api import LangChainBetaWarning
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from support.checks import add, ask, chain, refused, says

import notebook_agents as na
from notebook_agents import errors, faults
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T: Any = {"configurable": {"thread_id": "t"}}
C: Any = {"configurable": {"thread_id": "c"}}


class Growing(TypedDict, total=False):
    lines: Annotated[list[str], operator.add]
    small: Annotated[list[int], operator.add]
    fixed: dict[str, str]


def growing() -> StateGraph[Any, Any, Any, Any]:
    """Return a graph whose checkpoints refer to earlier ones in every way that there is."""
    graph = StateGraph(Growing)
    graph.add_node("grow", lambda state: {"lines": [f"{len(state['lines'])} " + "text " * 60] * 2})
    graph.add_edge(START, "grow")
    return graph


def grown(saver: Any, times: int, config: Any = T) -> Any:
    """Run that graph some times on a thread, each under a run id of its own; return it."""
    graph = growing().compile(checkpointer=saver)
    for run in range(times):
        given = {"lines": ["in"], "small": [run], "fixed": {"big": "f" * 1000}}
        graph.invoke(given, {**config, "metadata": {"run_id": f"run {run}"}})
    return graph


def history(graph: Any, config: Any = T) -> list[Any]:
    """Return what a thread's checkpoints hold, newest first."""
    return [
        (state.config["configurable"]["checkpoint_id"], state.values, state.next)
        for state in graph.get_state_history(config)
    ]


# -- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ingest", [False, True])
def test_a_copy_outlives_its_source_and_writes_nothing_big(home: Path, ingest: bool) -> None:
    """A copy reads as its source did after that is deleted, in a new process's eyes too."""
    with na.Journal.open(home) as journal:
        saver = na.JournalSaver(journal)
        graph = grown(saver, 30)
        before = history(graph)
        if ingest:
            journal.ingest()
        chunks = len(journal.select(kinds=[Kind.CHUNK]))
        saver.copy_thread("t", "c")
        assert len(journal.select(kinds=[Kind.CHUNK])) == chunks
        seqs = [record.seq for record in journal.select(thread="c")]
        assert sum(map(len, journal.payloads(seqs).values())) < 50_000
        saver.delete_thread("t")
    with na.Journal.open(home) as journal:
        graph = grown(na.JournalSaver(journal), 0)
        assert history(graph) == []
        assert history(graph, C) == before
        grown(graph.checkpointer, 1, C)
        assert [values for _, values, _ in history(graph, C)[3:]] == [v for _, v, _ in before]
        journal.delete_thread("c")
        assert journal.wrapped_key("t") is None


def test_a_copy_goes_its_own_way(journal: na.Journal) -> None:
    """What is written to a copy or its source afterwards does not show in the other."""
    saver = na.JournalSaver(journal)
    graph = grown(saver, 2)
    before = history(graph)
    saver.copy_thread("t", "c")
    grown(saver, 1, C)
    assert history(graph) == before
    grown(saver, 2)
    assert len(graph.get_state(C).values["lines"]) == 9
    assert len(graph.get_state(T).values["lines"]) == 12


def test_a_copy_of_a_waiting_thread_can_be_answered(journal: na.Journal) -> None:
    """An open interrupt is copied, and each of the two is answered for itself."""
    saver = na.JournalSaver(journal)
    graph = chain(ask).compile(checkpointer=saver)
    graph.invoke({"n": 0}, T)
    saver.copy_thread("t", "c")
    assert graph.invoke(Command(resume=7), C)["n"] == 7
    assert graph.invoke(Command(resume=8), T)["n"] == 8


def test_a_copy_of_a_copy_of_a_pruned_thread(journal: na.Journal) -> None:
    """What a pruned thread's newest checkpoint is built on is copied with it, unseen."""
    saver = na.JournalSaver(journal)
    graph = grown(saver, 20)
    saver.prune(["t"])
    before = history(graph)
    assert len(before) == 1
    saver.copy_thread("t", "c")
    saver.copy_thread("c", "d")
    for thread in ("t", "c"):
        saver.delete_thread(thread)
    assert history(graph, {"configurable": {"thread_id": "d"}}) == before


def test_a_copy_needs_a_source_and_a_free_name(home: Path, journal: na.Journal) -> None:
    """A missing source and a taken name are refused by name, and nothing is changed."""
    saver = na.JournalSaver(journal)
    grown(saver, 1)
    grown(saver, 1, C)
    with refused(home, errors.ThreadExistsError, "'t'", "'c'"):
        saver.copy_thread("t", "c")
    with refused(home, errors.UnknownThreadError, "'nobody'"):
        saver.copy_thread("nobody", "new")


def test_a_name_taken_while_a_thread_is_copied_stays_as_it_is(home: Path) -> None:
    """Of two copies to one name the later is refused and shows nothing."""
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        saver = na.JournalSaver(journal)
        graph = grown(saver, 2)
        append = journal.append

        def late(drafts: Sequence[Any], *, durable: bool) -> None:
            journal.append = append  # type: ignore[method-assign]
            grown(na.JournalSaver(other), 1, C)
            append(drafts, durable=durable)

        journal.append = late  # type: ignore[method-assign]
        with pytest.raises(errors.ThreadExistsError) as caught:
            saver.copy_thread("t", "c")
        says(caught.value, "'t'", "'c'")
        assert len(graph.get_state(C).values["lines"]) == 3
        assert len(history(graph, C)) == 3


def test_a_source_deleted_while_it_is_copied_leaves_no_unreadable_copy(home: Path) -> None:
    """A copy whose key went with its source is taken back, and the source is named."""
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        saver = na.JournalSaver(journal)
        grown(saver, 2)
        append = journal.append

        def late(drafts: Sequence[Any], *, durable: bool) -> None:
            journal.append = append  # type: ignore[method-assign]
            other.delete_thread("t")
            append(drafts, durable=durable)

        journal.append = late  # type: ignore[method-assign]
        with pytest.raises(errors.UnknownThreadError) as caught:
            saver.copy_thread("t", "c")
        says(caught.value, "'t'", "'c'")
        assert journal.threads() == []


@pytest.mark.parametrize("fault", [faults.Fault.COMMIT_BEFORE, faults.Fault.COMMIT_AFTER])
@pytest.mark.parametrize("what", ["copy", "prune"])
def test_a_kill_leaves_a_copy_and_a_pruning_whole_or_undone(
    home: Path, dies: Callable[[Callable[[], object]], None], fault: faults.Fault, what: str
) -> None:
    """Whenever the process is killed, all of it has happened or nothing."""

    def kill(hit: faults.Fault) -> None:
        if hit is fault:
            os.kill(os.getpid(), signal.SIGKILL)

    def body() -> None:
        with na.Journal.open(home) as journal:
            saver = na.JournalSaver(journal)
            grown(saver, 5)
            faults.arm(kill)
            if what == "copy":
                saver.copy_thread("t", "c")
            else:
                saver.prune(["t"])

    dies(body)
    done = fault is faults.Fault.COMMIT_AFTER
    with na.Journal.open(home) as journal:
        graph = grown(na.JournalSaver(journal), 0)
        here, there = history(graph), history(graph, C)
        if what == "copy":
            assert there == (here if done else [])
        assert len(here) == (1 if what == "prune" and done else 15)
        assert len(here[0][1]["lines"]) == 15


def test_a_copied_agents_thread_has_not_run(journal: na.Journal) -> None:
    """The copy of an agent's thread is its conversation: an agent's first run there goes on."""
    agent = na.Agent(chain(add), "counter", journal)
    agent.run({"n": 1, "items": ["one"]}, thread="t")
    na.JournalSaver(journal).copy_thread("t", "c")
    assert journal.thread("c").run == 0
    done = agent.run({"n": 5, "items": ["two"]}, thread="c")
    assert (done.number, done.value) == (1, {"n": 6, "items": ["one", "two"]})
    assert agent.run({"n": 7}, thread="t").number == 2


# -- deletions --------------------------------------------------------------------------------


@pytest.mark.parametrize("ingest", [False, True])
def test_pruning_keeps_the_newest_state_whole(home: Path, ingest: bool) -> None:
    """The newest checkpoint reads as before, and the thread goes on from it in any process."""
    with na.Journal.open(home) as journal:
        saver = na.JournalSaver(journal)
        graph = grown(saver, 40)
        newest = history(graph)[0]
        saver.prune(["t"])
        if ingest:
            journal.ingest()
        assert history(graph) == [newest]
        assert journal.sql("SELECT count(*) FROM checkpoints") == [(1,)]
    with na.Journal.open(home) as journal:
        graph = grown(na.JournalSaver(journal), 2)
        assert history(graph)[6] == newest
        assert len(graph.get_state(T).values["lines"]) == 126
        graph.checkpointer.prune(["t"])
        assert len(history(graph)) == 1
        assert len(graph.get_state(T).values["lines"]) == 126


def test_pruning_keeps_what_an_open_interrupt_waits_for(journal: na.Journal) -> None:
    """After pruning, both questions of a graph and its subgraph are there and can be answered."""

    def first(state: Any) -> Any:
        return {"items": [interrupt("first?")]}

    def second(state: Any) -> Any:
        return {"items": [interrupt("second?")]}

    graph = chain(add, first)
    graph.add_node("inner", chain(add, second).compile())
    graph.add_edge("add", "inner")
    plain = graph.compile(checkpointer=na.JournalSaver(journal))
    plain.invoke({"n": 0, "items": []}, T)
    asked = plain.get_state(T, subgraphs=True)
    assert {each.value for each in asked.interrupts} == {"first?", "second?"}
    plain.checkpointer.prune(["t"])
    pruned = plain.get_state(T, subgraphs=True)
    assert (pruned.values, pruned.interrupts) == (asked.values, asked.interrupts)
    assert [task.state and task.state.next for task in pruned.tasks] == [
        task.state and task.state.next for task in asked.tasks
    ]
    answers = {each.id: f"to {each.value}" for each in asked.interrupts}
    done = plain.invoke(Command(resume=answers), T)
    assert sorted(done["items"]) == ["to first?", "to second?"]


def appended(state: list[str] | None, writes: list[list[str]]) -> list[str]:
    """Reduce as DeltaChannel asks for: all writes at once."""
    return [*(state or []), *(line for write in writes for line in write)]


def delta(saver: Any, frequency: int) -> Any:
    """Return a graph whose state has a DeltaChannel beside a plain one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        channel = DeltaChannel(appended, snapshot_frequency=frequency)
    Delta = TypedDict("Delta", {"log": Annotated[list[str], channel], "n": int})  # noqa: UP013
    graph = StateGraph(Delta)
    graph.add_node("say", lambda state: {"log": [f"{state['n']} of {len(state['log'])}"]})
    graph.add_edge(START, "say")
    return graph.compile(checkpointer=saver)


def talked(saver: Any, frequency: int, times: int) -> Any:
    """Run that graph some times on thread `t`, each under a run id of its own."""
    graph = delta(saver, frequency)
    for run in range(times):
        graph.invoke({"log": ["in"], "n": run}, {**T, "metadata": {"run_id": f"run {run}"}})
    return graph


@pytest.mark.parametrize("frequency", [5, 1000])
@pytest.mark.parametrize("how", ["prune", "keep_latest"])
async def test_pruning_keeps_what_a_delta_channel_is_rebuilt_from(
    journal: na.Journal, frequency: int, how: str
) -> None:
    """The state is right after pruning, sync and async, and so is what comes after it."""
    expected = talked(InMemorySaver(), frequency, 9).get_state(T).values
    graph = talked(na.JournalSaver(journal), frequency, 8)
    full = len(history(graph))
    if how == "prune":
        na.prune("t", keep_last=1, journal=journal)
    else:
        graph.checkpointer.prune(["t"], strategy=how)
    kept = len(history(graph))
    assert (kept < 10) == (frequency == 5)
    assert kept < full or frequency == 1000
    graph = delta(na.JournalSaver(journal), frequency)
    assert len(graph.get_state(T).values["log"]) == 16
    graph.invoke({"log": ["in"], "n": 8}, T)
    assert graph.get_state(T).values == expected
    assert (await graph.aget_state(T)).values == expected
    graph.checkpointer.copy_thread("t", "c")
    graph.checkpointer.delete_thread("t")
    assert graph.get_state(C).values == expected


@pytest.mark.parametrize("frequency", [5, 1000])
def test_deleted_runs_still_count_in_a_delta_channel(journal: na.Journal, frequency: int) -> None:
    """Runs that are deleted are not shown, and the state that was built on them is right."""
    graph = talked(na.JournalSaver(journal), frequency, 8)
    before = {at: values for at, values, _ in history(graph)}
    graph.checkpointer.delete_for_runs([f"run {run}" for run in range(1, 6)])
    graph = delta(na.JournalSaver(journal), frequency)
    after = {at: values for at, values, _ in history(graph)}
    assert len(after) == 9
    assert all(before[at] == values for at, values in after.items())
    graph.checkpointer.copy_thread("t", "c")
    assert {at: values for at, values, _ in history(graph, C)} == after
    graph.checkpointer.prune(["t", "c"])
    newest = next(iter(after.values()))
    assert graph.get_state(T).values == graph.get_state(C).values == newest


def test_history_of_a_delta_channel_is_what_langgraph_would_read(journal: na.Journal) -> None:
    """The saver's own walk gives what LangGraph's default gives, for every checkpoint."""
    saver = na.JournalSaver(journal)
    talked(saver, 4, 8)
    default = super(na.JournalSaver, saver).get_delta_channel_history
    for found in saver.list(T):
        asked = {"config": found.config, "channels": ["log", "n", "nothing"]}
        assert saver.get_delta_channel_history(**asked) == default(**asked)


def test_deleted_runs_leave_every_other_checkpoint_as_it_was(journal: na.Journal) -> None:
    """What later checkpoints have of deleted ones reads as before, and can be built on."""
    saver = na.JournalSaver(journal)
    graph = grown(saver, 12)
    grown(saver, 2, C)
    before = history(graph)
    saver.delete_for_runs([f"run {run}" for run in range(1, 11)])
    assert history(graph) == [*before[:3], *before[-3:]]
    assert len(history(graph, C)) == 3
    assert len(grown(saver, 1).get_state(T).values["lines"]) == 39
    one = {**T["configurable"], "checkpoint_id": before[9][0]}
    assert saver.get_tuple({"configurable": one}) is None
    assert journal.sql("SELECT count(*) FROM checkpoints WHERE thread = 't'") == [(9,)]


def test_a_deleted_thread_is_in_no_list_and_under_no_new_value(journal: na.Journal) -> None:
    """A thread of the same name, in the same process, has nothing of the deleted one."""
    saver = na.JournalSaver(journal)
    grown(saver, 2)
    grown(saver, 1, C)
    old = saver.get_tuple(T)
    assert old is not None
    saver.delete_thread("t")
    assert {each.config["configurable"]["thread_id"] for each in saver.list(None)} == {"c"}
    child = {**old.checkpoint, "id": old.checkpoint["id"] + "0"}
    config = {"configurable": {**old.config["configurable"], "checkpoint_ns": ""}}
    saver.put(config, child, old.metadata, {})
    (found,) = saver.list(T)
    assert found.checkpoint["channel_values"] == old.checkpoint["channel_values"]
    assert len([*saver.list(None)]) == 4


def test_a_strategy_that_there_is_not(home: Path, journal: na.Journal) -> None:
    """An unknown strategy is refused, and both that there are are named."""
    grown(na.JournalSaver(journal), 1)
    with refused(home, errors.UsageError, "'oldest'", "keep_latest", "'delete'"):
        na.JournalSaver(journal).prune(["t"], strategy="oldest")


# -- threads that an agent drives -------------------------------------------------------------


def test_a_finished_agents_thread_is_pruned(journal: na.Journal) -> None:
    """Its runs and results stay, and the next run goes on from the newest state."""
    agent = na.Agent(chain(add, add_item), "counter", journal)
    for n in range(3):
        agent.run({"n": n}, thread="t")
    na.JournalSaver(journal).prune(["t"])
    assert len([*na.JournalSaver(journal).list(T)]) == 1
    done = agent.run({"n": 3}, thread="t")
    assert done.value == {"n": 4, "items": ["1", "2", "3", "4"]}
    assert done.number == 4
    na.JournalSaver(journal).prune(["t"], strategy="delete")
    assert journal.threads() == []


def add_item(state: Any) -> Any:
    """Add what was counted: a node."""
    return {"items": [str(state["n"])]}


@pytest.mark.parametrize("answered", [False, True])
def test_an_unfinished_run_goes_on_after_pruning(journal: na.Journal, answered: bool) -> None:
    """A waiting and a failed run of an agent are resumed from what `keep_latest` kept."""
    broken = [True]

    def fragile(state: Any) -> Any:
        if not answered and broken:
            raise RuntimeError("out of order")
        return ask(state) if answered else {"n": 10}

    ran: list[int] = []

    def effect(state: Any) -> Any:
        ran.append(1)
        return add_item(state)

    agent = na.Agent(chain(effect, fragile), "waiting", journal)
    if answered:
        assert agent.run({"n": 1}, thread="t").status is RunStatus.WAITING
    else:
        with pytest.raises(RuntimeError, match="out of order"):
            agent.run({"n": 1}, thread="t")
    na.JournalSaver(journal).prune(["t"])
    broken.clear()
    done = agent.run(Command(resume=7), thread="t") if answered else agent.resume("t")
    assert done.value == {"n": 7 if answered else 10, "items": ["1"]}
    assert ran == [1]


def test_what_an_unfinished_run_needs_is_not_deleted(home: Path, journal: na.Journal) -> None:
    """Its checkpoints, and the thread as a whole, are refused to a deletion in bulk by name."""
    saver = na.JournalSaver(journal)
    agent = na.Agent(chain(add, ask), "waiting", journal)
    agent.run({"n": 0}, thread="t", config={"metadata": {"run_id": "r"}})
    grown(saver, 1, C)
    with refused(home, errors.RunUnfinishedError, "'t'", "run 1", "waiting", "delete_thread"):
        saver.delete_for_runs(["run 0", "r"])
    with refused(home, errors.RunUnfinishedError, "'t'", "run 1", "waiting", "delete_thread"):
        saver.prune(["c", "t"], strategy="delete")
    assert agent.run(Command(resume=7), thread="t").value["n"] == 7
    saver.delete_for_runs(["run 0", "r"])
    assert [*saver.list(None)] == []


def test_what_an_unfinished_run_began_from_is_not_deleted(
    home: Path, dies: Callable[[Callable[[], object]], None]
) -> None:
    """A run that was killed before its first checkpoint rests on that of the run before it."""

    def kill(fault: faults.Fault) -> None:
        if fault is faults.Fault.INTENT_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)

    def start() -> None:
        with na.Journal.open(home) as journal:
            agent = na.Agent(chain(add), "counter", journal)
            agent.run({"n": 0}, thread="t", config={"metadata": {"run_id": "old"}})
            faults.arm(kill)
            agent.run({"n": 5}, thread="t")

    dies(start)
    with na.Journal.open(home) as journal:
        assert {record.run for record in journal.select(kinds=[Kind.CHECKPOINT])} == {1}
        with refused(home, errors.RunUnfinishedError, "'t'", "run 2", "orphaned"):
            na.JournalSaver(journal).delete_for_runs(["old"])
        assert na.Agent(chain(add), "counter", journal).resume("t").value == {"n": 6, "items": []}


def test_a_driven_thread_is_left_alone(home: Path, journal: na.Journal) -> None:
    """While a process drives a thread, pruning and deletion are refused and name the process."""
    saver = na.JournalSaver(journal)
    caught: list[BaseException] = []

    def meddle(state: Any) -> Any:
        for call in (
            lambda: saver.prune(["t"]),
            lambda: saver.prune(["t"], strategy="delete"),
            lambda: saver.delete_for_runs(["r"]),
            lambda: saver.delete_thread("t"),
        ):
            try:
                call()
            except errors.ThreadBusyError as error:
                caught.append(error)
        return {"n": 1}

    agent = na.Agent(chain(add, meddle), "meddling", journal)
    agent.run({"n": 0}, thread="t", config={"metadata": {"run_id": "r"}})
    assert len(caught) == 4
    for error in caught:
        says(error, "'t'", "process")


# -- lists ------------------------------------------------------------------------------------


def reads(journal: na.Journal, call: Callable[[], object]) -> int:
    """Return how many SQL statements a call runs in either engine."""
    count = [0]
    journal._queue._reader.set_trace_callback(lambda _: count.__setitem__(0, count[0] + 1))
    by_seq = journal._archive.by_seq

    def counted(seqs: Sequence[int]) -> Any:
        count[0] += 1
        return by_seq(seqs)

    journal._archive.by_seq = counted  # type: ignore[method-assign]
    try:
        call()
    finally:
        journal._queue._reader.set_trace_callback(None)
        del journal._archive.by_seq
    return count[0]


@pytest.mark.parametrize("ingest", [False, True])
def test_a_list_reads_many_checkpoints_at_once(journal: na.Journal, ingest: bool) -> None:
    """A list of 200 checkpoints takes a few reads for each fifty of them, and not one for each.

    58, or 3 or 6 more: where a list is cut, and so how deep its chunks refer to others, depends on
    the thread's random key.
    """
    saver = na.JournalSaver(journal)
    grown(saver, 70)
    if ingest:
        journal.ingest()
    found: list[Any] = []
    few = reads(journal, lambda: [*saver.list(T, limit=10)])
    many = reads(journal, lambda: found.extend(saver.list(T, limit=200)))
    assert len(found) == 200
    assert all(each.pending_writes for each in found[1:100:3])
    assert many <= 4 * few
    assert many < 70
    filtered = reads(journal, lambda: [*saver.list(T, filter={"source": "loop"})])
    assert filtered < 80


def test_pruning_and_rebuilding_read_many_checkpoints_at_once(journal: na.Journal) -> None:
    """To prune a thread or rebuild a DeltaChannel takes a few reads for fifty checkpoints."""
    saver = na.JournalSaver(journal)
    graph = talked(saver, 1000, 60)
    assert reads(journal, lambda: graph.get_state(T)) < 60
    assert reads(journal, lambda: saver.prune(["t"])) < 60


def test_lists_are_ordered_and_filtered_as_langgraphs_own(journal: na.Journal) -> None:
    """Over all threads the newest comes first, and the filters choose what LangGraph's choose."""
    saver, other = na.JournalSaver(journal), InMemorySaver()
    for each in (saver, other):
        grown(each, 2)
        grown(each, 2, C)
        grown(each, 1)
    ids = [found.checkpoint["id"] for found in saver.list(None)]
    assert len(ids) == 15
    assert ids == sorted(ids, reverse=True)

    def shape(found: Any) -> Any:
        return [
            (
                each.config["configurable"]["thread_id"],
                each.metadata,
                each.checkpoint["channel_values"].get("small"),
            )
            for each in found
        ]

    newest = sorted(other.list(None), key=lambda found: found.checkpoint["id"], reverse=True)
    assert shape(saver.list(None)) == shape(newest)
    for options in (
        {"limit": 2},
        {"limit": 0},
        {"filter": {"source": "input"}},
        {"filter": {"source": "loop", "run_id": "run 1"}, "limit": 1},
        {"filter": {"missing": None}},
        {"filter": {"step": 3}},
    ):
        assert shape(saver.list(T, **options)) == shape(other.list(T, **options))
    for each in (saver, other):
        middle = [*each.list(T)][4]
        assert len([*each.list(T, before=middle.config)]) == 4
        assert [found.checkpoint["id"] for found in each.list(middle.config)] == [
            middle.checkpoint["id"]
        ]
