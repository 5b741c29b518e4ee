"""Durable calls that are tried again in place, and calls that may not take too long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.types import Command, RetryPolicy, interrupt
from support.checks import State, add, chain, says
from support.running import named, run

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.model import Kind, Outcome, Proof, RunStatus
from notebook_agents.runtime import stopping
from notebook_agents.runtime.stopping import RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 0.001


def node_of(call: Callable[[], Any], *, is_async: bool) -> Callable[[State], Any]:
    """Return a node that makes one call, sync or async."""

    def node(state: State) -> State:
        return {"items": [call()]}

    async def node_async(state: State) -> State:
        return {"items": [await call()]}

    node_async.__name__ = "node"
    return node_async if is_async else node


def as_step(function: Callable[[], Any], *, is_async: bool, **options: Any) -> Callable[[], Any]:
    """Make a function, or the same as a coroutine function, a durable call."""

    async def call() -> Any:
        return function()

    call.__qualname__ = function.__qualname__
    return na.step(**options)(call if is_async else function)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request) -> bool:
    """Do it with a sync and with an async call."""
    return request.param


# -- again in place ----------------------------------------------------------------------------


def test_call_is_tried_again(home, ledger, is_async):
    """Each try is an attempt of its own in the journal, all under one key; the last one counts."""

    def call() -> str:
        if ledger.note(na.idempotency_key()) < 3:
            raise ConnectionError("reset")
        return "done"

    flaky = as_step(call, is_async=is_async, retry_on=ConnectionError, wait=SOON)
    done = run(home, node_of(flaky, is_async=is_async))
    assert done.value["items"] == ["done"]
    assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.RETURNED,
    ]
    assert len(ledger.lines()) == 3
    assert len(set(ledger.lines())) == 1
    assert len(named(done)["node"].attempts) == 1


def test_tries_end(home, ledger, is_async):
    """The last error goes to the node; a resume starts with all tries again."""

    def call() -> None:
        raise ConnectionError(f"reset {ledger.note('called')}")

    options: dict[str, Any] = {"retry_on": (OSError, KeyError), "tries": 2, "wait": timedelta()}
    node = node_of(as_step(call, is_async=is_async, **options), is_async=is_async)
    for last in (2, 4):
        with pytest.raises(ConnectionError, match=f"reset {last}"):
            run(home, node)
    assert len(ledger.lines()) == 4


def test_other_errors_are_not_tried_again(home, ledger, is_async):
    """What `retry_on` does not name, or what its function declines, is the caller's."""

    def call() -> None:
        ledger.note("called")
        raise ValueError("wrong")

    for retry_on in (OSError, lambda error: "busy" in str(error)):
        node = node_of(as_step(call, is_async=is_async, retry_on=retry_on), is_async=is_async)
        with pytest.raises(ValueError, match="wrong"):
            run(home, node)
    assert len(ledger.lines()) == 2


def test_question_is_no_error_to_try_again(home, ledger):
    """A call that asks a person is not tried again, whatever `retry_on` says."""

    @na.step(retry_on=Exception, wait=SOON)
    def call() -> int:
        ledger.note("called")
        return interrupt("how many?")

    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(node_of(call, is_async=False)), "asking", journal)
        assert agent.run({"n": 0}, thread="t").status is RunStatus.WAITING
        assert agent.run(Command(resume=4), thread="t").value["items"] == [4]
    assert ledger.lines() == ["called"] * 2


def test_result_that_cannot_be_kept_is_no_error_to_try_again(home, ledger):
    """The call happened: making it again would not help."""

    @na.step(retry_on=Exception, wait=SOON)
    def call() -> Any:
        ledger.note("called")
        return (n for n in range(3))

    with pytest.raises(errors.ValueNotKeptError):
        run(home, node_of(call, is_async=False))
    assert ledger.lines() == ["called"]


def test_killed_between_two_tries(home, ledger, dies, trips, is_async):
    """The process that goes on counts further; the tries before it are in the journal."""

    def call() -> str:
        if ledger.note("called") == 1:
            raise ConnectionError("reset")
        trips()
        return "done"

    flaky = as_step(call, is_async=is_async, retry_on=ConnectionError, wait=SOON)
    node = node_of(flaky, is_async=is_async)
    dies(lambda: run(home, node))
    done = run(home, node)
    assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
        Outcome.FAILED,
        Outcome.UNCERTAIN,
        Outcome.RETURNED,
    ]


