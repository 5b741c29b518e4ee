"""Calls that may or may not have happened, and calls that are made at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from support.checks import State, chain
from support.running import Ledger, named, run

import notebook_agents as na
from notebook_agents.errors import StepInDoubt
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.view import run_view

if TYPE_CHECKING:
    from collections.abc import Callable


# -- at most once ------------------------------------------------------------------------------


def test_doubtful_call_waits_for_somebody_who_knows(home, ledger, dies, trips, cli):
    """An at-most-once call that never returned is not made again: the run is in doubt."""

    @na.step(at_most_once=True)
    def pay(amount: int) -> str:
        ledger.note(amount)
        trips()
        return "paid"

    def node(state: State) -> State:
        try:
            return {"items": [pay(5)]}
        except Exception:
            return {"items": ["swallowed"]}

    dies(lambda: run(home, node))
    for _ in range(2):
        done = run(home, node)
        assert done.status is RunStatus.IN_DOUBT
        assert named(done)["pay"].outcome is Outcome.UNCERTAIN
        assert done.view.error is not None
        assert named(done)["pay"].key in done.view.error
    with na.Journal.open(home) as journal:
        assert journal.thread("t").status is RunStatus.IN_DOUBT
        assert [info.thread for info in na.unfinished(journal)] == ["t"]
    ended = cli("resume", "t", "--journal", str(home))
    assert ended.code == 4, ended.err
    assert ledger.lines() == ["5"]


@pytest.mark.parametrize("answer", ["did", "did_not", "cannot say"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_reconcile_decides(home, ledger, tmp_path, dies, trips, answer, is_async):
    """Asked with the call's key, `reconcile` says what happened, and that decides."""
    asked = Ledger(tmp_path / "asked")

    def reconcile(key: str) -> Any:
        asked.note(key)
        answers = {"did": na.did("by phone"), "did_not": na.did_not(), "cannot say": None}
        return answers[answer]

    async def reconcile_async(key: str) -> Any:
        return reconcile(key)

    @na.step(at_most_once=True, reconcile=reconcile)
    def pay() -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "paid"

    @na.step(at_most_once=True, reconcile=reconcile_async)
    async def pay_async() -> str:
        ledger.note(na.idempotency_key())
        trips()
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay()]}

    async def node_async(state: State) -> State:
        return {"items": [await pay_async()]}

    chosen = node_async if is_async else node
    dies(lambda: run(home, chosen))
    assert asked.lines() == []
    done = run(home, chosen)
    assert asked.lines() == ledger.lines()[:1]
    if answer == "cannot say":
        assert done.status is RunStatus.IN_DOUBT
        assert len(ledger.lines()) == 1
    else:
        made = {"did": 1, "did_not": 2}[answer]
        expected = {"did": "by phone", "did_not": "paid"}[answer]
        assert done.value["items"] == [expected]
        assert len(ledger.lines()) == made
        assert len(set(ledger.lines())) == 1


def test_reconciled_result_is_kept(home, ledger, tmp_path, dies, trips):
    """What `reconcile` found out is recorded: nobody is asked a second time."""
    asked = Ledger(tmp_path / "asked")

    def reconcile(key: str) -> Any:
        asked.note(key)
        return na.did(("receipt", 7))

    @na.step(at_most_once=True, reconcile=reconcile)
    def pay() -> Any:
        ledger.note("paid")
        trips("in the call")
        return ("receipt", 1)

    def node(state: State) -> State:
        found = pay()
        trips("behind the call")
        return {"items": [found]}

    dies(lambda: run(home, node))
    dies(lambda: run(home, node))
    done = run(home, node)
    assert (done.value["items"], len(asked.lines()), ledger.lines()) == (
        [("receipt", 7)],
        1,
        ["paid"],
    )
    assert named(done)["pay"].outcome is Outcome.RETURNED


