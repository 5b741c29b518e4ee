"""`prune` and `delete`: what goes, what stays, and what a refusal says."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from langgraph.types import Command, interrupt
from support.checks import State, add, ask, chain, refused, says
from support.holding import holding, until
from support.shapes import build

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.graph import pruning, retention
from notebook_agents.journal import check
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Ended
    from support.forks import Effects
    from support.holding import Held
    from support.syscalls import Shim

LONG = "a sentence that is long enough to be a chunk of its own " * 10


def add_long(state: State) -> State:
    """Add a long text: a node."""
    return {"items": [f"{state['n']} {LONG}"]}


def add_more(state: State) -> State:
    """Add another: a node."""
    return add_long(state)


def counter(journal: na.Journal) -> na.Agent:
    """Return an agent whose runs have four checkpoints each."""
    return na.Agent(chain(add, add_long), "pruned", journal)


def filled(home: Path, *threads: str, runs: int = 3) -> None:
    """Have finished runs on threads, half of them in DuckDB."""
    with na.Journal.open(home) as journal:
        for thread in threads:
            for n in range(runs):
                counter(journal).run({"n": n}, thread=thread)
            journal.ingest()


def listed(journal: na.Journal, thread: str = "t") -> list[Any]:
    """Return a thread's checkpoints, each with its state."""
    saver = na.JournalSaver(journal)
    return [each.checkpoint for each in saver.list({"configurable": {"thread_id": thread}})]


def content(home: Path) -> dict[str, bytes]:
    """Return what the journal's files hold; locks say who had them."""
    return {
        path.name: path.read_bytes()
        for path in home.iterdir()
        if path.is_file() and not path.name.endswith(".lock")
    }


# -- what goes ---------------------------------------------------------------------------------


def test_the_newest_stay_as_they_were(home: Path) -> None:
    """So many are listed as were to stay, with their states; a second pruning finds nothing."""
    filled(home, "t", "u")
    with na.Journal.open(home) as journal:
        before = listed(journal)
        removal = na.prune("t", keep_last=2, journal=journal)
        assert listed(journal) == before[:2]
        assert len(listed(journal, "u")) == len(before) == 12
        (one,) = removal.threads
        assert (one.thread, one.checkpoints, one.why, one.refused) == ("t", 10, None, False)
        assert one.records >= 10
        assert 0 < one.bytes == removal.bytes
        assert "`notebook-agents journal compact` gives the space back" in str(removal)
        again = na.prune(keep_last=2, journal=journal)
        assert [each.thread for each in again.threads] == ["u"]
        assert counter(journal).run({"n": 9}, thread="t").value["n"] == 10


def test_what_is_newer_stays_too(home: Path) -> None:
    """A time adds to what stays, and alone leaves the newest checkpoint whatever its age."""
    filled(home, "t")
    with na.Journal.open(home) as journal:
        for keep in ({}, {"keep_last": 1}):
            kept = na.prune("t", newer_than=timedelta(days=1), journal=journal, **keep)
            assert (kept.checkpoints, str(kept)) == (0, "nothing goes")
        na.prune(newer_than=timedelta(0), journal=journal)
        assert len(listed(journal)) == 1


def test_a_text_counts_as_freed_only_with_its_last_use(home: Path, journal: na.Journal) -> None:
    """A chunk that the newest state has is not said to go; that of a state that is gone is."""

    def replace(state: State) -> State:
        return {"at": [f"{n} {os.urandom(2000).hex()}" for n in range(state["n"])]}

    agent = na.Agent(chain(replace), "replacing", journal)
    agent.run({"n": 3}, thread="t")
    kept = na.prune("t", keep_last=1, dry_run=True, journal=journal)
    assert kept.bytes < 2_000
    agent.run({"n": 1}, thread="t")
    assert na.prune("t", keep_last=1, journal=journal).bytes < 3_000  # results have them, too
    whole = na.delete("t", journal=journal)
    assert whole.bytes > 4 * 2_000
    assert journal.threads() == []