def test_stop_ends_the_wait_for_the_next_try(home, ledger, is_async):
    """Who stops the process does not wait for a retry: the run is resumed later."""

    def call() -> None:
        ledger.note("called")
        stopping.stop()
        raise ConnectionError("reset")

    node = node_of(
        as_step(call, is_async=is_async, retry_on=ConnectionError, wait=1000), is_async=is_async
    )
    try:
        with pytest.raises(RunStopped):
            run(home, node)
    finally:
        stopping.go_on()
    assert ledger.lines() == ["called"]
    with na.Journal.open(home) as journal:
        assert journal.thread("t").status is RunStatus.ORPHANED


# -- at most once ------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_on", [Exception, (OSError, Exception), lambda error: True])
def test_at_most_once_takes_only_errors_that_prove_something(retry_on):
    """An at-most-once call is tried again only for errors that its author names."""
    with pytest.raises(ValueError, match="prove that nothing happened"):
        na.step(at_most_once=True, retry_on=retry_on)


def test_named_errors_of_an_at_most_once_call(home, ledger, is_async):
    """A named error proves that nothing happened: tried again now, and by a resume as well."""

    def call() -> str:
        if ledger.note(na.idempotency_key()) < 5:
            raise ConnectionRefusedError("nobody listens")
        return "paid"

    options: dict[str, Any] = {"retry_on": ConnectionRefusedError, "wait": SOON}
    pay = as_step(call, is_async=is_async, at_most_once=True, **options)
    node = node_of(pay, is_async=is_async)
    with pytest.raises(ConnectionRefusedError):
        run(home, node)
    done = run(home, node)
    assert done.value["items"] == ["paid"]
    attempts = named(done)["call"].attempts
    assert [attempt.proof for attempt in attempts] == [Proof.NOTHING_HAPPENED] * 4 + [None]
    assert len(set(ledger.lines())) == 1


def test_another_error_of_an_at_most_once_call(home, ledger, is_async):
    """Any other error leaves it in doubt, also behind tries that proved that nothing happened."""

    def call() -> None:
        if ledger.note("called") == 1:
            raise ConnectionRefusedError("nobody listens")
        raise TimeoutError("no answer")

    options: dict[str, Any] = {"retry_on": ConnectionRefusedError, "wait": SOON}
    pay = as_step(call, is_async=is_async, at_most_once=True, **options)
    with pytest.raises(TimeoutError):
        run(home, node_of(pay, is_async=is_async))
    assert run(home, node_of(pay, is_async=is_async)).status is RunStatus.IN_DOUBT
    assert len(ledger.lines()) == 2


# -- not too long ------------------------------------------------------------------------------


def test_sync_call_cannot_be_stopped():
    """A timeout for a sync function is refused where it is decorated."""
    with pytest.raises(ValueError, match="cannot be stopped") as caught:

        @na.step(timeout=1)
        def call() -> None: ...

    says(caught.value)


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"wait": -1}, {"timeout": 0}, {"retry_on": ()}])
def test_numbers_that_mean_nothing(wrong):
    """They are refused where the function is decorated."""
    with pytest.raises(ValueError, match="@step"):
        na.step(**wrong)


def test_call_that_takes_too_long(home, ledger):
    """It is cancelled and may have happened: the node gets the error, a resume makes it again."""

    @na.step(timeout=timedelta(milliseconds=20))
    async def call() -> str:
        if ledger.note(na.idempotency_key()) == 1:
            await asyncio.Event().wait()
        return "done"

    node = node_of(call, is_async=True)
    with pytest.raises(errors.StepTimeoutError) as caught:
        run(home, node)
    assert isinstance(caught.value, TimeoutError)
    says(caught.value, "'call'", "'t'", "0.02 s")
    done = run(home, node)
    assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
        Outcome.UNCERTAIN,
        Outcome.RETURNED,
    ]
    assert len(set(ledger.lines())) == 1


