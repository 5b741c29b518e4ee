"""What appears again is stored once, and what was changed in place is never missed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from bench.cases import CASES
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import StateGraph
from pydantic import BaseModel
from test_branches import newest, put

import notebook_agents as na
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal.compact import compact
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("files", 6),
        ("small_files", 6),
        ("split_files", 6),
        ("images", 4),
        ("repeated", 120),
        ("delta", 60),
        ("long", 3),
    ],
)
def test_hard_state_is_stored_once(home: Path, name: str, steps: int) -> None:
    """All chunks together hold little more than the content; all other records stay small.

    An edited file brings its neighbours' names along, a page of lines its other lines.
    """
    case = CASES[name](1, steps)
    with na.Journal.open(home) as journal:
        agent = na.Agent(case.builder, name="grows", journal=journal)
        agent.run(case.given, thread="t", config={"recursion_limit": 10 * steps})
        ((held,),) = journal.sql("SELECT sum(size) FROM records WHERE kind = 'chunk'")
        ((largest,),) = journal.sql(
            "SELECT max(octet_length(payload)) FROM records WHERE kind <> 'chunk'"
        )
        assert held / case.content < 1.35
        assert largest < 1000


def test_what_is_sent_to_many_is_read_back(home: Path) -> None:
    """A state whose large dicts and lists are branches comes back as it was, keys in order."""
    case = CASES["split_files"](1, 2)
    with na.Journal.open(home) as journal:
        agent = na.Agent(case.builder, name="grows", journal=journal)
        value = agent.run(case.given, thread="t").value
        journal.ingest()
    with na.Journal.open(home) as journal:
        state = na.Agent(case.builder, name="grows", journal=journal).thread("t").state()
        assert state.values == value
        assert list(state.values["files"]) == list(case.given["files"])


def test_a_fork_has_the_branches_of_its_deleted_original(home: Path) -> None:
    """What a fork and a copy refer to by branches is there when the first thread is gone."""
    case = CASES["small_files"](1, 2)
    with na.Journal.open(home) as journal:
        agent = na.Agent(case.builder, name="grows", journal=journal)
        value = agent.run(case.given, thread="t").value
        agent.fork("t", name="fork")
        JournalSaver(journal).copy_thread("t", "copy")
        journal.delete_thread("t")
        compact(journal)
    with na.Journal.open(home) as journal:
        agent = na.Agent(case.builder, name="grows", journal=journal)
        for thread in ("fork", "copy"):
            assert agent.thread(thread).state().values == value


@pytest.mark.parametrize("steps", [24, 25, 49, 50])
def test_a_delta_channel_is_rebuilt_from_a_shared_snapshot(home: Path, steps: int) -> None:
    """The state comes back the same before, at and behind the snapshots, in another process."""
    case = CASES["delta"](1, steps)
    with na.Journal.open(home) as journal:
        agent = na.Agent(case.builder, name="grows", journal=journal)
        value = agent.run(case.given, thread="t", config={"recursion_limit": 200}).value
    with na.Journal.open(home) as journal:
        state = na.Agent(case.builder, name="grows", journal=journal).thread("t").state()
        assert state.values["messages"] == value["messages"]
        assert len(value["messages"]) == 2 * steps


def test_short_texts_of_a_large_dict_share_chunks(journal: na.Journal) -> None:
    """A record for each would be half empty pages; an edit writes a group, and comes back."""
    files = {f"/work/{i}": f"{i} line " * 40 for i in range(2000)}
    saver = JournalSaver(journal)
    put(saver, 1, {"files": files})
    assert len(journal.select(kinds=[Kind.CHUNK])) < 400
    before = journal.newest()
    files["/work/77"] += "edited"
    put(saver, 2, {"files": files})
    assert journal.newest() - before < 6
    found = newest(journal)["files"]
    assert list(found) == list(files)
    assert found == files


@dataclass
class Point:
    """Something of the user's own."""

    x: int


class Model(BaseModel):
    """Something of the user's own that pydantic checks."""

    x: int
    inner: list[int]


def _array() -> Any:
    return pytest.importorskip("numpy").zeros(100)