def test_subgraphs_that_ended_go_with_the_states_around_them(journal: na.Journal) -> None:
    """Each call of a subgraph has checkpoints of its own: else one of each would stay for ever."""
    inner = chain(add, add_long).compile()
    agent = na.Agent(build(a=add, sub=inner, b=add).add_edge("a", "sub").add_edge("sub", "b"), "n")
    agent = agent.on(journal)
    for n in range(3):
        agent.run({"n": n}, thread="t")
    spaces = {moment.namespace for moment in agent.thread("t").history()}
    assert len(spaces) == 4
    na.prune("t", keep_last=1, journal=journal)
    assert [moment.namespace for moment in agent.thread("t").history()] == [""]
    assert agent.run({"n": 7}, thread="t").value["n"] == 10


def test_nothing_says_what_stays(home: Path, journal: na.Journal, done: na.Run) -> None:
    """Without a word on what stays, or with one that means nothing, nothing is touched."""
    with refused(home, errors.UsageError, "keep_last", "newer_than"):
        na.prune(journal=journal)
    with refused(home, errors.UsageError, "at least 1"):
        na.prune(keep_last=0, journal=journal)
    with refused(home, errors.UsageError, "not negative"):
        na.prune(newer_than=timedelta(days=-1), journal=journal)
    with refused(home, errors.UnknownThreadError, "'x'"):
        na.prune("x", keep_last=1, journal=journal)
    with refused(home, errors.UnknownThreadError, "'x'"):
        na.delete("x", journal=journal)


def test_a_dry_run_changes_no_byte(home: Path, cli: Callable[..., Ended]) -> None:
    """It says what the pruning then does, and has nothing done that a schedule asks for."""
    filled(home, "a", "b")
    before = content(home)
    arguments = ("journal", "prune", "--keep", "1", "--journal", str(home), "--json")
    would = cli(*arguments, "--dry-run", NOTEBOOK_AGENTS_TTL="0.001s")
    assert would.code == 0, would.err
    assert content(home) == before
    said = json.loads(would.out)
    assert said["checkpoints"] == 22
    did = json.loads(cli(*arguments).out)
    assert did == {**said, "dry_run": False}
    assert content(home) != before


def test_a_dry_run_asks_no_driver(home: Path, held: Held) -> None:
    """Of a process that is stopped one asks whether it is there; a dry run does not."""
    held.stop()
    with na.Journal.open(home) as journal:
        before = content(home)
        (one,) = na.prune(keep_last=1, dry_run=True, journal=journal).refused
        assert content(home) == before
        says(one.why or "", "'t'", f"process {held.pid}")


# -- what stays --------------------------------------------------------------------------------


def test_a_thread_that_another_process_drives_is_left_alone(home: Path, held: Held) -> None:
    """Named, it is refused; among all it is said why, and the others are pruned."""
    filled(home, "u")
    with na.Journal.open(home) as journal:
        with pytest.raises(errors.ThreadBusyError) as caught:
            na.prune("t", keep_last=1, journal=journal)
        says(caught.value, "'t'", f"process {held.pid}")
        with pytest.raises(errors.ThreadBusyError, match=f"process {held.pid}"):
            na.delete("t", unfinished=True, journal=journal)
        removal = na.prune(keep_last=1, journal=journal)
        assert [one.thread for one in removal.refused] == ["t"]
        assert removal.checkpoints == 11
        assert held.let_go() == 0
        assert journal.thread("t").status is RunStatus.SUCCEEDED


def unfinished(how: str, journal: na.Journal, effects: Effects) -> na.Agent:
    """Return an agent whose second run on thread `t` does not come to its end the first time."""

    def stop(state: State) -> None:
        if state["n"] == 0 or effects.names().count("b") > 2:
            return
        if how == "waiting":
            interrupt("sure?")
        elif how == "orphaned":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise RuntimeError("out of order")

    nodes = (add_long, effects.node("a"), effects.node("b", stop), effects.node("c"))
    return na.Agent(chain(*nodes), "stopping", journal)