def test_doubt_can_be_settled_by_mended_code(home, ledger, dies, trips):
    """A run in doubt goes on as soon as the step has a `reconcile` that knows."""

    def make(**options: Any) -> Callable[[State], Any]:
        @na.step(at_most_once=True, **options)
        def pay() -> str:
            ledger.note("paid")
            trips()
            return "paid"

        def node(state: State) -> State:
            return {"items": [pay()]}

        return node

    dies(lambda: run(home, make()))
    assert run(home, make()).status is RunStatus.IN_DOUBT
    assert run(home, make(reconcile=lambda key: na.did("paid"))).value["items"] == ["paid"]
    assert ledger.lines() == ["paid"]


def test_at_most_once_call_that_returned(home, ledger, dies, trips):
    """A result that is on disk is no doubt: the run goes on without asking."""

    def reconcile(key: str) -> Any:
        raise AssertionError("nobody has to be asked")

    @na.step(at_most_once=True, reconcile=reconcile)
    def pay() -> str:
        ledger.note("paid")
        return "paid"

    def node(state: State) -> State:
        found = pay()
        trips()
        return {"items": [found]}

    dies(lambda: run(home, node))
    assert run(home, node).value["items"] == ["paid"]
    assert ledger.lines() == ["paid"]


def test_error_does_not_prove_that_nothing_happened(home, ledger):
    """An at-most-once call that raised and failed its node is doubtful, not simply made again."""

    @na.step(at_most_once=True)
    def pay() -> None:
        ledger.note("paid")
        raise TimeoutError("no answer")

    def node(state: State) -> State:
        pay()
        return {"n": 1}

    with pytest.raises(TimeoutError):
        run(home, node)
    assert run(home, node).status is RunStatus.IN_DOUBT
    assert ledger.lines() == ["paid"]


def test_doubt_in_a_fan_out(home, ledger, dies, trips):
    """One doubtful call stops the run; what its siblings returned stands, the rest comes later."""

    def attempt(**options: Any) -> na.Run:
        @na.step(at_most_once=True, **options)
        def pay(n: int) -> int:
            ledger.note(n)
            if n == 2:
                trips()
            return n

        def split(state: State) -> list[Send]:
            return [Send("one", {"n": n}) for n in (1, 2, 3)]

        def one(state: State) -> State:
            return {"items": [pay(state["n"])]}

        graph = StateGraph(State)
        graph.add_node("one", one)
        graph.add_conditional_edges(START, split, ["one"])
        with na.Journal.open(home) as journal:
            agent = na.Agent(graph, "paying", journal)
            done = agent.run({"n": 0}, thread="t", config={"max_concurrency": 1})
            if done.status is RunStatus.SUCCEEDED:
                assert done.value["items"] == [1, 2, 3]
            return done

    dies(attempt)
    assert attempt().status is RunStatus.IN_DOUBT
    assert sorted(ledger.lines()) in (["1", "2"], ["1", "2", "3"])
    assert attempt(reconcile=lambda key: na.did_not()).status is RunStatus.SUCCEEDED
    assert sorted(ledger.lines()) == ["1", "2", "2", "3"]


def test_in_doubt_says_what_to_do():
    """The signal names thread, step and key, and is no Exception that a node would swallow."""
    doubt = StepInDoubt("t", "abc", "pay", "na-abc")
    assert not isinstance(doubt, Exception)
    for part in ("'t'", "abc", "'pay'", "na-abc", "reconcile", "resume"):
        assert part in str(doubt)


# -- side by side ------------------------------------------------------------------------------


def test_calls_under_gather(home, ledger, dies, trips):
    """Calls that run at the same time keep their results apart, in whatever order they end."""

    @na.step
    async def call(n: int, wait_for: asyncio.Event | None, done: asyncio.Event) -> int:
        if wait_for is not None:
            await wait_for.wait()
        ledger.note(n)
        done.set()
        return n * 10

    call = na.step(key=lambda n, *_: str(n))(call.__wrapped__)

    async def node(state: State) -> State:
        gates = [asyncio.Event() for _ in range(4)]
        # Each waits for the one behind it: they end in the reverse of the order of the calls.
        found = await asyncio.gather(
            *(call(n, gates[n + 1] if n < 2 else None, gates[n]) for n in range(3))
        )
        trips()
        return {"items": [*found, await call(3, None, gates[3])]}

    dies(lambda: run(home, node))
    assert run(home, node).value["items"] == [0, 10, 20, 30]
    assert ledger.lines() == ["2", "1", "0", "3"]


