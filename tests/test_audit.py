"""What receipts tell of runs that were killed, asked, forked, deleted."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import os
import signal
import socket
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt
from support.checks import State, add, chain, says
from support.forks import nested, step_of
from support.notebooks import SETUP, written
from support.receipts import holds, receipt, refused, rows, told
from support.running import Ledger, run

import notebook_agents as na
from notebook_agents import errors, verify_receipt
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime.receipts import Receipt
from notebook_agents.sealing.signing import load_signing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WHO = f"{getpass.getuser()} on {socket.gethostname()}"


@pytest.fixture
def paying(ledger, trips) -> Callable[[State], Any]:
    """Return a node that pays at most once, and is killed behind the payment the first time."""

    @na.step(at_most_once=True)
    def pay(amount: int) -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay(5)]}

    return node


def resolve(home: Path, answer: Any) -> None:
    """Decide the only doubt of thread `t`."""
    with na.Journal.open(home) as journal:
        na.resolve("t", answer=answer, journal=journal)


def explains(path: Path, ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Check that each effect in a ledger of keys is one that the receipt tells of.

    Returns:
        By key, how many effects there were at least and at most, as far as the receipt tells.
    """
    keys: dict[str, Any] = {}
    for entry in rows(path):
        if "key" in entry and entry["kind"] != "footer":
            key = keys.get(entry["key"])
            if key is None:
                key = keys[entry["key"]] = verify_receipt._Key(entry)
            key.take(entry)
    times = {id_: key.times() for id_, key in keys.items() if key.what == "call"}
    effects = Counter(ledger.lines())
    assert effects.keys() <= times.keys()
    for key, (least, most) in times.items():
        assert least <= effects[key] <= most, (key, least, effects[key], most)
    return times


# -- doubts, and who resolved them -------------------------------------------------------------


@pytest.mark.parametrize("happened", [True, False], ids=["did", "did_not"])
def test_doubt_that_a_person_resolved(home, ledger, dies, paying, happened):
    """The receipt names attempt, key, user, host and time; the payments are those of the ledger."""
    dies(lambda: run(home, paying))
    if not happened:  # what the person says is true
        ledger.path.unlink()
    resolve(home, na.did("by phone") if happened else na.did_not())
    assert run(home, paying).status is RunStatus.SUCCEEDED
    path = receipt(home)
    said = holds(path, "--twice")
    (doubt,) = [one for one in told(path, "doubt") if one["name"] == "pay"]
    (decision,) = told(path, "decision")
    assert (doubt["attempt"], decision["attempt"], decision["how"]) == (1, 1, "a person")
    assert (decision["user"], decision["host"]) == tuple(WHO.split(" on "))
    assert decision["key"] == doubt["key"] == ledger.lines()[0]
    assert ("value" in decision) is happened
    answer = "did" if happened else "did_not"
    assert f"resolved by a person ({WHO}, {decision['at']}): {answer}" in said
    assert "Effects of durable calls: pay 1;" in said
    assert explains(path, ledger) == {doubt["key"]: (1, 1)}
    kinds = [one["kind"] for one in rows(path) if one.get("step") == doubt["step"]]
    again = [] if happened else ["intent"]
    assert kinds == ["intent", "doubt", "decision", *again, "result"]
    assert "0 keys" not in said  # the node around it began twice
    assert f"times: node (node {told(path, 'intent')[0]['key']}): begun 2" in said
    assert "times: pay" not in said