@pytest.mark.parametrize("how", ["waiting", "failed", "orphaned"])
def test_what_an_unfinished_run_needs_stays(
    how: str, home: Path, effects: Effects, forked: Callable[..., int]
) -> None:
    """Older runs' states go, its own stay, which is said; it goes on, and no effect is repeated."""

    def begins() -> None:
        with na.Journal.open(home) as journal:
            agent = unfinished(how, journal, effects)
            agent.run({"n": 0}, thread="t")
            agent.run({"n": 1}, thread="t")

    forked(begins)
    with na.Journal.open(home) as journal:
        agent = unfinished(how, journal, effects)
        assert journal.thread("t").status == how
        moments = {m.checkpoint for m in agent.thread("t").history() if m.run == 2}
        with refused(home, errors.RunUnfinishedError, "'t'", "run 2", how, "unfinished=True"):
            na.delete("t", journal=journal)
        (one,) = na.prune("t", keep_last=1, journal=journal).threads
        assert one.why == f"all checkpoints of run 2 stay, which is {how}"
        assert one.checkpoints == 6
        assert {m.checkpoint for m in agent.thread("t").history()} == moments
        run = agent.resume("t", **({"answer": True} if how == "waiting" else {}))
        assert [item[:1] for item in run.value["items"]] == ["0", "a", "b", "c", "1", "a", "b", "c"]
        assert effects.names() == ["a", "a", "b", "b", "b", "c", "c"]


def test_what_a_step_in_doubt_needs_stays(home: Path, dies: Callable[..., None]) -> None:
    """The run waits for a person's word before and after; deleting it takes one, too."""

    @na.step(at_most_once=True)
    def charge() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    def pay(state: State) -> State:
        return {"at": charge()} if state["n"] else {}

    def program() -> None:
        with na.Journal.open(home) as journal:
            agent = na.Agent(chain(add_long, pay, add), "paying", journal)
            agent.run({"n": 0}, thread="t")
            agent.run({"n": 1}, thread="t")

    dies(program)
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add_long, pay, add), "paying", journal)
        run = agent.resume("t")
        assert run.status is RunStatus.IN_DOUBT
        na.prune("t", keep_last=1, journal=journal)
        with refused(home, errors.RunUnfinishedError, "'t'", "run 2", "in_doubt"):
            na.delete("t", journal=journal)
        na.resolve("t", None, na.did("paid"), journal=journal)
        assert agent.resume("t").value["at"] == "paid"
        assert na.delete("t", journal=journal).checkpoints == 5


def test_a_question_in_a_subgraph_stays_open(journal: na.Journal) -> None:
    """The subgraph's own states stay with the task that has not ended."""
    inner = chain(add, ask).compile()
    graph = build(a=add, sub=inner, b=add).add_edge("a", "sub").add_edge("sub", "b")
    agent = na.Agent(graph, "asking-inside", journal)
    agent.run({"n": 0}, thread="t")
    assert na.prune("t", keep_last=1, journal=journal).checkpoints == 0
    assert agent.resume("t", answer=5).value["n"] == 6
    na.prune("t", keep_last=1, journal=journal)
    assert agent.run({"n": 0}, thread="t").status is RunStatus.WAITING


def test_a_plain_graphs_question_in_a_subgraph_stays_open(journal: na.Journal) -> None:
    """Without runs nobody knows what is unfinished: a newest state keeps its subgraphs' states."""
    ran: list[int] = []

    def effect(state: State) -> State:
        ran.append(1)
        return add(state)

    inner = chain(effect, ask).compile()
    builder = build(a=add, sub=inner, b=add).add_edge("a", "sub").add_edge("sub", "b")
    graph = builder.compile(checkpointer=na.JournalSaver(journal))
    t: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"n": 0}, t)
    removal = na.prune("t", keep_last=1, journal=journal)
    assert removal.checkpoints == 4
    assert graph.invoke(Command(resume=5), t)["n"] == 6
    assert ran == [1]