def test_equal_calls_at_the_same_time(home, ledger, dies, trips):
    """Equal calls at the same time are told apart by the order in which they were made."""

    @na.step(key=lambda gate: "equal")
    async def call(gate: asyncio.Event) -> int:
        place = ledger.note(na.idempotency_key())
        if place > 1:
            await gate.wait()
        return place

    async def node(state: State) -> State:
        gate = asyncio.Event()
        first, *others = [asyncio.create_task(call(gate)) for _ in range(3)]
        found = [await first]
        trips()
        gate.set()
        return {"items": found + await asyncio.gather(*others)}

    dies(lambda: run(home, node))
    done = run(home, node)
    made = Counter(ledger.lines())
    assert done.value["items"][0] == 1
    assert len(set(done.value["items"])) == 3
    assert [step.key for step in done.steps if step.parent] == [*made]
    assert made[ledger.lines()[0]] == 1  # it had returned
    assert done.steps[1].replayed


def test_calls_in_a_thread_pool(home, ledger, dies, trips):
    """A call in a worker thread belongs to the node whose context the thread was given."""

    @na.step
    def call(n: int) -> int:
        ledger.note(n)
        return n * 10

    def node(state: State) -> State:
        with ThreadPoolExecutor(3) as pool:
            found = [pool.submit(contextvars.copy_context().run, call, n) for n in range(6)]
            results = [future.result() for future in found]
        trips()
        return {"items": results}

    dies(lambda: run(home, node))
    done = run(home, node)
    assert done.value["items"] == [0, 10, 20, 30, 40, 50]
    assert sorted(ledger.lines()) == list("012345")
    assert all(step.parent == done.steps[0].id for step in done.steps[1:])


async def test_calls_in_to_thread(home, ledger):
    """`asyncio.to_thread` copies the context by itself."""

    @na.step
    def call(n: int) -> int:
        return n + ledger.note(n)

    async def node(state: State) -> State:
        return {"items": [await asyncio.to_thread(call, 1)]}

    with na.Journal.open(home) as journal:
        done = await na.Agent(chain(node), "stepping", journal).arun({"n": 0}, thread="t")
        assert done.value["items"] == [2]
        assert [step.name for step in done.steps] == ["node", "call"]


async def test_cancelled_call_is_doubtful(home, ledger):
    """A call that was cut off by a timeout may have happened: it is made again under its key."""
    late = [True]

    @na.step
    async def call() -> int:
        ledger.note(na.idempotency_key())
        if late:
            await asyncio.Event().wait()
        return 1

    async def node(state: State) -> State:
        return {"n": await asyncio.wait_for(call(), 0.01 if late else None)}

    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(node), "stepping", journal)
        with pytest.raises(TimeoutError):
            await agent.arun({"n": 0}, thread="t")
        assert named(na.Run(journal, "t", 1))["call"].outcome is Outcome.UNCERTAIN
        late.clear()
        done = await agent.arun({"n": 0}, thread="t")
        assert done.value["n"] == 1
        assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
            Outcome.UNCERTAIN,
            Outcome.RETURNED,
        ]
    assert len(set(ledger.lines())) == 1


def test_ctrl_c_leaves_the_run_resumable(home, ledger):
    """An interrupt in the middle of a call ends the process's part, not the run."""
    first = [True]

    @na.step
    def call() -> int:
        ledger.note("called")
        if first:
            raise KeyboardInterrupt
        return 1

    def node(state: State) -> State:
        return {"n": call()}

    with pytest.raises(KeyboardInterrupt):
        run(home, node)
    with na.Journal.open(home) as journal:
        assert journal.thread("t").status is RunStatus.ORPHANED
        assert run_view(journal, "t").doubtful
    first.clear()
    assert run(home, node).value["n"] == 1
    assert ledger.lines() == ["called"] * 2
