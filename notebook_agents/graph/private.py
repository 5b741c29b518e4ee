"""What this package needs of LangGraph and LangGraph does not publish: all of it, in one place.

`tests/test_private.py` is the canary: it fails when a release changes one of these.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CALL,
    CONFIG_KEY_RUNTIME,
    ERROR,
    RETURN,
    TASKS,
)
from langgraph._internal._serde import build_serde_allowlist
from langgraph.graph._branch import BranchSpec
from langgraph.graph.state import _DEFAULT_ERROR_HANDLER_NODE as DEFAULT_ERROR_HANDLER
from langgraph.runtime import ExecutionInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import Runnable, RunnableConfig
    from langgraph.checkpoint.base import Checkpoint
    from langgraph.pregel import Pregel

__all__ = [
    "DEFAULT_ERROR_HANDLER",
    "ERROR",
    "RETURN",
    "execution_info",
    "path_of",
    "replace_call",
    "schema_types",
    "superstep",
    "triggered",
    "with_path",
]


def execution_info(config: RunnableConfig | None) -> ExecutionInfo | None:
    """Return which task of which checkpoint a node runs as; None outside a graph."""
    runtime = (config or {}).get(CONF, {}).get(CONFIG_KEY_RUNTIME)
    info = getattr(runtime, "execution_info", None)
    return info if isinstance(info, ExecutionInfo) else None


def superstep(config: RunnableConfig | None) -> int:
    """Return the number of the superstep that a node runs in; 0 where the config does not say."""
    step = ((config or {}).get("metadata") or {}).get("langgraph_step")
    return step if isinstance(step, int) else 0


def schema_types(graph: Pregel[Any, Any, Any, Any]) -> set[tuple[str, ...]]:
    """Return (module, name) of the types that a graph's state declares."""
    builder = getattr(graph, "builder", None)
    schemas = [
        getattr(builder, name, None)
        for name in ("state_schema", "input_schema", "output_schema", "context_schema")
    ]
    channels = {
        name: channel for name, channel in graph.channels.items() if hasattr(channel, "ValueType")
    }
    found: set[tuple[str, ...]] = build_serde_allowlist(
        schemas=[schema for schema in schemas if schema is not None], channels=channels
    )
    return found


def path_of(writer: Runnable[Any, Any]) -> Runnable[Any, Any] | None:
    """Return the route function of a node's writer; None where it is no conditional edge."""
    branch = getattr(getattr(writer, "func", None), "__self__", None)
    return branch.path if isinstance(branch, BranchSpec) else None


def with_path(
    writer: Runnable[Any, Any], wrapped: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]
) -> Runnable[Any, Any] | None:
    """Return a copy of a conditional edge whose route function is wrapped; None for other writers.

    Compiling bound the edge to its function, so the copy is bound anew.
    """
    path = path_of(writer)
    if path is None:
        return None
    made: Any = copy.copy(writer)
    branch = made.func.__self__._replace(path=wrapped(path))
    made.func, made.afunc = branch._route, branch._aroute
    return made  # type: ignore[no-any-return]  # a RunnableCallable


def replace_call(
    config: RunnableConfig | None, made: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace what `@task` calls inside a node by what `made` makes of it.

    The config of a task's attempt is that attempt's own, and LangGraph's context variable holds the
    same dict.
    """
    configurable = (config or {}).get(CONF, {})
    call = configurable.get(CONFIG_KEY_CALL)
    if call is not None:
        configurable[CONFIG_KEY_CALL] = made(call)


def triggered(checkpoint: Checkpoint) -> set[str]:
    """Return the names of the nodes that a checkpoint's channels tell to run next.

    A node that waits for several others counts as soon as one of them is done.
    """
    values = checkpoint["channel_values"]
    found = {packet.node for packet in values.get(TASKS) or ()}
    for channel, value in values.items():
        kind, _, rest = channel.partition(":")
        if (kind == "branch" and rest.startswith("to:")) or (kind == "join" and value):
            found.add(rest.rpartition(":")[2])
    return found