@pytest.mark.parametrize("how", ["prune", "delete"])
def test_forks_keep_what_they_are_built_on(home: Path, effects: Effects, how: str) -> None:
    """Whatever becomes of the original, a fork goes on from its point; what is shared is said."""
    graph = chain(add_long, effects.node("a"), add_more, effects.node("b"))
    with na.Journal.open(home) as journal:
        agent = na.Agent(graph, "forking", journal)
        first = agent.run({"n": 0}, thread="t")
        fork = agent.fork("t", at=next(step.id for step in first.steps if step.name == "a"))
        journal.ingest()
        if how == "prune":
            assert na.prune("t", keep_last=1, journal=journal).checkpoints == 5
        else:
            removal = na.delete("t", journal=journal)
            assert f"shares with {fork.name!r}" in str(removal)
        value = first.value if how == "prune" else None
    with na.Journal.open(home) as journal:
        agent = na.Agent(graph, "forking", journal)
        done = agent.resume(fork.name)
        assert value is None or done.value == value
        assert len(done.value["items"]) == 4
        assert [moment.values for moment in agent.thread(fork.name).history()]


def test_nothing_forks_or_goes_on_from_what_was_pruned(home: Path, journal: na.Journal) -> None:
    """A point whose state is gone is refused by name; those that are left can be forked at."""
    agent = counter(journal)
    first = agent.run({"n": 0}, thread="t")
    agent.run({"n": 5}, thread="t")
    moments = agent.thread("t").history()
    na.prune("t", keep_last=2, journal=journal)
    for at in (moments[-1].checkpoint, first.steps[1].id):
        with refused(home, errors.UnknownThreadError, "'t'", f"{at!r}", "pruned"):
            agent.fork("t", at=at)
        with refused(home, errors.UnknownThreadError, "'t'", f"{at!r}", "pruned"):
            agent.thread("t").update_state({"n": 1}, at=at)
    left = agent.fork("t", at=moments[1].checkpoint)
    assert agent.resume(left.name).value["n"] == 6


def test_a_dry_run_counts_what_forks_share_once_all_let_it_go(home: Path) -> None:
    """A text that only pruned states of a thread and its fork have goes with the second of them."""
    with na.Journal.open(home) as journal:
        agent = counter(journal)
        agent.run({"n": 0}, thread="t")
        agent.thread("t").update_state({"at": os.urandom(2000).hex()})
        agent.thread("t").update_state({"at": "gone"})
        agent.fork("t", name="f")
        keep = retention.Keep(last=1)
        would, did = (
            pruning.prune_threads(journal, ["f", "t", "f"], keep, dry_run=dry_run)
            for dry_run in (True, False)
        )
        assert would.threads == did.threads
        assert [one.bytes > 2_000 for one in did.threads] == [False, True]


def test_what_stays_is_said_only_where_more_would_go(journal: na.Journal) -> None:
    """A thread that waits, and has nothing older than was asked for, is not named."""
    agent = na.Agent(chain(add, ask), "asking", journal)
    agent.run({"n": 0}, thread="t")
    assert na.prune(keep_last=9, journal=journal).threads == ()
    (one,) = na.prune(keep_last=1, journal=journal).threads
    assert one.why == "all checkpoints of run 1 stay, which is waiting"


def test_a_deletion_beside_another_leaves_no_key_behind(home: Path) -> None:
    """Deleted by somebody else between the look and its turn, a thread gets no new data key."""
    filled(home, "t", runs=1)
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        assert not journal.delete_thread("t", check=lambda _: other.delete_thread("t"))
        assert journal.queue.keys() == {}