def _put(value: Any, key: Any, item: Any) -> None:
    value[key] = item


LONG = "long enough to be a chunk of its own " * 10
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "an element": (lambda: [LONG, "b"], lambda v: _put(v, 1, "c")),
    "an element more": (lambda: [LONG], lambda v: v.append("c")),
    "an element among a hundred": (
        lambda: [[f"{i} {LONG}"] for i in range(100)],
        lambda v: _put(v[40], 0, "c"),
    ),
    "deep in a dict": (
        lambda: {"a": {"b": [{"c": LONG}]}},
        lambda v: _put(v["a"]["b"][0], "c", "other"),
    ),
    "a key of the same value": (lambda: {"a": None, LONG: 1}, lambda v: _put(v, "b", v.pop("a"))),
    "a number by an equal one": (lambda: [1, LONG], lambda v: _put(v, 0, True)),
    "an element from list to list": (
        lambda: [[LONG, "y"], ["z"]],
        lambda v: v[1].insert(0, v[0].pop()),
    ),
    "a message's content": (
        lambda: [HumanMessage(LONG, id="1")],
        lambda v: setattr(v[0], "content", "other"),
    ),
    "a block of a message": (
        lambda: [HumanMessage([{"type": "text", "text": LONG}], id="1")],
        lambda v: _put(v[0].content[0], "text", "other"),
    ),
    "what a provider added": (
        lambda: [AIMessage(LONG, id="1")],
        lambda v: _put(v[0].additional_kwargs, "k", 1),
    ),
    "a field that no message has": (
        lambda: [AIMessage(LONG, id="1")],
        lambda v: setattr(v[0], "mood", "good"),
    ),
    "an argument of a tool call": (
        lambda: [AIMessage("", id="1", tool_calls=[{"name": "t", "args": {"q": LONG}, "id": "c"}])],
        lambda v: _put(v[0].tool_calls[0]["args"], "q", "other"),
    ),
    "a bytearray": (lambda: bytearray(500), lambda v: _put(v, 7, 1)),
    "a small bytearray": (lambda: bytearray(5), lambda v: _put(v, 3, 1)),
    "a small bytearray among others": (
        lambda: {"a": [LONG, bytearray(5)], "b": bytearray(5)},
        lambda v: (_put(v["a"][1], 3, 1), _put(v["b"], 3, 1)),
    ),
    "a set": (lambda: {LONG}, lambda v: v.clear()),
    "a numpy array": (_array, lambda v: _put(v, 7, 1.0)),
    "a dataclass": (lambda: Point(1), lambda v: setattr(v, "x", 2)),
    "a dataclass in a list": (lambda: [LONG, Point(1)], lambda v: setattr(v[1], "x", 2)),
    "a pydantic model": (lambda: Model(x=1, inner=[1]), lambda v: v.inner.append(2)),
}


class State(TypedDict, total=False):
    """One object in two channels."""

    n: int
    held: Any
    other: Any
    said: str


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_is_changed_in_place_is_never_missed(
    home: Path, change: str, dies: Callable[[Callable[[], object]], None], tmp_path: Path
) -> None:
    """A node changes an object of the state and returns nothing of it: a resume has the change.

    The process dies in the step behind it; the object is in two channels, both of them have it.
    """
    make, apply = CHANGES[change]
    wanted = make()
    apply(wanted)
    mark = tmp_path / "died"

    def first(state: State) -> State:
        value = make()
        return {"held": value, "other": value}

    def second(state: State) -> State:
        return {"n": 1}  # a checkpoint with the value as it was

    def third(state: State) -> State:
        apply(state["held"])
        return {"n": 2}

    def fourth(state: State) -> State:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"said": repr((state["held"], state["other"]))}

    def run() -> Any:
        builder = StateGraph(State)
        builder.add_sequence([first, second, third, fourth])
        builder.set_entry_point("first")
        with na.Journal.open(home) as journal:
            agent = na.Agent(builder, name="changes", journal=journal, allow=[Point, Model])
            return agent.run({"n": 0}, thread="t").value["said"]

    dies(run)
    assert run() == repr((wanted, wanted))
