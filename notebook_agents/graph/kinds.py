"""How a notebook's variables keep what belongs to this process: agents, runs, journals.

An agent is made again from its graph. A journal is opened again, once. A run is looked up in its
journal when it is asked for something. Elsewhere, in a step's result say, these are not kept.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from notebook_agents.graph.agent import Agent
from notebook_agents.graph.folder import journal_at
from notebook_agents.graph.run import Run
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Journal


def reduce(value: object) -> tuple[Any, ...] | None:
    """Return what `__reduce__` may return, or None where the object is of no such kind."""
    if isinstance(value, Agent):
        kept = (value.allow, value.prices, value.ttl, value.show, value._module)
        return _agent, (value.given, value.name, value._journal, *kept)
    if isinstance(value, Run):
        return _run, (value.journal, value.thread, value.number, value.stored, value._allow)
    if isinstance(value, Journal):
        return journal_at, (str(value.home), value.mode)
    if isinstance(value, Pregel) and isinstance(value.checkpointer, BaseCheckpointSaver):
        return _saved, (value.copy({"checkpointer": None}), value.checkpointer)
    if isinstance(value, JournalSaver):
        return _saver, (value.journal, value.allow)
    return None


def _agent(given: Any, name: str, journal: Journal | None, *options: Any) -> Agent:
    allow, prices, ttl, show, module = options
    settings: Any = {"allow": allow, "prices": prices, "ttl": ttl, "show": show}
    made = Agent(given, name, journal, auto_resume=0, **settings)
    made._module = module
    return made


def _run(journal: Journal, thread: str, number: int, stored: bool, allow: Any) -> Run:  # noqa: FBT001 - positional in a pickle
    return Run(journal, thread, number, stored=stored, allow=allow)


def _saved(graph: Any, saver: Any) -> Any:
    return graph.copy({"checkpointer": saver})


def _saver(journal: Journal, allow: Any) -> JournalSaver:
    return JournalSaver(journal, allow=allow)