@pytest.mark.parametrize("answer", ["did", "did_not", "cannot say"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_doubt_that_reconcile_resolved(home, ledger, dies, trips, answer, is_async):
    """What the call's own function said is told as such, by whose process; or that nobody said."""
    answers = {"did": na.did("found"), "did_not": na.did_not(), "cannot say": None}

    def work() -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "paid"

    @na.step(at_most_once=True, reconcile=lambda key: answers[answer])
    def pay() -> str:
        return work()

    @na.step(at_most_once=True, reconcile=lambda key: answers[answer])
    async def pay_async() -> str:
        return work()

    def node(state: State) -> State:
        return {"items": [pay()]}

    async def node_async(state: State) -> State:
        return {"items": [await pay_async()]}

    chosen = node_async if is_async else node
    dies(lambda: run(home, chosen))
    if answer == "did_not":
        ledger.path.unlink()
    done = run(home, chosen)
    path = receipt(home)
    said = holds(path)
    key = ledger.lines()[0]
    if answer == "cannot say":
        assert done.status is RunStatus.IN_DOUBT
        assert not told(path, "decision")
        assert "attempt 1 in doubt (its driver was gone), resolved by nobody yet" in said
        assert f"{'pay_async' if is_async else 'pay'} 0 to 1;" in said
        assert explains(path, ledger) == {key: (0, 1)}
        return
    (decision,) = told(path, "decision")
    assert (decision["said"], decision["how"], decision["key"]) == (answer, "reconcile", key)
    assert f"resolved by reconcile ({WHO}, {decision['at']}): {answer}" in said
    assert explains(path, ledger) == {key: (1, 1)}


def test_reconcile_of_a_journal_from_before(home, ledger, dies, trips, monkeypatch):
    """Where it was not recorded, a result of an attempt in doubt can have come from it alone."""

    @na.step(at_most_once=True, reconcile=lambda key: na.did("found"))
    def pay() -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay()]}

    dies(lambda: run(home, node))
    append = na.Journal.append

    def without(self: na.Journal, drafts: Any, *, durable: bool) -> None:
        append(self, [one for one in drafts if one.name != "reconcile"], durable=durable)

    monkeypatch.setattr(na.Journal, "append", without)
    run(home, node)
    path = receipt(home)
    assert not told(path, "decision")
    assert "resolved by its reconcile function: did" in holds(path)
    assert explains(path, ledger) == {ledger.lines()[0]: (1, 1)}


def test_call_that_ran_again_is_named(home, ledger, dies, trips):
    """A call that is made at least once may have had two effects: both under one key, and said."""

    @na.step
    def mail() -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "sent"

    def node(state: State) -> State:
        return {"items": [mail()]}

    dies(lambda: run(home, node))
    run(home, node)
    path = receipt(home)
    said = holds(path, "--twice")
    key = ledger.lines()[0]
    assert "Effects of durable calls: mail 1 to 2;" in said
    assert f"1 to 2 times: mail (call {key}): begun 2, 1 no end, 1 result" in said
    assert "resolved by nobody: begun again" in said
    assert explains(path, ledger) == {key: (1, 2)}


@pytest.mark.parametrize("proves", [True, False])
def test_error_of_an_at_most_once_call(home, ledger, proves):
    """One that proves that nothing happened is no effect; any other is a doubt at once."""

    @na.step(at_most_once=True, retry_on=ConnectionError if proves else None, tries=2, wait=0)
    def pay() -> str:
        if not proves:
            ledger.note(na.idempotency_key())
            raise TimeoutError
        if len(ledger.lines()) == 0 and not (home / "asked").exists():
            (home / "asked").touch()
            raise ConnectionError("refused")
        ledger.note(na.idempotency_key())
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay()]}

    if proves:
        run(home, node)
    else:
        with pytest.raises(TimeoutError):
            run(home, node)
        assert run(home, node).status is RunStatus.IN_DOUBT
    path = receipt(home)
    said = holds(path)
    assert explains(path, ledger) == {ledger.lines()[0]: (1, 1) if proves else (0, 1)}
    if proves:
        assert not told(path, "doubt")
        assert "begun 2, 1 failure nothing_happened, 1 result" in said
    else:
        assert "in doubt (its error proves nothing), resolved by nobody yet" in said


def test_call_that_took_too_long(home, ledger):
    """A call that was cancelled and made again in the same process was in doubt."""

    @na.step(timeout=0.05)
    async def slow() -> str:
        if ledger.note(na.idempotency_key()) == 1:
            await asyncio.Event().wait()
        return "done"

    async def node(state: State) -> State:
        return {"items": [await slow()]}

    graph = StateGraph(State)
    graph.add_node(
        "node", node, retry_policy=RetryPolicy(initial_interval=0, retry_on=TimeoutError)
    )
    graph.add_edge(START, "node")
    with na.Journal.open(home) as journal:
        done = na.Agent(graph, "late", journal).run({"n": 0}, thread="t")
        assert done.value["items"] == ["done"]
    path = receipt(home)
    (doubt,) = told(path, "doubt")
    assert (doubt["name"], doubt["attempt"], doubt["why"]) == ("slow", 1, "it ended without a word")
    assert explains(path, ledger) == {ledger.lines()[0]: (1, 2)}
    holds(path)


