"""What tests of a thread's objects start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import notebook_agents as na
from notebook_agents.graph.objects import Objects
from notebook_agents.model import Kind
from notebook_agents.pickling import reopen
from notebook_agents.runtime import objects as runtime_objects
from support.checks import State, chain

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_hooks() -> Iterator[None]:
    """Have no hooks and nothing loaded at a test's start."""
    runtime_objects._stores.clear()
    yield
    reopen._hooks.clear()


def counting(journal: na.Journal) -> na.Agent:
    """Return an agent whose only node adds to what is in the objects."""

    def count(state: State) -> State:
        objects = na.objects()
        objects.setdefault("seen", []).append(state["n"])
        return {"n": state["n"] + 1}

    return na.Agent(chain(count), "counter", journal)


def fresh(journal: na.Journal, thread: str = "t") -> Objects:
    """Return a thread's objects as a process has them that has loaded none yet."""
    runtime_objects._stores.clear()
    return Objects(journal, thread)


def snapshots(journal: na.Journal, thread: str = "t") -> int:
    """Return how many snapshots a thread has."""
    return len(journal.select(thread=thread, kinds=[Kind.SNAPSHOT]))


def stored(journal: na.Journal) -> int:
    """Return the bytes of all large chunks."""
    sizes = [record.size for record in journal.select(kinds=[Kind.CHUNK])]
    return sum(size for size in sizes if size > 100_000)
