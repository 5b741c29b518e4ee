"""A person says whether a doubtful step happened, and the next resume acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import socket
import threading
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy
from pydantic import BaseModel
from support.checks import State, add, chain, refused, told
from support.running import named, run

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.errors import StepInDoubt
from notebook_agents.model import Outcome, RunStatus, Said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["sync", "async"])
def paying(request, ledger, trips) -> Callable[[State], Any]:
    """Return a node that pays at most once, and is killed while it pays for the first time."""

    @na.step(at_most_once=True)
    def pay(amount: int) -> Any:
        ledger.note(na.idempotency_key())
        trips()
        return ("receipt", amount)

    @na.step(at_most_once=True)
    async def pay_async(amount: int) -> Any:
        return pay.__wrapped__(amount)

    def node(state: State) -> State:
        return {"items": [pay(5)]}

    async def node_async(state: State) -> State:
        return {"items": [await pay_async(5)]}

    node_async.__name__ = "node"
    return node_async if request.param == "async" else node


def resolve(home: Path, *words: Any) -> na.Run:
    """Decide on thread `t`."""
    with na.Journal.open(home) as journal:
        done = (
            na.resolve("t", *words, journal=journal)
            if len(words) == 2
            else na.resolve("t", answer=words[0], journal=journal)
        )
        assert done.view
        return done


# -- at-most-once calls ------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["orphaned", "in_doubt"])
def test_it_happened(home, ledger, dies, paying, when):
    """What a person says it returned is what the caller gets, with its types; nothing runs."""
    dies(lambda: run(home, paying))
    if when == "in_doubt":
        assert run(home, paying).status is RunStatus.IN_DOUBT
    said = resolve(home, na.did(("receipt", 7)))
    assert said.status.value == when
    done = run(home, paying)
    assert done.value["items"] == [("receipt", 7)]
    (call,) = [step for step in done.steps if step.name.startswith("pay")]
    assert (call.outcome, len(call.attempts), len(ledger.lines())) == (Outcome.RETURNED, 1, 1)
    (decision,) = call.decisions
    assert (decision.said, decision.attempt) == (Said.DID, 1)
    assert (decision.user, decision.host) == (getpass.getuser(), socket.gethostname())
    assert f"attempt 1 happened, said {decision.user} on {decision.host}" in repr(done)


def test_it_did_not_happen(home, ledger, dies, paying):
    """The call is made again, under the same idempotency key."""
    dies(lambda: run(home, paying))
    assert run(home, paying).status is RunStatus.IN_DOUBT
    resolve(home, na.did_not())
    assert run(home, paying).value["items"] == [("receipt", 5)]
    assert len(ledger.lines()) == 2
    assert len(set(ledger.lines())) == 1


def test_newest_decision_counts(home, ledger, dies, paying):
    """Who erred says it again; all that was said stays to be seen."""
    dies(lambda: run(home, paying))
    for answer in (na.did_not(), na.did("wrong"), na.did("right")):
        said = resolve(home, answer)
    (call,) = [step for step in said.steps if step.name.startswith("pay")]
    assert [decision.said for decision in call.decisions] == [Said.DID_NOT, Said.DID, Said.DID]
    assert run(home, paying).value["items"] == ["right"]
    assert len(ledger.lines()) == 1


def test_decision_is_about_one_attempt(home, ledger, dies, trips):
    """Of a second attempt that was cut off too, what was said of the first says nothing."""

    @na.step(at_most_once=True)
    def pay() -> str:
        ledger.note("paid")
        trips(times=2)
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay()]}

    dies(lambda: run(home, node))
    resolve(home, na.did_not())
    dies(lambda: run(home, node))
    assert run(home, node).status is RunStatus.IN_DOUBT
    resolve(home, na.did("by phone"))
    assert run(home, node).value["items"] == ["by phone"]
    assert ledger.lines() == ["paid"] * 2


def test_killed_behind_the_decision(home, ledger, dies, paying, tmp_path, trips):
    """A decision is used once and for all: a kill behind it changes nothing."""
    dies(lambda: run(home, paying))
    resolve(home, na.did("by phone"))

    def again(state: State) -> State:
        trips("behind")
        return {"n": 3}

    dies(lambda: run(home, paying, again))
    done = run(home, paying, again)
    assert (done.value["items"], done.value["n"], len(ledger.lines())) == (["by phone"], 3, 1)


def test_error_that_may_have_happened(home, ledger):
    """An at-most-once call that raised is in doubt as well, also before anybody resumed it."""

    @na.step(at_most_once=True)
    def pay() -> str:
        ledger.note("paid")
        raise TimeoutError("no answer")

    def node(state: State) -> State:
        return {"items": [pay()]}

    with pytest.raises(TimeoutError):
        run(home, node)
    call = named(resolve(home, na.did("by phone")))["pay"]
    assert call.in_doubt
    assert call.decided is not None
    assert run(home, node).value["items"] == ["by phone"]
    assert ledger.lines() == ["paid"]


def test_result_that_could_not_be_kept(home, ledger):
    """The call happened and only its result was refused: a person can give one that is kept."""

    @na.step(at_most_once=True)
    def pay() -> Any:
        ledger.note("paid")
        return threading.Lock()

    def node(state: State) -> State:
        pay()
        return {"n": 2}

    with pytest.raises(errors.ValueNotKeptError):
        run(home, node)
    assert run(home, node).status is RunStatus.IN_DOUBT
    resolve(home, na.did())
    assert run(home, node).value["n"] == 2
    assert ledger.lines() == ["paid"]


# -- at-least-once calls and nodes -------------------------------------------------------------


@pytest.mark.parametrize("answer", ["did", "did_not"])
def test_call_that_would_run_again(home, ledger, dies, trips, answer):
    """Also a call that is made again by itself can be decided, and is then not made."""

    @na.step
    def call() -> str:
        ledger.note("called")
        trips()
        return "returned"

    def node(state: State) -> State:
        return {"items": [call()]}

    dies(lambda: run(home, node))
    resolve(home, na.did("known") if answer == "did" else na.did_not())
    expected, calls = {"did": ("known", 1), "did_not": ("returned", 2)}[answer]
    assert run(home, node).value["items"] == [expected]
    assert len(ledger.lines()) == calls


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_node_in_doubt(home, ledger, dies, trips, is_async):
    """For a node the result is its update of the state: it does not run, the graph goes on."""

    def node(state: State) -> State:
        ledger.note("ran")
        trips()
        return {"n": 10}

    async def node_async(state: State) -> State:
        return node(state)

    node_async.__name__ = "node"
    chosen = node_async if is_async else node
    dies(lambda: run(home, chosen, add))
    resolve(home, na.did({"n": 20}))
    done = run(home, chosen, add)
    assert (done.value["n"], ledger.lines()) == (21, ["ran"])
    assert [(step.name, len(step.attempts)) for step in done.steps] == [("node", 1), ("add", 1)]


@pytest.mark.parametrize("wrong", [5, "text", {"nope": 1}, [{"n": 1}, 5]], ids=repr)
def test_node_result_that_the_graph_cannot_take(home, ledger, dies, trips, wrong):
    """It is refused before it is recorded as a result, so that another can be given."""

    def node(state: State) -> State:
        ledger.note("ran")
        trips()
        return {"n": 10}

    dies(lambda: run(home, node))
    resolve(home, na.did(wrong))
    with pytest.raises(errors.InputError, match="resolve it again"):
        run(home, node)
    resolve(home, na.did({"n": 20}))
    assert run(home, node).value["n"] == 20
    assert ledger.lines() == ["ran"]


def _summed(old: int, new: int) -> int:
    if not isinstance(new, int):
        raise TypeError("only numbers")
    return old + new


class Summed(TypedDict):
    n: Annotated[int, _summed]


class Checked(BaseModel):
    n: int = 0
    other: str = ""


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize(
    ("state", "wrong", "why"),
    [
        (Summed, {"n": "many"}, "only numbers"),
        (Summed, Command(update={"n": "many"}), "only numbers"),
        (Summed, [{"n": 1}, {"n": "many"}], "only numbers"),
        (Checked, {"n": "many"}, "'n': Input should be a valid integer"),
        (Checked, {"n": 1, "other": None}, "'other': Input should be a valid string"),
    ],
)
def test_node_result_with_a_value_that_the_state_refuses(
    home, ledger, dies, trips, state, wrong, why, handled, is_async
):
    """It is refused before it is recorded, is no failure of the node, and can be said anew."""

    def node(state: Any) -> Any:
        ledger.note("ran")
        trips()
        return {"n": 10}

    async def node_async(state: Any) -> Any:
        return node(state)

    def handler(state: Any) -> Any:
        ledger.note("handled")
        return {"n": 0}

    def drive() -> na.Run:
        builder = StateGraph(state)
        chosen = node_async if is_async else node
        builder.add_node("node", chosen, error_handler=handler if handled else None)
        builder.add_node("after", lambda state: {"n": 1})
        builder.add_edge(START, "node").add_edge("node", "after")
        with na.Journal.open(home) as journal:
            done = na.Agent(builder, "it", journal).run({"n": 5}, thread="t", key="k")
            assert done.view
            return done

    dies(drive)
    resolve(home, na.did(wrong))
    with pytest.raises(errors.InputError, match="resolve it again") as caught:
        drive()
    assert why in str(caught.value)
    resolve(home, na.did({"n": 20}))
    done = drive()
    with na.Journal.open(home) as journal:
        assert na.Run(journal, "t", done.number).value["n"] == (26 if state is Summed else 1)
    assert ledger.lines() == ["ran"]


def test_node_around_a_doubtful_call(home, ledger, dies, paying):
    """The node is in doubt only for its call; decided by its own id, its code does not run."""
    dies(lambda: run(home, paying))
    done = run(home, paying)
    node = next(step for step in done.steps if step.parent is None)
    resolve(home, node.id[:8], na.did({"items": ["whole"]}))
    assert run(home, paying).value["items"] == ["whole"]
    assert len(ledger.lines()) == 1


# -- refusals ----------------------------------------------------------------------------------


def test_thread_that_is_driven(home, ledger, paying):
    """A living driver may settle the doubt itself: nobody decides beside it."""
    refusals = list[BaseException]()

    def node(state: State) -> State:
        with na.Journal.open(home) as other, pytest.raises(errors.ThreadBusyError) as caught:
            na.resolve("t", answer=na.did_not(), journal=other)
        refusals.append(caught.value)
        return {"n": 1}

    run(home, node)
    assert "'t'" in str(refusals[0])


def test_what_cannot_be_decided(home, journal, dies, paying):
    """No such thread or step, a step that is not in doubt, no answer, a result that is not kept."""
    dies(lambda: run(home, add, paying))
    steps = na.Run(journal, "t", 1).steps
    returned = next(step for step in steps if step.name == "add")
    with refused(home, errors.UnknownThreadError, "'nope'"):
        na.resolve("nope", answer=na.did(), journal=journal)
    for wrong in ("zzzz", ""):
        with refused(home, errors.DecisionError, "'t'", repr(wrong)):
            na.resolve("t", wrong, na.did(), journal=journal)
    with refused(home, errors.DecisionError, "'t'", returned.id, "returned"):
        na.resolve("t", returned.id, na.did(), journal=journal)
    with refused(home, errors.DecisionError, "'t'", "na.did"):
        na.resolve("t", journal=journal)
    with refused(home, errors.ValueNotKeptError, "'t'", "lock"):
        na.resolve("t", answer=na.did(threading.Lock()), journal=journal)


def test_nothing_is_in_doubt(home, journal, done):
    """A finished run has nothing to decide."""
    with refused(home, errors.DecisionError, "'t'", "finished"):
        na.resolve("t", answer=na.did(), journal=journal)


def test_several_steps_in_doubt(home, journal):
    """Nobody guesses which: the message names them."""

    @na.step(key=lambda n, began: str(n))
    async def call(n: int, began: asyncio.Event) -> None:
        began.set()
        await asyncio.Event().wait()

    async def node(state: State) -> State:
        for n in (1, 2):
            began = asyncio.Event()
            task = asyncio.ensure_future(call(n, began))
            await began.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError):
        run(home, node)
    calls = [step.id for step in na.Run(journal, "t", 1).steps if step.name == "call"]
    with refused(home, errors.DecisionError, "'t'", *calls):
        na.resolve("t", answer=na.did(), journal=journal)
    assert na.resolve("t", calls[0][:6], na.did(), journal=journal).steps[1].decisions


def test_decision_on_the_command_line(home, cli, dies, agents, tmp_path, trips):
    """`resolve` records it and says how to go on; wrong usage exits with 2."""

    @na.step(at_most_once=True)
    def pay() -> str:
        trips()
        return "paid"

    def node(state: State) -> State:
        return {"items": [pay()]}

    at = ("--journal", str(home))
    dies(lambda: run(home, node))
    shown = cli("resume", "t", *at)
    assert shown.code == 4
    call = next(s for s in json.loads(cli("show", "t", "--json", *at).out)["steps"] if s["parent"])
    assert call["in_doubt"]
    assert f"{call['id']} --did --result JSON" in shown.out.replace("\n  ", " ")
    for wrong in ([], ["--did-not", "--result", "1"], ["--did", "--result", "x"], ["zz", "--did"]):
        ended = cli("resolve", "t", *wrong, *at)
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
    told(cli("resolve", "nope", "--did", *at), 2, "'nope'")
    ended = cli("resolve", "t", call["id"][:6], "--did", "--result", '"by phone"', *at)
    assert (ended.code, ended.out) == (
        0,
        f"recorded; go on with: notebook-agents resume t --journal {home}\n",
    )
    (decision,) = [
        step["decisions"] for step in json.loads(cli("show", "t", "--json", *at).out)["steps"]
    ][1]
    assert (decision["said"], decision["user"]) == ("did", getpass.getuser())
    assert "happened, said" in cli("show", "t", *at).out
    ended = cli("resume", "t", "--json", *at)
    assert json.loads(ended.out)["value"]["items"] == ["by phone"]


# -- enclosing retries -------------------------------------------------------------------------


def test_retry_policy_does_not_repeat_a_doubtful_call(home, ledger):
    """LangGraph tries the node again; the at-most-once call in it says that it is in doubt."""

    @na.step(at_most_once=True)
    def pay() -> None:
        ledger.note("paid")
        raise ConnectionError("reset")

    def node(state: State) -> State:
        ledger.note("node")
        pay()
        return {"n": 1}

    graph = chain(add)
    graph.add_node(
        "node", node, retry_policy=RetryPolicy(initial_interval=0.01, retry_on=ConnectionError)
    )
    graph.add_edge("add", "node")
    with na.Journal.open(home) as journal:
        done = na.Agent(graph, "paying", journal).run({"n": 0}, thread="t")
        assert done.status is RunStatus.IN_DOUBT
        assert "pay" in (done.view.error or "")
    assert ledger.lines() == ["node", "paid", "node"]


def test_in_doubt_names_resolve():
    """The message has the call to copy."""
    assert 'na.resolve("t", "abc", na.did(result))' in str(StepInDoubt("t", "abc", "pay", "na-abc"))


def test_an_error_handler_is_not_given_a_doubt(home, ledger, trips, dies):
    """A node's error handler, which gets whatever is raised, does not get a doubt to handle."""

    @na.step(at_most_once=True)
    def pay() -> str:
        ledger.note("pay")
        trips()
        return "paid"

    def buy(state: State) -> State:
        return {"at": pay()}

    def handler(state: State) -> State:
        ledger.note("handled")
        return {"at": "not paid"}

    def go() -> na.Run:
        graph = StateGraph(State)
        graph.add_node("buy", buy, error_handler=handler)
        graph.add_edge(START, "buy")
        # Only of several that run side by side does LangGraph hand over any BaseException.
        graph.add_node("other", lambda state: {})
        graph.add_edge(START, "other")
        with na.Journal.open(home) as journal:
            run = na.Agent(graph, "buying", journal).run({"n": 0}, thread="t")
            assert run.view
            return run

    dies(go)
    assert go().status is RunStatus.IN_DOUBT
    assert ledger.lines() == ["pay"]