def test_a_thread_made_anew_is_not_deleted_for_the_old_one(home: Path) -> None:
    """A deletion that looked at one thread spares another that has got its name meanwhile."""
    filled(home, "t", runs=1)
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        looked: list[RunStatus] = []

        def check(head: Any) -> None:
            looked.append(head.info().status)
            if looked == [RunStatus.SUCCEEDED]:
                other.delete_thread("t")
                na.Agent(chain(ask), "asking", other).run({"n": 0}, thread="t")
                journal.head("t")  # who looks meanwhile learns of the new key
            elif head.info().status is RunStatus.WAITING:
                raise errors.RunUnfinishedError("it waits")

        with pytest.raises(errors.RunUnfinishedError):
            journal.delete_thread("t", check=check)
        assert looked == [RunStatus.SUCCEEDED, RunStatus.WAITING]
        assert journal.thread("t").status is RunStatus.WAITING


def test_what_begins_before_a_deletion_commits_is_not_deleted(home: Path, tmp_path: Path) -> None:
    """A run that began after the look and now waits for a person keeps its thread."""
    said: list[BaseException] = []
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), f"holding-{tmp_path.name}", journal).run({"n": 0}, thread="t")

        def delete() -> None:
            try:
                na.delete("t", journal=journal)
            except errors.NotebookAgentsError as error:
                said.append(error)

        worker = threading.Thread(target=delete)
        with journal._writer.leading:  # it has looked, and has its turn when this block ends
            worker.start()
            until(lambda: journal._writer._waiting)
            with holding(home, tmp_path, ask) as driver:
                assert driver.let_go() == 0
        worker.join()
        assert journal.thread("t").status is RunStatus.WAITING
        assert journal.select(thread="t", kinds=[Kind.DELETION]) == []
        (error,) = said
        assert isinstance(error, errors.RunUnfinishedError)
        says(error, "'t'", "run 2", "waiting")


def test_a_pruning_beside_runs_of_another_process_disturbs_none(home: Path, tmp_path: Path) -> None:
    """While one process asks, is answered and ends, another prunes whenever it may."""
    turns = 8

    def program() -> None:
        with na.Journal.open(home) as journal:
            agent = na.Agent(chain(add_long, ask, add_more), "asking", journal)
            for n in range(turns):
                assert agent.run({"n": n}, thread="t").status is RunStatus.WAITING
                value = agent.resume("t", answer=n).value
                assert len(value["items"]) == 2 * (n + 1)

    child = fork(program, tmp_path / "child.log")
    pruned = 0
    with na.Journal.open(home) as journal:
        while not child.ends_within(0):
            pruned += na.prune(keep_last=1, journal=journal).checkpoints
        assert child.end() == 0, child.log.read_text()
        pruned += na.prune(keep_last=1, journal=journal).checkpoints
        assert pruned == 5 * turns - 1
    assert check.check(home).sound


def test_a_pruning_beside_a_run_of_the_same_process_waits_for_nobody(home: Path) -> None:
    """Who reads the history wants keys, and who begins to write wants the history: in one order."""
    filled(home, "t", "u")
    with na.Journal.open(home) as journal:
        newest = journal.newest()
        writer = threading.Thread(target=journal.chunks, args=("u",), daemon=True)

        def read() -> None:
            with journal.reading():
                writer.start()
                until(lambda: _function(writer) in ("burst", "lingering"))
                journal.payload(newest)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for worker in (reader, writer):
            worker.join(20)
            assert not worker.is_alive()


def _function(thread: threading.Thread) -> str:
    """Return the name of the function that a thread is in."""
    return sys._current_frames()[thread.ident or 0].f_code.co_name