def test_question_and_its_answer(home):
    """Who answered is told, and that the node began again behind its question."""

    def ask(state: State) -> State:
        return {"items": [interrupt("sure?")]}

    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(ask), "asking", journal)
        assert agent.run({"n": 0}, thread="t").status is RunStatus.WAITING
        earlier = receipt(home, to="earlier.jsonl")
        agent.resume("t", answer="yes")
    path = receipt(home)
    (decision,) = told(path, "decision")
    assert (decision["said"], decision["how"], decision["user"]) == (
        "answered",
        "a person",
        getpass.getuser(),
    )
    assert decision["question"]
    assert "1 to 2 times: ask (node" in holds(path, "--twice", "--extends", str(earlier))
    assert "yes" not in path.read_text()


def test_killed_runs_are_explained(home, tmp_path, dies):
    """Whatever dies where: the effects outside are between the least and the most of the receipt.

    Each run has calls of every sort, and dies at each of its places once; whoever resolves a doubt
    looks at the ledger, and so tells the truth.
    """
    ledger = Ledger(tmp_path / "keys")
    deaths = Ledger(tmp_path / "deaths")

    def reconcile(key: str) -> Any:
        return na.did("found") if key in ledger.lines() else na.did_not()

    def effect(place: str) -> str:
        _die(deaths, f"{place} before")
        ledger.note(na.idempotency_key())
        _die(deaths, f"{place} behind")
        return place

    once = na.step(at_most_once=True)(lambda place: effect(place))
    checked = na.step(at_most_once=True, reconcile=reconcile)(lambda place: effect(place))
    often = na.step(lambda place: effect(place))

    def first(state: State) -> State:
        return {"items": [once("once"), checked("checked")]}

    def second(state: State) -> State:
        return {"items": [often("often"), checked("checked")]}

    paths: list[Path] = []
    for death in range(20):
        if len(deaths.lines()) == 6:
            break
        dies(lambda: run(home, first, second))
        paths.append(receipt(home, to=f"{death}.jsonl"))
        explains(paths[-1], ledger)
        with na.Journal.open(home) as journal:
            for step in na.Run(journal, "t", 1).steps:
                if step.attempts[-1].outcome == "uncertain" and step.parent and death < 2:
                    answer = na.did("seen") if step.key in ledger.lines() else na.did_not()
                    na.resolve("t", step.id, answer, journal=journal)
    assert run(home, first, second).status is RunStatus.SUCCEEDED
    paths.append(receipt(home))
    for earlier, later in itertools.pairwise(paths):
        holds(later, "--extends", str(earlier))
    times = explains(paths[-1], ledger)
    effects = Counter(ledger.lines())
    assert len(times) == 4
    assert sorted(effects.values()) == [1, 1, 1, 2]
    # Where somebody resolved each doubt, the receipt knows the number; elsewhere it says "may".
    assert sorted(times.values()) == [(1, 1), (1, 1), (1, 1), (1, 3)]


def _die(deaths: Ledger, place: str) -> None:
    if place not in deaths.lines():
        deaths.note(place)
        os.kill(os.getpid(), signal.SIGKILL)


# -- forks, subgraphs, runs --------------------------------------------------------------------


