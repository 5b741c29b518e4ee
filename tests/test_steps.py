"""`@step`: what returned is not called again, what is doubtful is treated as its author said."""

from __future__ import annotations

import datetime
import decimal
import enum
import inspect
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel
from support.checks import State
from support.running import named, run

import notebook_agents as na
from notebook_agents.errors import StepFailedError
from notebook_agents.model import Outcome, RunStatus

# -- what comes back ---------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: tuple[int, ...]


class Pair(NamedTuple):
    left: int
    right: str


class Model(BaseModel):
    rows: list[tuple[int, str]]


class OddError(Exception):
    """An error with more than a message."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code


VALUES: dict[str, Any] = {
    "none": None,
    "tuple": (1, ("a", None)),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "bytes": b"\x00\xff",
    "large integer": 2**70,
    "dictionary with other keys": {1: "a", (2, 3): "b"},
    "nested": {"rows": [{"at": (1, {2})}]},
    "enum": Color.RED,
    "dataclass": Point(1, (2, 3)),
    "named tuple": Pair(1, "b"),
    "model": Model(rows=[(1, "a")]),
    "message": AIMessage("hello", id="m1"),
    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "decimal": decimal.Decimal("1.10"),
    "exception": OddError(7, "no"),
    "class": Color,
}


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, BaseException):
        return type(left) is type(right) and left.args == right.args and vars(left) == vars(right)
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        return all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return all(map(_same, left, right))
    return True


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_replay_gives_what_was_returned(home, ledger, kind, is_async):
    """A recorded result has the types that it had, and the function is not called for it again."""
    value = VALUES[kind]
    seen: list[Any] = []

    @na.step
    def call() -> Any:
        ledger.note("called")
        return value

    @na.step
    async def call_async() -> Any:
        ledger.note("called")
        return value

    def node(state: State) -> State:
        seen.append(call())
        if len(seen) == 1:
            raise RuntimeError("behind the call")
        return {"n": 1}

    async def node_async(state: State) -> State:
        seen.append(await call_async())
        if len(seen) == 1:
            raise RuntimeError("behind the call")
        return {"n": 1}

    chosen = node_async if is_async else node
    with pytest.raises(RuntimeError, match="behind the call"):
        run(home, chosen)
    assert run(home, chosen).status is RunStatus.SUCCEEDED
    assert _same(seen[0], value)
    assert _same(seen[1], value), seen
    assert ledger.lines() == ["called"]


def test_the_node_gets_the_functions_own_object(home):
    """The first time, a call returns what the function returned and not a copy of it."""
    value = [1]

    @na.step
    def call() -> list[int]:
        return value

    def node(state: State) -> State:
        assert call() is value
        return {"n": 1}

    assert run(home, node).value["n"] == 1


def test_a_step_looks_like_its_function():
    """The decorated function keeps name, signature and kind, and gives the function back."""

    def call(a: int, *, b: str = "x") -> str:
        """Say something."""
        return f"{a}{b}"

    async def call_async() -> None: ...

    durable = na.step(call)
    assert (durable.__name__, durable.__doc__) == ("call", "Say something.")
    assert inspect.signature(durable) == inspect.signature(call)
    assert durable.__wrapped__(1, b="y") == "1y"
    assert inspect.iscoroutinefunction(na.step(at_most_once=True)(call_async))
    assert not inspect.iscoroutinefunction(durable)


# -- keys and attempts -------------------------------------------------------------------------


def test_every_attempt_has_the_same_key(home, ledger, dies, trips):
    """Killed in the middle of a call, each new process makes it under the same key."""

    @na.step
    def call(n: int) -> str:
        ledger.note(na.idempotency_key())
        trips(times=2)
        return na.idempotency_key()

    def node(state: State) -> State:
        return {"items": [call(1), na.idempotency_key()]}

    dies(lambda: run(home, node))
    dies(lambda: run(home, node))
    done = run(home, node)

    inside, around = done.value["items"]
    assert ledger.lines() == [inside] * 3
    assert inside != around
    step, outer = named(done)["call"], named(done)["node"]
    assert (step.key, outer.key) == (inside, around)
    assert step.parent == outer.id
    outcomes = [Outcome.UNCERTAIN, Outcome.UNCERTAIN, Outcome.RETURNED]
    assert [attempt.outcome for attempt in step.attempts] == outcomes
    assert [attempt.number for attempt in step.attempts] == [1, 2, 3]
    assert [attempt.session for attempt in step.attempts] == [1, 2, 3]
    assert step.was_in_doubt


def test_two_runs_of_a_thread_have_other_keys(home, ledger):
    """The next run of a conversation makes its calls anew, under keys of their own."""

    @na.step
    def call() -> None:
        ledger.note(na.idempotency_key())

    def node(state: State) -> State:
        call()
        return {"n": 1}

    assert [run(home, node).number for _ in range(3)] == [1, 2, 3]
    assert len(set(ledger.lines())) == 3


def test_what_returned_is_not_called_again(home, ledger, dies, trips):
    """After a kill behind two calls, only the third is made."""

    @na.step
    def call(n: int) -> int:
        ledger.note(n)
        return n * 10

    def node(state: State) -> State:
        found = [call(1), call(2)]
        trips()
        return {"items": [*found, call(3)]}

    dies(lambda: run(home, node))
    done = run(home, node)
    assert done.value["items"] == [10, 20, 30]
    assert ledger.lines() == ["1", "2", "3"]
    assert [step.replayed for step in done.steps] == [False, True, True, False]


def test_equal_calls_are_told_apart(home, ledger, dies, trips):
    """Of equal calls in one node each has its own step, key and result, in the order of calls."""

    @na.step
    def call(text: str) -> int:
        return ledger.note(f"{text} {na.idempotency_key()}")

    def node(state: State) -> State:
        found = [call("same"), call("other"), call("same")]
        trips()
        return {"items": [*found, call("same"), call(text="same")]}

    dies(lambda: run(home, node))
    assert run(home, node).value["items"] == [1, 2, 3, 4, 5]
    assert len(set(ledger.lines())) == 5


def test_equal_arguments_are_equal_in_another_process(home, ledger, dies, trips):
    """Sets, dicts, enums and objects stand for the same call wherever they are made."""

    @na.step
    def call(*args: object, **kwargs: object) -> None:
        ledger.note("called")

    def node(state: State) -> State:
        call({"b", "a", "c"}, {"x": 1, "y": 2}, Color.RED, at=Point(1, (2,)))
        call({"y": 2, "x": 1}, datetime.date(2026, 1, 1), Model(rows=[(1, "a")]))
        trips()
        return {"n": 1}

    dies(lambda: run(home, node))
    done = run(home, node)
    assert ledger.lines() == ["called"] * 2
    assert [step.replayed for step in done.steps] == [False, True, True]


@pytest.mark.parametrize("given", [(1, 2), {"rows": [(1,)]}, {1, 2}, b"x"], ids=repr)
def test_arguments_that_come_from_the_state(home, ledger, dies, trips, given):
    """What LangGraph's state gives back as another type after a kill still is the same call."""

    @na.step
    def call(at: Any) -> None:
        ledger.note("called")

    def first(state: State) -> State:
        return {"at": given}

    def second(state: State) -> State:
        call(state["at"])
        trips()
        return {"n": 1}

    dies(lambda: run(home, first, second))
    assert run(home, first, second).status is RunStatus.SUCCEEDED
    assert ledger.lines() == ["called"]