def test_a_child_deletes_what_its_parent_drove(journal: na.Journal, tmp_path: Path) -> None:
    """What the parent drove when the child was born is refused until the parent gave it back."""
    inside, tried, gate, given_back = (os.pipe() for _ in range(4))

    def stay(state: State) -> State:
        os.write(inside[1], b"x")
        os.read(gate[0], 1)
        return {"n": 1}

    def child() -> None:
        with pytest.raises(errors.ThreadBusyError):
            na.delete("t", unfinished=True, journal=journal)
        os.write(tried[1], b"x")
        os.read(given_back[0], 1)
        assert na.prune("t", keep_last=1, journal=journal).checkpoints == 2
        na.delete("t", journal=journal)

    agent = na.Agent(chain(stay), "staying", journal)
    worker = threading.Thread(target=agent.run, args=({"n": 0},), kwargs={"thread": "t"})
    worker.start()
    os.read(inside[0], 1)
    born = fork(child, tmp_path / "child.log")
    os.read(tried[0], 1)
    os.write(gate[1], b"x")
    worker.join()
    os.write(given_back[1], b"x")
    assert born.end() == 0, born.log.read_text()
    assert journal.threads() == []
    for descriptor in (*inside, *tried, *gate, *given_back):
        os.close(descriptor)


# -- kills -------------------------------------------------------------------------------------


def test_a_pruning_killed_anywhere_leaves_every_thread_readable(home: Path, shim: Shim) -> None:
    """Each thread is pruned or it is not; all its checkpoints that are listed can be read."""
    filled(home, "a", "b", "c", runs=2)
    said = shim.run(
        """
        import os, pathlib
        import duckdb, langgraph.graph
        import notebook_agents as na
        from notebook_agents.journal import check
        from support.syscalls import killed_at_each
        from test_pruning import LONG, listed
        home = pathlib.Path(os.environ["NA_ROOT"])
        seen = set()

        def prune():
            with na.Journal.open(home) as journal:
                na.prune(keep_last=3, journal=journal)

        def after(number):
            with na.Journal.open(home) as journal:
                counts = tuple(len(listed(journal, thread)) for thread in "abc")
                assert set(counts) <= {3, 8}, counts
                for thread in "abc":
                    newest = listed(journal, thread)[0]["channel_values"]
                    assert newest["items"] == [f"1 {LONG}", f"2 {LONG}"], newest
            seen.add(counts)

        killed = killed_at_each(prune, after, step=6)
        assert check.check(home).sound
        print(killed, len(seen))
        """,
        home,
    )
    killed, seen = map(int, said.split())
    assert killed > 3
    assert seen > 1


# -- the commands ------------------------------------------------------------------------------


def test_the_commands_prune_and_delete(home: Path, cli: Callable[..., Ended], held: Held) -> None:
    """They say what went; a driven thread is exit code 5; without a terminal nobody is asked."""
    filled(home, "u", "v")
    at = ("--journal", str(home))
    pruned = cli("journal", "prune", "u", "--keep", "2", "--newer-than", "0s", *at)
    assert pruned.code == 0, pruned.err
    assert pruned.out.startswith("u: 10 checkpoints, ")
    assert "`notebook-agents journal compact` gives the space back" in pruned.out
    busy = cli("journal", "prune", "--keep", "2", *at)
    assert busy.code == 5
    assert f"t: thread 't' is being driven by process {held.pid}" in busy.out
    assert "v: 10 checkpoints" in busy.out
    assert cli("journal", "prune", *at).code == 2
    assert "30d" in cli("journal", "prune", "--newer-than", "soon", *at).err
    asked = cli("delete", "u", *at)
    assert (asked.code, "--yes" in asked.err) == (2, True)
    gone = cli("delete", "u", "--yes", "--json", *at)
    assert json.loads(gone.out)["threads"][0]["thread"] == "u"
    assert cli("delete", "t", "--yes", *at).code in (2, 5)
    assert held.let_go() == 0
    with na.Journal.open(home) as journal:
        assert {info.thread for info in journal.threads()} == {"t", "v"}