def test_fork_says_what_it_copied(journal, effects, home):
    """Copied steps are the source's, which names its forks; what ran again has other keys."""
    agent = na.Agent(nested(effects), "forking", journal)
    first = agent.run({"n": 0}, thread="t")
    agent.fork("t", at=step_of(first, "g"), name="new")
    agent.resume("new")
    original, fork = receipt(home), receipt(home, "new", to="fork.jsonl")
    assert rows(original)[0]["forks"] == ["new"]
    assert "it was forked as ['new']" in holds(original)
    assert all("from" not in one for one in rows(original))
    copies = [one for one in rows(fork) if one.get("from") == "t"]
    assert f"{len(copies)} entries were copied from thread t" in holds(fork)
    (mark,) = told(fork, "decision")
    assert (mark["said"], mark["of"], mark["at_step"]) == ("fork", "t", step_of(first, "g"))
    assert all(one["seq"] < mark["seq"] for one in copies)
    results = {one["step"]: one["result"] for one in told(original, "result")}
    for one in copies:
        if one["kind"] == "result":
            assert results[one["step"]] == one["result"]
    again = {one["name"] for one in told(fork, "result") if "from" not in one}
    assert again == {"g", "h"}
    own = {one["key"] for one in told(fork, "intent") if "from" not in one}
    assert not own & {one["key"] for one in told(original, "intent")}
    inner = [one for one in told(original, "intent") if one["name"] in "bcdefg"]
    assert len(inner) == 6
    assert all(one["ns"] and one["what"] == "node" for one in inner)


def test_doubt_that_a_fork_took_over(home, ledger, dies, paying):
    """The fork goes on with it under the same key; each receipt says where the other is."""
    dies(lambda: run(home, paying))
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(paying), "stepping", journal)
        agent.fork("t", name="new")
        na.resolve("new", answer=na.did("seen"), journal=journal)
        assert agent.resume("new").status is RunStatus.SUCCEEDED
    path = receipt(home, "new", to="new.jsonl")
    key = ledger.lines()[0]
    assert [one["kind"] for one in rows(path) if one.get("key") == key] == [
        "intent",
        "doubt",
        "decision",
        "result",
    ]
    assert explains(path, ledger) == {key: (1, 1)}
    holds(path)
    assert "it was forked as ['new']" in holds(receipt(home))


def test_state_that_was_changed_by_hand(home, journal):
    """It is told where it stands in the order."""
    agent = na.Agent(chain(add), "runs", journal)
    agent.run({"n": 1}, thread="t")
    agent.thread("t").update_state({"n": 5})
    (decision,) = told(receipt(home), "decision")
    assert decision["said"] == "update"
    assert "key" not in decision
    holds(home.parent / "r.jsonl")


def test_notebook(home, tmp_path):
    """A notebook's cells are its steps; a cell that was cut off is one that may have run twice."""
    path = written(tmp_path / "a.ipynb", SETUP, "note('cell')\ndie()", "1 + 1")
    na.run_notebook(path, out=tmp_path / "out.ipynb", journal=home)
    with na.Journal.open(home) as journal:
        (info,) = journal.threads()
    said = holds(receipt(home, info.thread), "--twice")
    assert "of notebook cells: cell 1 1, cell 2 1 to 2, cell 3 1" in said
    assert "1 to 2 times: cell 2 (cell na-" in said
    assert (tmp_path / "ledger").read_text().count("cell") == 2


def test_one_run_of_several(home, journal):
    """All runs, or one; a run that is not there is refused."""
    agent = na.Agent(chain(lambda state: {"items": [1]}), "runs", journal)
    for _ in range(3):
        agent.run({"n": 1}, thread="t", new=True)
    assert {one["run"] for one in told(receipt(home), "intent")} == {1, 2, 3}
    only = receipt(home, run=2)
    assert {one["run"] for one in rows(only)[1:-1]} == {2}
    assert "thread t, run 2" in holds(only)
    with pytest.raises(errors.UnknownThreadError) as caught:
        receipt(home, run=4)
    says(caught.value, "'t'", "run 4")


# -- what is gone, locked, damaged or still going on -------------------------------------------


def test_deleted_thread_is_named_as_gone(home, journal):
    """Of what is gone nothing is told but that it is; a thread that never was is refused."""
    agent = na.Agent(chain(lambda state: {"items": [1]}), "runs", journal)
    agent.run({"n": 1}, thread="t")
    first = receipt(home, to="first.jsonl")
    na.delete("t", journal=journal)
    gone = receipt(home, to="gone.jsonl")
    assert (rows(gone)[0]["status"], len(rows(gone))) == ("deleted", 2)
    assert "gone with a thread of this name: [{'at'" in holds(gone)
    assert "shorter" in refused(gone, "--extends", str(first))
    agent.run({"n": 1}, thread="t")
    again = receipt(home)
    assert "gone with a thread of this name" in holds(again)
    assert told(again, "intent")[0]["seq"] > rows(again)[0]["deleted"][0]["seq"]
    with pytest.raises(errors.UnknownThreadError) as caught:
        receipt(home, "never")
    says(caught.value, "'never'")