class Request:
    """An object that is neither plain data nor a model."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path


def test_arguments_that_are_objects(home, ledger, dies, trips):
    """An object stands for its content, whichever strings of it are one object in memory."""

    @na.step
    def call(request: Request) -> None:
        ledger.note("called")

    def first(state: State) -> State:
        return {"items": ["same words", "same words"]}

    def second(state: State) -> State:
        call(Request(*state["items"]))
        trips()
        return {"n": 1}

    dies(lambda: run(home, first, second))
    assert run(home, first, second).status is RunStatus.SUCCEEDED
    assert ledger.lines() == ["called"]


def test_key_stands_for_the_arguments(home, ledger, dies, trips):
    """With `key=` the arguments need no digest, and calls with another key are other calls."""

    @na.step(key=lambda guard, name: name)
    def call(guard: object, name: str) -> str:
        ledger.note(name)
        return name

    def node(state: State) -> State:
        found = [call(threading.Lock(), name) for name in ("a", "b", "a")]
        trips()
        return {"items": [*found, call(threading.Lock(), "c")]}

    dies(lambda: run(home, node))
    assert run(home, node).value["items"] == ["a", "b", "a", "c"]
    assert ledger.lines() == ["a", "b", "a", "c"]


def test_calls_inside_calls(home, ledger, dies, trips):
    """A call inside a call is a step of its own; when the outer one returned, none is looked at."""

    @na.step
    def inner(n: int) -> int:
        ledger.note(f"inner {n}")
        return n + 1

    @na.step
    def outer(n: int) -> int:
        ledger.note("outer")
        found = inner(n)
        trips("first")
        return found * 10

    def node(state: State) -> State:
        found = outer(1)
        trips("second")
        return {"n": found + inner(1)}

    dies(lambda: run(home, node))
    dies(lambda: run(home, node))
    done = run(home, node)
    assert done.value["n"] == 22
    assert ledger.lines() == ["outer", "inner 1", "outer", "inner 1"]
    parents = [(step.name, step.parent) for step in done.steps]
    ids = {step.id: step.name for step in done.steps}
    assert [(name, ids.get(parent)) for name, parent in parents] == [
        ("node", None),
        ("outer", "node"),
        ("inner", "outer"),
        ("inner", "node"),
    ]


def test_node_that_makes_other_calls_is_reported(home, ledger, caplog):
    """Code that changed under a run is allowed; calls whose effects stand unused are named."""
    old = [True]

    @na.step
    def call(n: int) -> int:
        ledger.note(n)
        return n

    def node(state: State) -> State:
        if old:
            call(1)
            raise RuntimeError("not yet")
        return {"n": call(2)}

    with pytest.raises(RuntimeError):
        run(home, node)
    old.clear()
    assert run(home, node).value["n"] == 2
    assert ledger.lines() == ["1", "2"]
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "'node'" in warning
    assert "call" in warning
    assert "'t'" in warning


# -- errors ------------------------------------------------------------------------------------


def test_error_that_the_node_went_past_is_replayed(home, ledger, dies, trips):
    """A node that caught a call's error and went on meets the same error when it runs again."""

    @na.step
    def call() -> int:
        ledger.note("called")
        raise OddError(7, "no")

    @na.step
    def other() -> int:
        return 1

    def node(state: State) -> State:
        try:
            call()
        except OddError as error:
            found = error.code
        other()
        trips()
        return {"n": found}

    dies(lambda: run(home, node))
    assert run(home, node).value["n"] == 7
    assert ledger.lines() == ["called"]


