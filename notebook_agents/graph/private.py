"""What this package needs of LangGraph and LangGraph does not publish: all of it, in one place.

`tests/test_private.py` is the canary: it fails when a release changes one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph._internal._constants import CONF, CONFIG_KEY_RUNTIME, NULL_TASK_ID, RESUME
from langgraph._internal._serde import build_serde_allowlist
from langgraph.graph.state import _DEFAULT_ERROR_HANDLER_NODE as DEFAULT_ERROR_HANDLER
from langgraph.runtime import ExecutionInfo
from langgraph.types import _interrupt_id as interrupt_id

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel

__all__ = [
    "DEFAULT_ERROR_HANDLER",
    "NULL_TASK_ID",
    "RESUME",
    "execution_info",
    "interrupt_id",
    "schema_types",
    "superstep",
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
