"""What else LangGraph can do, as graphs to kill; the plain shapes are in `shapes.py`."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.cache.memory import InMemoryCache
from langgraph.channels import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, Send, TimeoutPolicy, interrupt
from pydantic import BaseModel

from .shapes import (
    PAGE,
    WIDTH,
    Shape,
    State,
    acall,
    acknowledge,
    async_node,
    call,
    fire,
    merge,
    node,
    row,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Builder = StateGraph[Any, Any, Any, Any]


def _async_fan_out() -> Builder:
    def deal(state: State) -> list[Send]:
        return [Send("work", {**state, "number": number}) for number in range(WIDTH)]

    async def work(item: dict[str, Any]) -> State:
        acknowledge(item["results"])
        label = f"work{item['number']}"
        results = {label: fire(label)}
        results[f"{label}/a"], _ = await acall(f"{label}/a")
        acknowledge({f"{label}/a": results[f"{label}/a"]})
        return written(label, results)

    builder = StateGraph(State)
    builder.add_node("split", async_node("split"))
    builder.add_node("work", work)
    builder.add_node("join", async_node("join", "join/a"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", deal, ["work"])
    builder.add_edge("work", "join")
    builder.add_edge("join", END)
    return builder


def _parallel_subgraphs() -> Builder:
    def inner(name: str) -> Any:
        graph = StateGraph(State, input_schema=_Results, output_schema=_Results)
        graph.add_node(f"{name}-one", node(f"{name}-one"))
        graph.add_node(f"{name}-two", node(f"{name}-two", f"{name}-two/a"))
        return row(graph, f"{name}-one", f"{name}-two").compile()

    builder = StateGraph(State)
    builder.add_node("left", inner("left"))
    builder.add_node("right", inner("right"))
    builder.add_node("join", node("join"))
    for name in ("left", "right"):
        builder.add_edge(START, name)
        builder.add_edge(name, "join")
    builder.add_edge("join", END)
    return builder


class _Results(TypedDict):
    """What the subgraphs take and give: their order stays inside them."""

    results: Annotated[dict[str, str], merge]


def _deeply_nested() -> Builder:
    innermost = StateGraph(State)
    innermost.add_node("deep", node("deep", "deep/a"))
    middle = StateGraph(State, output_schema=_Results)
    middle.add_node("innermost", row(innermost, "deep").compile())
    middle.add_node("middle", node("middle"))
    outer = StateGraph(State)
    outer.add_node("before", node("before"))
    outer.add_node("sub", row(middle, "innermost", "middle").compile())
    outer.add_node("after", node("after"))
    return row(outer, "before", "sub", "after")


def _in_a_function(*, checkpointer: bool | None = None) -> Builder:
    inner = StateGraph(State)
    inner.add_node("inner", lambda state: {"results": {"outer/a": call("outer/a")[0]}})
    compiled = row(inner, "inner").compile(checkpointer=checkpointer)

    def outer(state: State) -> State:
        acknowledge(state["results"])
        found = compiled.invoke({"results": {}, "order": [], "pages": []})
        acknowledge(found["results"])
        return written("outer", {**found["results"], "outer": fire("outer")})

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("outer", outer)
    builder.add_node("after", node("after"))
    return row(builder, "before", "outer", "after")


def _without_checkpoints() -> Builder:
    inner = StateGraph(State, output_schema=_Results)
    inner.add_node("inner", lambda state: {"results": {"sub/a": call("sub/a")[0]}})
    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("sub", row(inner, "inner").compile(checkpointer=False))
    builder.add_node("after", node("after"))
    return row(builder, "before", "sub", "after")


def _going() -> Builder:
    def one(state: State) -> Command[str]:
        return Command(update=node("one", "one/a")(state), goto=["two", "three"])

    builder = StateGraph(State)
    builder.add_node("one", one, destinations=("two", "three"))
    builder.add_node("two", node("two"))
    builder.add_node("three", node("three"))
    builder.add_edge(START, "one")
    return builder


def _to_the_parent() -> Builder:
    def leave(state: State) -> Command[str]:
        update = node("leave")(state)
        results = {**state["results"], **update["results"]}
        return Command(graph=Command.PARENT, update={**update, "results": results}, goto="after")

    inner = StateGraph(State)
    inner.add_node("inner", node("inner", "inner/a"))
    inner.add_node("leave", leave)
    builder = StateGraph(State)
    builder.add_node("sub", row(inner, "inner", "leave").compile(), destinations=("after",))
    builder.add_node("after", node("after"))
    builder.add_edge(START, "sub")
    return builder


def _deferred() -> Builder:
    builder = StateGraph(State)
    for name in ("short", "long", "longer"):
        builder.add_node(name, node(name))
    builder.add_node("last", node("last", "last/a"), defer=True)
    builder.add_edge(START, "short")
    builder.add_edge(START, "long")
    builder.add_edge("long", "longer")
    builder.add_edge("short", "last")
    builder.add_edge("longer", "last")
    return builder


def _handled() -> Builder:
    def bad(state: State) -> State:
        acknowledge(state["results"])
        raise OSError("always out of order")

    def handler(state: State) -> Command[str]:
        results = {"handler": fire("handler"), "handler/a": call("handler/a")[0]}
        acknowledge({"handler/a": results["handler/a"]})
        return Command(update=written("handler", results), goto="after")

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("bad", bad, error_handler=handler)
    builder.add_node("after", node("after"))
    return row(builder, "before", "bad", "after")


def _timed() -> Builder:
    builder = StateGraph(State)
    policy = TimeoutPolicy(run_timeout=60)
    builder.add_node("one", async_node("one", "one/a"), timeout=policy)
    builder.add_node("two", async_node("two", "two/a"), timeout=policy)
    return row(builder, "one", "two")


def _cached() -> Any:
    builder = StateGraph(State)
    builder.add_node("one", node("one", "one/a"), cache_policy=CachePolicy())
    builder.add_node("two", node("two"), cache_policy=CachePolicy())
    return row(builder, "one", "two").compile(cache=InMemoryCache())


class ModelState(BaseModel):
    """The same state as a pydantic model."""

    results: Annotated[dict[str, str], merge] = {}
    order: Annotated[list[str], operator.add] = []
    pages: Annotated[list[str], operator.add] = []


@dataclasses.dataclass
class DataState:
    """The same state as a dataclass."""

    results: Annotated[dict[str, str], merge] = dataclasses.field(default_factory=dict)
    order: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)
    pages: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)


def _append(old: list[str], writes: list[list[str]]) -> list[str]:
    return [*old, *(item for write in writes for item in write)]


class DeltaState(TypedDict):
    """The same state with lists that LangGraph stores as differences."""

    results: Annotated[dict[str, str], merge]
    order: Annotated[list[str], DeltaChannel(_append, list, snapshot_frequency=2)]
    pages: Annotated[list[str], DeltaChannel(_append, list, snapshot_frequency=3)]


def _typed(schema: type) -> Callable[[], Builder]:
    def as_dict(inner: Callable[[State], State]) -> Callable[[Any], State]:
        def plain(state: Any) -> State:
            given = state if isinstance(state, dict) else vars(state)
            return inner(given)  # type: ignore[arg-type]

        return plain

    def build() -> Builder:
        builder = StateGraph(schema)
        for name, calls in {"one": ("one/a",), "two": (), "three": ("three/a",)}.items():
            builder.add_node(name, as_dict(node(name, *calls)))
        return row(builder, "one", "two", "three")

    return build


@task
def _work(label: str) -> tuple[str, str]:
    return fire(label), PAGE


@task
async def _awork(label: str) -> tuple[str, str]:
    await asyncio.sleep(0)
    return fire(label), PAGE


def _flow() -> Any:
    @entrypoint()
    def flow(state: State) -> dict[str, Any]:
        futures = {label: _work(label) for label in _FLOWN[1:4]}
        results = {label: future.result()[0] for label, future in futures.items()}
        acknowledge(results)
        for label in _FLOWN[4:]:
            results[label] = _work(label).result()[0]
            acknowledge({label: results[label]})
        results["flow"] = fire("flow")
        return {**written("flow", results), "pages": [PAGE, *written("flow", {})["pages"]]}

    return flow


def _async_flow() -> Any:
    @entrypoint()
    async def flow(state: State) -> dict[str, Any]:
        found = await asyncio.gather(*(_awork(label) for label in _FLOWN[1:4]))
        results = {label: value for label, (value, _) in zip(_FLOWN[1:4], found, strict=True)}
        acknowledge(results)
        for label in _FLOWN[4:]:
            results[label], _ = await _awork(label)
            acknowledge({label: results[label]})
        results["flow"] = fire("flow")
        return {**written("flow", results), "pages": [PAGE, *written("flow", {})["pages"]]}

    return flow


def _task_in_a_node() -> Builder:
    def one(state: State) -> State:
        acknowledge(state["results"])
        results = {label: _work(label).result()[0] for label in ("one/a", "one/b")}
        acknowledge(results)
        return written("one", {**results, "one": fire("one")})

    builder = StateGraph(State)
    builder.add_node("one", one)
    builder.add_node("two", node("two"))
    return row(builder, "one", "two")


def _asking(questions: int) -> Callable[[], Builder]:
    def ask(state: State) -> State:
        acknowledge(state["results"])
        results = {}
        for number in range(questions):
            results[f"ask/{number}"], _ = call(f"ask/{number}")
            acknowledge({f"ask/{number}": results[f"ask/{number}"]})
            assert interrupt(f"question {number}") == "yes"
        return written("ask", {**results, "ask": fire("ask")})

    def build() -> Builder:
        builder = StateGraph(State)
        builder.add_node("before", node("before"))
        builder.add_node("ask", ask)
        builder.add_node("after", node("after", "after/a"))
        return row(builder, "before", "ask", "after")

    return build


def _paused() -> Any:
    builder = StateGraph(State)
    for name in ("one", "two", "three"):
        builder.add_node(name, node(name))
    return row(builder, "one", "two", "three").compile(
        interrupt_before=["two"], interrupt_after=["two"]
    )


_FLOWN = ("flow", *(f"flow/{letter}" for letter in "abcde"))
_WORKERS = tuple(f"work{number}" for number in range(WIDTH))
_WORKER_CALLS = tuple(f"{worker}/a" for worker in _WORKERS)
_TYPED: dict[str, Any] = {
    "orders": (("one", "two", "three"),),
    "calls": ("one/a", "three/a"),
}
_SIDES = ("left-one", "left-two", "right-one", "right-two")

MORE = {
    shape.name: shape
    for shape in (
        Shape(
            name="async-fan-out",
            build=_async_fan_out,
            orders=(("split", *_WORKERS, "join"),),
            calls=(*_WORKER_CALLS, "join/a"),
        ),
        Shape(
            name="parallel-subgraphs",
            build=_parallel_subgraphs,
            orders=(("join",),),
            calls=("left-two/a", "right-two/a"),
            inner=_SIDES,
        ),
        Shape(
            name="deeply-nested",
            build=_deeply_nested,
            orders=(("before", "after"),),
            calls=("deep/a",),
            inner=("deep", "middle"),
        ),
        Shape(
            name="in-a-function",
            build=_in_a_function,
            orders=(("before", "outer", "after"),),
            calls=("outer/a",),
        ),
        Shape(
            name="without-checkpoints",
            build=_without_checkpoints,
            orders=(("before", "after"),),
            calls=("sub/a",),
            inner=(),
            fixed=("sub/a",),
        ),
        Shape(
            name="goto",
            build=_going,
            orders=(("one", "two", "three"), ("one", "three", "two")),
            calls=("one/a",),
        ),
        Shape(
            name="to-the-parent",
            build=_to_the_parent,
            orders=(("leave", "after"),),
            calls=("inner/a",),
            inner=("inner",),
        ),
        Shape(
            name="deferred",
            build=_deferred,
            orders=(("short", "long", "longer", "last"), ("long", "short", "longer", "last")),
            calls=("last/a",),
        ),
        Shape(
            name="handled",
            build=_handled,
            orders=(("before", "handler", "after"),),
            calls=("handler/a",),
        ),
        Shape(name="timed", build=_timed, orders=(("one", "two"),), calls=("one/a", "two/a")),
        Shape(name="cached", build=_cached, orders=(("one", "two"),), calls=("one/a",)),
        Shape(name="pydantic", build=_typed(ModelState), **_TYPED),
        Shape(name="dataclass", build=_typed(DataState), **_TYPED),
        Shape(name="delta", build=_typed(DeltaState), **_TYPED),
        Shape(name="tasks", build=_flow, orders=(("flow",),), calls=_FLOWN[1:]),
        Shape(name="async-tasks", build=_async_flow, orders=(("flow",),), calls=_FLOWN[1:]),
        Shape(
            name="task-in-a-node",
            build=_task_in_a_node,
            orders=(("one", "two"),),
            calls=("one/a", "one/b"),
        ),
        Shape(
            name="asking",
            build=_asking(1),
            orders=(("before", "ask", "after"),),
            calls=("ask/0", "after/a"),
            asks=True,
        ),
        Shape(
            name="asking-twice",
            build=_asking(2),
            orders=(("before", "ask", "after"),),
            calls=("ask/0", "ask/1", "after/a"),
            asks=True,
        ),
        Shape(name="paused", build=_paused, orders=(("one", "two", "three"),), calls=()),
    )
}