def test_error_that_cannot_be_kept_is_replayed_as_text(home, ledger, dies, trips):
    """An error that does not pickle comes back as one that says what it was."""

    class HoldingError(Exception):
        def __init__(self) -> None:
            super().__init__("held")
            self.guard = threading.Lock()

    @na.step
    def call() -> None:
        ledger.note("called")
        raise HoldingError

    @na.step
    def other() -> None: ...

    def node(state: State) -> State:
        try:
            call()
        except (HoldingError, StepFailedError) as error:
            found = f"{type(error).__name__}: {error}"
        other()
        trips()
        return {"items": [found]}

    dies(lambda: run(home, node))
    (found,) = run(home, node).value["items"]
    assert found.startswith("StepFailedError: step 'call'")
    assert "HoldingError: held" in found
    assert ledger.lines() == ["called"]


def test_error_that_failed_the_node_is_not_replayed(home, ledger):
    """What broke the run is tried again: otherwise a mended world would not help."""
    broken = [True]

    @na.step
    def call() -> int:
        ledger.note(na.idempotency_key())
        if broken:
            raise OddError(7, "no")
        return 5

    def node(state: State) -> State:
        return {"n": call()}

    for _ in range(2):
        with pytest.raises(OddError) as caught:
            run(home, node)
        assert caught.value.code == 7
    broken.clear()
    done = run(home, node)
    assert done.value["n"] == 5
    assert len(ledger.lines()) == 3
    assert len(set(ledger.lines())) == 1
    outcomes = [attempt.outcome for attempt in named(done)["call"].attempts]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.RETURNED]
    assert named(done)["call"].attempts[0].error == "OddError: (7, 'no')"


def test_error_that_was_the_nodes_last_word_before_a_kill(home, ledger, dies, trips):
    """Killed between a call's error and what the node makes of it, the call is made again."""

    @na.step
    def call() -> int:
        if ledger.note("called") == 1:
            raise OddError(7, "no")
        return 5

    def node(state: State) -> State:
        try:
            return {"n": call()}
        except OddError:
            trips()
            return {"n": -1}

    dies(lambda: run(home, node))
    assert run(home, node).value["n"] == 5
    assert ledger.lines() == ["called"] * 2


def test_langgraphs_own_retries_replay_calls(home, ledger):
    """A node that LangGraph tries again in the same process does not repeat what returned."""

    @na.step
    def call() -> int:
        return ledger.note("called")

    tries: list[int] = []

    def node(state: State) -> State:
        found = call()
        tries.append(found)
        if len(tries) == 1:
            raise ConnectionError("try again")
        return {"n": found}

    graph = StateGraph(State)
    graph.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.0, jitter=False))
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    with na.Journal.open(home) as journal:
        done = na.Agent(graph, "stepping", journal).run({"n": 0}, thread="t")
        assert done.value["n"] == 1
        outcomes = [attempt.outcome for attempt in named(done)["node"].attempts]
    assert (tries, ledger.lines()) == ([1, 1], ["called"])
    assert outcomes == [Outcome.FAILED, Outcome.RETURNED]