def test_call_that_takes_too_long_is_tried_again(home, ledger):
    """A timeout is an error to try again for, if `retry_on` says so."""

    @na.step(timeout=0.02, retry_on=TimeoutError, wait=SOON)
    async def call() -> str:
        if ledger.note("called") == 1:
            await asyncio.Event().wait()
        return "done"

    done = run(home, node_of(call, is_async=True))
    assert (done.value["items"], len(ledger.lines())) == (["done"], 2)


def test_at_most_once_call_that_takes_too_long(home, ledger):
    """It is in doubt at once: not tried again, not caught by the node, and decided by a person."""

    @na.step(at_most_once=True, timeout=0.02, retry_on=TimeoutError, wait=SOON)
    async def pay() -> str:
        ledger.note("paid")
        await asyncio.Event().wait()
        return "paid"

    async def node(state: State) -> State:
        try:
            return {"items": [await pay()]}
        except Exception:
            return {"items": ["swallowed"]}

    assert run(home, node).status is RunStatus.IN_DOUBT
    assert run(home, node).status is RunStatus.IN_DOUBT
    with na.Journal.open(home) as journal:
        na.resolve("t", answer=na.did("by phone"), journal=journal)
    assert run(home, node).value["items"] == ["by phone"]
    assert ledger.lines() == ["paid"]


@pytest.mark.parametrize("at_most_once", [False, True])
def test_late_result(home, ledger, at_most_once):
    """What a call returns in spite of being cancelled is recorded as late, and not used."""

    @na.step(timeout=0.02, at_most_once=at_most_once)
    async def call() -> str:
        if ledger.note("called") == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
        return "in time"

    node = node_of(call, is_async=True)
    if at_most_once:
        assert run(home, node).status is RunStatus.IN_DOUBT
        with na.Journal.open(home) as journal:
            na.resolve("t", answer=na.did_not(), journal=journal)
    else:
        with pytest.raises(errors.StepTimeoutError):
            run(home, node)
    done = run(home, node)
    assert done.value["items"] == ["in time"]
    assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
        Outcome.LATE,
        Outcome.RETURNED,
    ]
    with na.Journal.open(home) as journal:
        assert len(journal.select(thread="t", kinds=[Kind.STEP_LATE])) == 1


def test_error_on_being_cancelled_is_the_timeout(home, ledger):
    """What a cancelled call raises instead proves nothing: it stays in doubt."""

    @na.step(at_most_once=True, timeout=0.02, retry_on=ConnectionError, wait=SOON)
    async def pay() -> None:
        ledger.note("paid")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    assert run(home, node_of(pay, is_async=True)).status is RunStatus.IN_DOUBT
    assert ledger.lines() == ["paid"]


async def test_attempt_that_outlives_its_node(home, ledger):
    """Two attempts of one call side by side: the newer one's result counts, the other is late."""
    tasks = list[asyncio.Task[Any]]()
    gates = list[asyncio.Event]()

    @na.step
    async def call() -> str:
        if ledger.note("called") > 1:
            return "second"
        gates[0].set()
        await gates[1].wait()
        return "first"

    async def node(state: State) -> State:
        if not tasks:
            gates.extend([asyncio.Event(), asyncio.Event()])
            tasks.append(asyncio.create_task(call()))
            await gates[0].wait()
            raise ConnectionError("reset")
        value = await call()
        gates[1].set()
        await asyncio.wait(tasks)
        return {"items": [value]}

    graph = chain(add)
    graph.add_node("node", node, retry_policy=RetryPolicy(max_attempts=2, initial_interval=SOON))
    graph.add_edge("add", "node")
    with na.Journal.open(home) as journal:
        done = await na.Agent(graph, "stepping", journal).arun({"n": 0}, thread="t")
        assert done.value["items"] == ["second"]
        assert [attempt.outcome for attempt in named(done)["call"].attempts] == [
            Outcome.LATE,
            Outcome.RETURNED,
        ]


def test_retries_cost_nothing_unless_used():
    """Tenacity is loaded by the first call that needs it."""
    code = "import sys, notebook_agents as na; na.step(lambda: 1); print('tenacity' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