def test_thread_without_steps_has_no_receipt(home, journal):
    """What LangGraph ran alone left no intents: nothing could be told apart from nothing done."""
    graph = chain(add).compile(checkpointer=na.JournalSaver(journal))
    graph.invoke({"n": 1}, {"configurable": {"thread_id": "plain"}})
    with pytest.raises(errors.UnknownThreadError) as caught:
        receipt(home, "plain")
    says(caught.value, "'plain'", "never run by an agent")


def test_thread_that_is_deleted_meanwhile_has_no_receipt(home, journal):
    """What was written has no footer, and is refused."""
    agent = na.Agent(chain(lambda state: {"items": [1]}), "runs", journal)
    agent.run({"n": 1}, thread="t")
    with na.Journal.open(home) as other:
        lines = Receipt(other, "t", load_signing_key()).lines()
        begun = [next(lines), next(lines)]
        na.delete("t", journal=journal)
        agent.run({"n": 1}, thread="t")
        with pytest.raises((errors.UnknownThreadError, errors.SealError)):
            begun += lines
    path = home.parent / "cut.jsonl"
    path.write_bytes(b"".join(begun))
    receipt(home)
    assert "its end is missing" in refused(path)


def test_pruning_takes_nothing_from_a_receipt(home, journal):
    """Pruned are checkpoints: steps stay, also behind a compaction, and it is said."""
    agent = na.Agent(chain(lambda state: {"items": ["x" * 2000]}), "runs", journal)
    for n in range(4):
        agent.run({"n": n}, thread="t", new=True)
    before = receipt(home, to="before.jsonl")
    na.prune("t", keep_last=1, journal=journal)
    pruned = receipt(home, to="pruned.jsonl")
    assert rows(pruned)[0]["hidden"] > 0
    assert "pruned records (none of a step)" in holds(pruned, "--extends", str(before))
    from notebook_agents.journal.compact import compact

    compact(journal)
    assert rows(receipt(home))[1:-1] == rows(before)[1:-1]
    holds(receipt(home), "--extends", str(pruned))


def test_thread_that_is_driven(home, held):
    """The receipt goes as far as the journal did; nobody waits, and a later one extends it."""
    now = receipt(home, to="now.jsonl")
    assert rows(now)[0]["status"] == "running"
    said = holds(now)
    assert "thread running." in said
    assert "node 0 to 1" in said
    assert held.let_go() == 0
    assert "node 1;" in holds(receipt(home), "--extends", str(now))


def test_what_comes_meanwhile_is_not_told(home, journal):
    """A receipt goes up to the record that was the newest when it was begun."""
    agent = na.Agent(chain(lambda state: {"items": [1]}), "runs", journal)
    agent.run({"n": 1}, thread="t")
    path = receipt(home, to="before.jsonl")
    newest = journal.newest()
    lines = Receipt(journal, "t", load_signing_key()).lines()
    begun = [next(lines)]
    agent.run({"n": 2}, thread="t", new=True)
    path.write_bytes(b"".join([*begun, *lines]))
    assert rows(path)[0]["records"][1] == newest
    assert max(one["seq"] for one in rows(path)[1:-1]) <= newest
    holds(receipt(home), "--extends", str(path))


@pytest.mark.parametrize(
    "change", ["attempt = 2", "name = 'mail'", "step = 'x'", "ts = ts + 1", "run = 1 + run"]
)
def test_record_that_was_altered_is_not_vouched_for(home, done, journal, forked, change):
    """Each column is one that the seal binds: what somebody changed in the file does not open."""
    receipt(home)
    seq = journal.select(thread="t", kinds=[Kind.STEP_RETURNED])[0].seq

    def alter() -> None:
        with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
            connection.execute(f"UPDATE records SET {change} WHERE seq = ?", (seq,))

    assert forked(alter) == 0
    with pytest.raises(errors.SealError) as caught:
        receipt(home, to="none.jsonl")
    says(caught.value, seq)
    assert not (home.parent / "none.jsonl").exists()
