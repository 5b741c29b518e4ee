"""Types of one's own in the state: refused by name, declared or allowed; see docs/types.md."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from support.checks import chain, says

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.graph.codec import StateCodec, strict_serializer

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG: Any = {"configurable": {"thread_id": "plain"}}


@dataclass(frozen=True)
class Point:
    """A type of a user's own."""

    x: int
    y: int


def place(state: Any) -> Any:
    """Put one where the schema says nothing of it: a node."""
    return {"at": [Point(1, 2)]}


class Declared(TypedDict, total=False):
    n: int
    at: list[Point]


class Undeclared(TypedDict, total=False):
    n: int
    at: Any


def graph(schema: Any) -> Any:
    """Return a graph of one node, without a checkpointer."""
    builder = StateGraph(schema).add_node("place", place)
    return builder.add_edge(START, "place").add_edge("place", END)


def test_an_unknown_type_is_refused_by_name(journal: na.Journal) -> None:
    """The run fails where the value is made, and says what to do."""
    agent = na.Agent(chain(place), "placing", journal)
    with pytest.raises(errors.ValueNotKeptError) as caught:
        agent.run({"n": 1}, thread="t")
    text = str(caught.value)
    for part in ("test_allow.Point", "declare its type", "Agent(..., allow=[...])"):
        assert part in text
    saver = na.JournalSaver(journal)
    with pytest.raises(errors.ValueNotKeptError) as caught:
        graph(Undeclared).compile(checkpointer=saver).invoke({"n": 1}, CONFIG, durability="sync")
    says(caught.value, "test_allow.Point", "JournalSaver(journal, allow")


def test_a_declared_type_needs_nothing(journal: na.Journal) -> None:
    """What the state's schema names comes back as it was."""
    agent = na.Agent(graph(Declared), "placing", journal)
    assert agent.run({"n": 1}, thread="t").value == {"n": 1, "at": [Point(1, 2)]}
    assert agent.thread("t").state().values["at"] == [Point(1, 2)]


def test_an_allowed_type(journal: na.Journal) -> None:
    """For an agent, and for a plain graph with the saver."""
    agent = na.Agent(graph(Undeclared), "placing", journal, allow=[Point])
    agent.run({"n": 1}, thread="t")
    assert agent.thread("t").state().values["at"] == [Point(1, 2)]
    saver = na.JournalSaver(journal, allow=[Point])
    plain = graph(Undeclared).compile(checkpointer=saver)
    plain.invoke({"n": 1}, CONFIG)
    assert plain.get_state(CONFIG).values["at"] == [Point(1, 2)]


RESUMED = """
import notebook_agents as na
run = na.resume("t", answer="go on")
print(run.value["at"], type(run.value["at"]).__name__)
"""

BEGUN = """
from typing import Any, TypedDict
from dataclasses import dataclass
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
import notebook_agents as na

@dataclass
class Place:
    name: str

class State(TypedDict, total=False):
    at: Any
    said: str

graph = StateGraph(State).add_sequence([
    ("first", lambda state: {"at": Place("here")}),
    ("second", lambda state: {"said": interrupt(f"leave {state['at'].name}?")}),
]).add_edge(START, "first")
print(na.Agent(graph, "travel", allow=[Place]).run({"said": ""}, thread="t").status)
"""


def test_what_was_allowed_is_known_in_an_empty_kernel(python: Callable[..., Any]) -> None:
    """A class of the main program, which is nowhere else, comes back with the definition."""
    begun = python(BEGUN, script=True)
    assert (begun.code, begun.out.strip()) == (0, "waiting"), begun.err
    resumed = python(RESUMED)
    assert resumed.code == 0, resumed.err
    assert resumed.out.splitlines()[-1] == "Place(name='here') Place"


def test_what_nobody_allowed_is_not_called(tmp_path: Path, monkeypatch: Any) -> None:
    """LangGraph's msgpack can name any callable; none is, whatever the environment says."""
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "false")
    sprung = str(tmp_path / "sprung")
    codec = StateCodec(strict_serializer([Point]))
    calls = [
        ("os", "mkdir", given, *method)
        for given in (sprung, [sprung], {"path": sprung})
        for method in ((), ("touch",), (None, sprung), (None, [sprung], {}, "touch"))
    ]
    for call in calls:
        for code in range(16):
            value = ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(call)))
            with suppress(Exception):  # what is none of LangGraph's forms
                codec.loads("m", value)
    assert not Path(sprung).exists()
    value = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "mkdir", sprung))))
    JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(("msgpack", value))
    assert Path(sprung).exists()  # that is what it would do
