"""The systems that keep a graph's checkpoints, each opened on new files of its own.

To compare another one, write how it is opened and put it into `SYSTEMS` or `ON_A_LOOP`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

import notebook_agents as na

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph import StateGraph
    from langgraph.types import Durability

    from notebook_agents.journal.store import Mode

    Builder = StateGraph[Any, Any, Any, Any]
    Opening = Callable[[Path], AbstractContextManager["Opened"]]

MEMORY, SYNC, ASYNC = "InMemorySaver", "SqliteSaver sync", "SqliteSaver async"
OURS, EXCLUSIVE = "Agent", "Agent, exclusive"
MEMORY_LOOP, SQLITE_LOOP, OURS_LOOP = "InMemorySaver", "AsyncSqliteSaver sync", "Agent.arun"

THREAD = "t"
LIMIT = 100_000
CONFIG: RunnableConfig = {"configurable": {"thread_id": THREAD}, "recursion_limit": LIMIT}


class Opened(NamedTuple):
    """A system that is open.

    Attributes:
        run: Runs a graph, which is not compiled yet, on the thread `THREAD` from an input on.
        saver: Reads and writes the thread's checkpoints.
        settle: Has what was written go where it will lie in the end.
    """

    run: Callable[[Builder, dict[str, Any]], object]
    saver: BaseCheckpointSaver[Any]
    settle: Callable[[], object] = lambda: None


def saver_of(saver: BaseCheckpointSaver[Any], durability: Durability | None) -> Opened:
    """Return a system that is a saver of LangGraph's, with a durability; None is its default."""

    def run(builder: Builder, given: dict[str, Any]) -> object:
        return builder.compile(checkpointer=saver).invoke(given, CONFIG, durability=durability)

    return Opened(run, saver)


@contextmanager
def _memory(folder: Path) -> Iterator[Opened]:
    yield saver_of(InMemorySaver(), None)


@contextmanager
def _sqlite(folder: Path, durability: Durability) -> Iterator[Opened]:
    with SqliteSaver.from_conn_string(str(folder / "saver.sqlite")) as saver:
        saver.setup()
        yield saver_of(saver, durability)


@contextmanager
def _ours(folder: Path, mode: Mode) -> Iterator[Opened]:
    with na.Journal.open(folder / "journal", mode) as journal:

        def run(builder: Builder, given: dict[str, Any]) -> object:
            agent = na.Agent(builder, name="bench", journal=journal)
            return agent.run(given, thread=THREAD, config={"recursion_limit": LIMIT})

        yield Opened(run, na.JournalSaver(journal), journal.ingest)


@contextmanager
def _memory_on_a_loop(folder: Path) -> Iterator[Opened]:
    saver = InMemorySaver()

    def run(builder: Builder, given: dict[str, Any]) -> object:
        return asyncio.run(builder.compile(checkpointer=saver).ainvoke(given, CONFIG))

    yield Opened(run, saver)


@contextmanager
def _sqlite_on_a_loop(folder: Path) -> Iterator[Opened]:
    with asyncio.Runner() as runner:
        opening = AsyncSqliteSaver.from_conn_string(str(folder / "saver.sqlite"))
        saver = runner.run(opening.__aenter__())
        runner.run(saver.setup())

        def run(builder: Builder, given: dict[str, Any]) -> object:
            graph = builder.compile(checkpointer=saver)
            return runner.run(graph.ainvoke(given, CONFIG, durability="sync"))

        yield Opened(run, saver)
        runner.run(opening.__aexit__(None, None, None))


@contextmanager
def _ours_on_a_loop(folder: Path) -> Iterator[Opened]:
    with na.Journal.open(folder / "journal") as journal:

        def run(builder: Builder, given: dict[str, Any]) -> object:
            agent = na.Agent(builder, name="bench", journal=journal)
            config: RunnableConfig = {"recursion_limit": LIMIT}
            return asyncio.run(agent.arun(given, thread=THREAD, config=config))

        yield Opened(run, na.JournalSaver(journal), journal.ingest)


SYSTEMS: Mapping[str, Opening] = {
    MEMORY: _memory,
    SYNC: partial(_sqlite, durability="sync"),
    ASYNC: partial(_sqlite, durability="async"),
    OURS: partial(_ours, mode="shared"),
    EXCLUSIVE: partial(_ours, mode="exclusive"),
}
"""Called from a thread of no event loop."""

ON_A_LOOP: Mapping[str, Opening] = {
    MEMORY_LOOP: _memory_on_a_loop,
    SQLITE_LOOP: _sqlite_on_a_loop,
    OURS_LOOP: _ours_on_a_loop,
}
"""The same, awaited."""
