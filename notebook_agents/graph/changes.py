"""What of a graph changed between the process that started a run and the one that goes on with it.

Recorded results stand whatever changed; what has not run uses the code of now. So a changed node
is named, and one that is gone although it has to run is refused: LangGraph would go on without it
and say nothing.
"""

from __future__ import annotations

import hashlib
import sys
from types import CodeType
from typing import TYPE_CHECKING, Any

from langgraph.constants import START
from langgraph.pregel import Pregel

from notebook_agents.errors import DefinitionError
from notebook_agents.graph.private import (
    DEFAULT_ERROR_HANDLER,
    path_of,
    schema_types,
    triggered,
)
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.runtime.view import pending_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.runnables import Runnable

    from notebook_agents.graph.wrap import Graph
    from notebook_agents.journal import Journal
    from notebook_agents.journal.queue import Head

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The same source compiles to other code in another minor version."""


def fingerprints(graph: Graph) -> dict[str, Any]:
    """Return what a run's first record keeps of its graph's code.

    Returns:
        `python` (the minor version) and `nodes`: a digest for each node, `outer/inner` for those
        of subgraphs; None where a node is no function.
    """
    return {"python": _PYTHON, "nodes": _nodes(graph, "")}


def changed(kept: dict[str, Any] | None, graph: Graph) -> list[str]:
    """Return, in words, how a graph's nodes differ from those that a run was started with."""
    if kept is None:
        return []
    old, new = kept["nodes"], _nodes(graph, "")
    found = [f"{name!r} is gone" for name in sorted(old.keys() - new.keys())]
    found += [f"{name!r} is new" for name in sorted(new.keys() - old.keys())]
    if kept["python"] == _PYTHON:
        same = sorted(old.keys() & new.keys())
        found += [f"{name!r} changed" for name in same if old[name] != new[name]]
    return found


def _nodes(graph: Graph, prefix: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, node in graph.nodes.items():
        if name in (START, DEFAULT_ERROR_HANDLER):
            continue
        routes = [path for path in map(path_of, node.writers) if path is not None]
        if isinstance(node.bound, Pregel):
            found.update(_nodes(node.bound, f"{prefix}{name}/"))
            if not routes:
                continue
        found[prefix + name] = _digest([node.bound, *routes])
    return found


def _digest(runnables: list[Runnable[Any, Any]]) -> str | None:
    hashed = hashlib.blake2b(digest_size=8)
    codes = [code for each in runnables if (code := _code(each)) is not None]
    for code in codes:
        _add(hashed, code)
    return hashed.hexdigest() if codes else None


def _code(runnable: Any) -> CodeType | None:
    """Return the code of the function under a runnable, if there is one."""
    function = getattr(runnable, "func", None) or getattr(runnable, "afunc", None)
    function = getattr(function, "__wrapped__", function)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _add(hashed: Any, code: CodeType) -> None:
    """Add what a function does, and not where its source stands."""
    hashed.update(repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add(hashed, constant)
        elif isinstance(constant, frozenset):  # its order is chance
            hashed.update(repr(sorted(map(repr, constant))).encode())
        else:
            hashed.update(repr(constant).encode())


def check_nodes(
    journal: Journal,
    graph: Graph,
    head: Head,
    *,
    agent: str,
    allow: Iterable[tuple[str, ...] | type],
) -> None:
    """Refuse to go on without a node that had begun: LangGraph would skip it without a word.

    Raises:
        DefinitionError: The graph has no such node any more.
    """
    if head.driven and not journal.left_behind(head):
        return  # by another process: the claim will say by which
    pending = pending_nodes(journal, head.thread, head.run)
    saver = JournalSaver(journal, allow={*schema_types(graph), *allow})
    newest = saver.get_tuple({"configurable": {"thread_id": head.thread}})
    if newest is not None and newest.metadata.get("step", -1) >= 0:
        pending |= triggered(newest.checkpoint)
    gone = pending - graph.nodes.keys()
    if gone:
        names = ", ".join(sorted(map(repr, gone)))
        raise DefinitionError(
            f"run {head.run} of thread {head.thread!r} cannot go on: {names} has to run and "
            f"the graph of agent {agent!r} has no such node any more; give it its name "
            "back, or start another run by new=True"
        )
