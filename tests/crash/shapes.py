"""The graphs that are killed: small, and of every shape that a step can stand in.

Each step fires one effect under its idempotency key and returns a value that no other execution
returns. Each node first acknowledges all that it finds in the state: whoever begins behind a step
has been told that the step returned, and what.
"""

from __future__ import annotations

import asyncio
import operator
import os
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, Send

import notebook_agents as na

from .ledger import What, lines, note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notebook_agents.runtime.steps import Answer

WIDTH = 8
"""How many tasks the fan-out has."""
PAGE = "the same in every step, so that it is kept once; " * 12
"""Long enough to be a chunk of its own, which steps that run at the same time then share."""
TURNS = 3
"""How often the loop goes round."""


def merge(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Reduce results."""
    return {**old, **new}


class State(TypedDict):
    """What each step returned, by its label; the nodes in order; and a page from each node."""

    results: Annotated[dict[str, str], merge]
    order: Annotated[list[str], operator.add]
    pages: Annotated[list[str], operator.add]


class _Item(TypedDict):
    number: int
    results: dict[str, str]
    pages: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A graph to kill.

    Attributes:
        name: What it is called on the command line.
        build: Makes the graph.
        orders: What an undisturbed run may leave in the state's `order`.
        calls: The durable calls, named `node/call`.
        once: Those of them that are at most once, with somebody to ask.
        inner: The nodes that leave no trace in the outermost graph's `order`.
        fixed: The calls of nodes that neither do nor have an effect of their own.
        asks: Whether runs wait for an answer, which is "yes".
        given: Makes the input.
        read: Returns the results, order and pages of what a run came to.
    """

    name: str
    build: Callable[[], Any]
    orders: tuple[tuple[str, ...], ...]
    calls: tuple[str, ...]
    once: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    asks: bool = False
    given: Callable[[], Any] = lambda: start()
    read: Callable[[Any], Any] = lambda value: value

    def problems(self, value: dict[str, Any], effects: Sequence[str]) -> list[str]:
        """Return how a run differs from every undisturbed one.

        Args:
            value: What the run came to.
            effects: The labels of all effects, of every process.
        """
        order = tuple(value["order"])
        if order not in self.orders:
            return [f"the nodes' order is {order}"]
        nodes = {*order, *self.inner}
        calls = (name for name in self.calls if name.split("/")[0] in nodes)
        expected = {*nodes, *calls, *self.fixed}
        problems = [
            f"too many or too few {what}: {sorted(some ^ expected)}"
            for what, some in (("results", set(value["results"])), ("effects", set(effects)))
            if some != expected
        ]
        if [page for page in value["pages"] if page != PAGE] != [_page(name) for name in order]:
            problems.append(f"the pages are not those of {order}")
        return problems + [
            f"{label} happened {effects.count(label)} times"
            for label in self.once
            if effects.count(label) != 1
        ]


def start() -> State:
    """Return the input of every shape."""
    return {"results": {}, "order": [], "pages": [PAGE]}


def fire(label: str) -> str:
    """Do something outside under the step's key; return what no other execution returns."""
    value = secrets.token_hex(4)
    note(What.EFFECT, label=label, key=na.idempotency_key(), value=value)
    return value


def _page(label: str) -> str:
    return f"page of {label}, " * 40


def written(label: str, results: dict[str, str]) -> State:
    """Return what a node writes: its page is new, and half of it is everybody's."""
    return {"results": results, "order": [label], "pages": [PAGE, _page(label)]}


def acknowledge(results: dict[str, str]) -> None:
    """Note outside that these steps have returned, and what."""
    for label, value in results.items():
        note(What.ACK, label=label, value=value)


@na.step
def call(label: str) -> tuple[str, str]:
    """Do something outside, once; a durable call inside a node."""
    return fire(label), PAGE


@na.step
async def acall(label: str) -> tuple[str, str]:
    """Do the same on the event loop."""
    await asyncio.sleep(0)
    return fire(label), PAGE


def _told(key: str) -> Answer:
    """Say whether the call with this key happened: the ledger is the other side."""
    for line in lines():
        if line.what is What.EFFECT and line.key == key:
            return na.did((line.value, PAGE))
    return na.did_not()


@na.step(at_most_once=True, reconcile=_told)
def pay(label: str) -> tuple[str, str]:
    """Do something that must never happen twice."""
    return fire(label), PAGE


def node(name: str, *calls: str) -> Callable[[State], State]:
    """Return a node that fires, then makes durable calls one after the other."""

    def fires(state: State) -> State:
        acknowledge(state["results"])
        results = {name: fire(name)}
        for label in calls:
            results[label], _ = call(label)
            acknowledge({label: results[label]})
        return written(name, results)

    return fires


def async_node(name: str, *calls: str) -> Callable[[State], Any]:
    """Return a node that fires, then makes durable calls at the same time."""

    async def fires(state: State) -> State:
        acknowledge(state["results"])
        results = {name: fire(name)}
        answers = await asyncio.gather(*(acall(label) for label in calls))
        answered = {label: value for label, (value, _) in zip(calls, answers, strict=True)}
        acknowledge(answered)
        return written(name, results | answered)

    return fires


def row(builder: StateGraph[Any, Any, Any, Any], *names: str) -> StateGraph[Any, Any, Any, Any]:
    """Put the nodes one behind the other."""
    for before, after in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(before, after)
    return builder


def _sequential() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("one", node("one"))
    builder.add_node("two", node("two", "two/a", "two/b"))
    builder.add_node("three", node("three"))
    builder.add_node("four", node("four", "four/a"))
    return row(builder, "one", "two", "three", "four")


def _asynchronous() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("one", async_node("one", "one/a", "one/b", "one/c"))
    builder.add_node("two", async_node("two"))
    builder.add_node("three", async_node("three", "three/a", "three/b"))
    return row(builder, "one", "two", "three")


def _fan_out() -> StateGraph[Any, Any, Any, Any]:
    def deal(state: State) -> list[Send]:
        return [
            Send("work", {"number": number, "results": state["results"], "pages": state["pages"]})
            for number in range(WIDTH)
        ]

    def work(item: _Item) -> State:
        acknowledge(item["results"])
        label = f"work{item['number']}"
        results = {label: fire(label)}
        results[f"{label}/a"], _ = call(f"{label}/a")
        acknowledge({f"{label}/a": results[f"{label}/a"]})
        return written(label, results)

    builder = StateGraph(State)
    builder.add_node("split", node("split"))
    builder.add_node("work", work)
    builder.add_node("join", node("join", "join/a"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", deal, ["work"])
    builder.add_edge("work", "join")
    builder.add_edge("join", END)
    return builder


def _nested() -> StateGraph[Any, Any, Any, Any]:
    inner = StateGraph(State)
    inner.add_node("inner-one", node("inner-one"))
    inner.add_node("inner-two", node("inner-two", "inner-two/a"))
    outer = StateGraph(State)
    outer.add_node("before", node("before"))
    outer.add_node("sub", row(inner, "inner-one", "inner-two").compile())
    outer.add_node("after", node("after", "after/a"))
    return row(outer, "before", "sub", "after")


def _routed() -> StateGraph[Any, Any, Any, Any]:
    def toss(state: State) -> str:
        return random.choice(("left", "right"))

    builder = StateGraph(State)
    builder.add_node("fork", node("fork"))
    builder.add_node("left", node("left", "left/a"))
    builder.add_node("right", node("right", "right/a"))
    builder.add_node("end", node("end"))
    builder.add_edge(START, "fork")
    builder.add_conditional_edges("fork", toss, ["left", "right"])
    builder.add_edge("left", "end")
    builder.add_edge("right", "end")
    builder.add_edge("end", END)
    return builder


def _looped() -> StateGraph[Any, Any, Any, Any]:
    def turn(state: State) -> State:
        label = f"turn{len(state['order'])}"
        return node(label, f"{label}/a")(state)

    def again(state: State) -> str:
        return "turn" if len(state["order"]) < TURNS else END

    builder = StateGraph(State)
    builder.add_node("turn", turn)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges("turn", again, ["turn", END])
    return builder


_tried: set[int] = set()
"""The processes in which the shaky node has raised already."""


def _retried() -> StateGraph[Any, Any, Any, Any]:
    def shaky(state: State) -> State:
        acknowledge(state["results"])
        answer, _ = call("shaky/a")
        acknowledge({"shaky/a": answer})
        if os.getpid() not in _tried:
            _tried.add(os.getpid())
            raise ConnectionError("the first try of every process fails")
        return written("shaky", {"shaky/a": answer, "shaky": fire("shaky")})

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    policy = RetryPolicy(initial_interval=0.0, jitter=False, retry_on=Exception)
    builder.add_node("shaky", shaky, retry_policy=policy)
    builder.add_node("after", node("after"))
    return row(builder, "before", "shaky", "after")


def _reconciled() -> StateGraph[Any, Any, Any, Any]:
    def buy(state: State) -> State:
        acknowledge(state["results"])
        results = {}
        for label in ("buy/a", "buy/b"):
            results[label], _ = pay(label)
            acknowledge({label: results[label]})
        return written("buy", {**results, "buy": fire("buy")})

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("buy", buy)
    builder.add_node("after", node("after"))
    return row(builder, "before", "buy", "after")


_WORKERS = tuple(f"work{number}" for number in range(WIDTH))
_TURNS = tuple(f"turn{number}" for number in range(TURNS))

BASIC = {
    shape.name: shape
    for shape in (
        Shape(
            name="sequential",
            build=_sequential,
            orders=(("one", "two", "three", "four"),),
            calls=("two/a", "two/b", "four/a"),
        ),
        Shape(
            name="async",
            build=_asynchronous,
            orders=(("one", "two", "three"),),
            calls=("one/a", "one/b", "one/c", "three/a", "three/b"),
        ),
        Shape(
            name="fan-out",
            build=_fan_out,
            orders=(("split", *_WORKERS, "join"),),
            calls=(*(f"{worker}/a" for worker in _WORKERS), "join/a"),
        ),
        Shape(
            name="nested",
            build=_nested,
            # The inner graph gives back the order that it was given, with its own behind it.
            orders=(("before", "before", "inner-one", "inner-two", "after"),),
            calls=("inner-two/a", "after/a"),
        ),
        Shape(
            name="routed",
            build=_routed,
            orders=(("fork", "left", "end"), ("fork", "right", "end")),
            calls=("left/a", "right/a"),
        ),
        Shape(
            name="looped",
            build=_looped,
            orders=(_TURNS,),
            calls=tuple(f"{turn}/a" for turn in _TURNS),
        ),
        Shape(
            name="retried",
            build=_retried,
            orders=(("before", "shaky", "after"),),
            calls=("shaky/a",),
        ),
        Shape(
            name="reconciled",
            build=_reconciled,
            orders=(("before", "buy", "after"),),
            calls=("buy/a", "buy/b"),
            once=("buy/a", "buy/b"),
        ),
    )
}
