"""Graphs whose state is hard to store small: each with its input, and the bytes of its values.

A module of its own, so that a graph's definition refers to it and does not hold it. The content of
a case is counted once for each value that comes into being: a file that is edited is a new value,
a file that is sent to eight nodes is none.
"""

from __future__ import annotations

import base64
import operator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Send

from .texts import BYTES, say

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = "random words"
WIDTH = 8  # how many nodes a fan-out sends the state to


@dataclass(frozen=True, slots=True)
class Case:
    """A graph that runs for `steps` rounds.

    Attributes:
        builder: The graph.
        given: Its input.
        content: Bytes of all values.
    """

    builder: StateGraph[Any, Any, Any, Any]
    given: dict[str, Any]
    content: int


class _Talk(TypedDict):
    n: int
    messages: Annotated[list[AnyMessage], add_messages]


def _looping(state: Any, node: Callable[[Any], Any], steps: int) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(state)
    builder.add_node("turn", node)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if state["n"] < steps else END, ["turn", END]
    )
    return builder


def _said(seed: int, n: int) -> list[AnyMessage]:
    return [HumanMessage(say(WORDS, seed, n, 0)), AIMessage(say(WORDS, seed, n, 1))]


def talk(seed: int, steps: int, *, before: int, told: Callable[[], object]) -> Case:
    """Return a conversation that has some messages already; each step says that it began."""

    def turn(state: _Talk) -> dict[str, Any]:
        told()
        return {"n": state["n"] + 1, "messages": _said(seed, before + state["n"])}

    said = [message for n in range(before // 2) for message in _said(seed, n)]
    given = {"n": 0, "messages": said}
    return Case(_looping(_Talk, turn, steps), given, (before + 2 * steps) * BYTES)


class _Files(TypedDict):
    n: int
    files: dict[str, Any]
    notes: Annotated[list[str], operator.add]


def _files(seed: int, steps: int, *, count: int, lines: int, split: bool) -> Case:
    """Return a graph that edits one of many files each round, then sends all to eight nodes."""
    rng = Random(seed)
    paths = [f"/work/module_{i:04}/{rng.randbytes(4).hex()}.py" for i in range(count)]

    def line(*place: int) -> str:
        return say(WORDS, seed, *place)[: 60 + sum(place) % 41]

    def whole(text: list[str]) -> Any:
        return {"content": text, "modified_at": "2026-11-21"} if split else "\n".join(text)

    def text(number: int, edits: int) -> list[str]:
        """Return a file's lines: each edit replaces one of them and adds one."""
        held = [line(number, place) for place in range(lines)]
        for edit in range(edits):
            held[edit % lines] = line(number, edit, 1)
            held.append(line(number, edit, 2))
        return held

    def plan(state: _Files) -> dict[str, Any]:
        number, edits = state["n"] % count, state["n"] // count + 1
        edited = {**state["files"], paths[number]: whole(text(number, edits))}
        return {"n": state["n"] + 1, "files": edited}

    def fan(state: _Files) -> list[Send]:
        return [
            Send("work", {"files": state["files"], "n": state["n"], "task": i})
            for i in range(WIDTH)
        ]

    def work(given: dict[str, Any]) -> dict[str, Any]:
        return {"notes": [say(WORDS, seed, given["n"], given["task"], 3)]}

    builder = StateGraph(_Files)
    builder.add_node("plan", plan)
    builder.add_node("work", work)
    builder.add_node("join", lambda state: {})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", fan, ["work"])
    builder.add_edge("work", "join")
    builder.add_conditional_edges(
        "join", lambda state: "plan" if state["n"] < steps else END, ["plan", END]
    )
    files = {path: whole(text(number, 0)) for number, path in enumerate(paths)}
    content = sum(len("\n".join(text(number, 0))) for number in range(count))
    if split:  # of an edited file two lines are new
        content += sum(len(line(i, i, 1)) + len(line(i, i, 2)) for i in range(steps))
    else:
        content += sum(len("\n".join(text(i % count, i // count + 1))) for i in range(steps))
    given = {"n": 0, "files": files, "notes": []}
    return Case(builder, given, content + steps * WIDTH * BYTES)


def files(seed: int, steps: int) -> Case:
    """Return 500 KB of files of 5 KB."""
    return _files(seed, steps, count=100, lines=64, split=False)


def small_files(seed: int, steps: int) -> Case:
    """Return 500 KB of files of 240 bytes."""
    return _files(seed, steps, count=2000, lines=3, split=False)


def split_files(seed: int, steps: int) -> Case:
    """Return 500 KB of files that are lists of lines, as deep agents keep them."""
    return _files(seed, steps, count=20, lines=320, split=True)


def images(seed: int, steps: int) -> Case:
    """Return a conversation in which each question has an image of 150 KB."""
    size = 150_000

    def turn(state: _Talk) -> dict[str, Any]:
        n = state["n"]
        data = base64.b64encode(Random(repr((seed, n))).randbytes(size * 3 // 4)).decode()
        block = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        text = {"type": "text", "text": "what is this?"}
        asked = HumanMessage([text, block])
        return {"n": n + 1, "messages": [asked, AIMessage(say(WORDS, seed, n))]}

    given = {"n": 0, "messages": []}
    return Case(_looping(_Talk, turn, steps), given, steps * (size + BYTES))


def repeated(seed: int, steps: int) -> Case:
    """Return a conversation whose node returns all of it at every step."""

    class Whole(TypedDict):
        n: int
        messages: list[AnyMessage]

    def turn(state: Whole) -> dict[str, Any]:
        return {"n": state["n"] + 1, "messages": [*state["messages"], *_said(seed, state["n"])]}

    given = {"n": 0, "messages": []}
    return Case(_looping(Whole, turn, steps), given, steps * 2 * BYTES)


def _append(held: list[AnyMessage], writes: list[Any]) -> list[AnyMessage]:
    return [*held, *(message for write in writes for message in write)]


def delta(seed: int, steps: int) -> Case:
    """Return a conversation in a DeltaChannel."""

    class Talk(TypedDict):
        n: int
        messages: Annotated[list[AnyMessage], DeltaChannel(_append, snapshot_frequency=25)]

    def turn(state: Talk) -> dict[str, Any]:
        return {"n": state["n"] + 1, "messages": _said(seed, state["n"])}

    given = {"n": 0, "messages": []}
    return Case(_looping(Talk, turn, steps), given, steps * 2 * BYTES)


class Parrot(BaseChatModel):
    """A model that answers 1 KB to anything."""

    seed: int

    def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
        reply = AIMessage(say(WORDS, self.seed, len(messages)))
        return ChatResult(generations=[ChatGeneration(message=reply)])

    @property
    def _llm_type(self) -> str:
        return "parrot"


TOKENS = 209_000
"""About so many tokens, at four bytes each, has the conversation that a model is called on."""


def long(seed: int, steps: int) -> Case:
    """Return calls of a model, each on a conversation of 209,000 tokens and what came since."""
    model = Parrot(seed=seed)

    def turn(state: _Talk) -> dict[str, Any]:
        asked = HumanMessage(say(WORDS, seed, state["n"], 4)[:100])
        return {"n": state["n"] + 1, "messages": [asked, model.invoke([*state["messages"], asked])]}

    said = [message for n in range(TOKENS * 4 // BYTES // 2) for message in _said(seed, n)]
    content = len(said) * BYTES + steps * (BYTES + 100)
    return Case(_looping(_Talk, turn, steps), {"n": 0, "messages": said}, content)


CASES: dict[str, Callable[[int, int], Case]] = {
    case.__name__: case for case in (files, small_files, split_files, images, repeated, delta, long)
}
