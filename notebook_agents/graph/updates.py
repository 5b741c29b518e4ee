"""Whether a graph can take what somebody says that one of its nodes returned.

Once recorded it is the node's result for good. Were it then refused by a reducer, or by the schema
where the next node reads it, no resume could get past it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.types import Command
from pydantic import BaseModel, ValidationError

from notebook_agents.graph.private import state_after
from notebook_agents.runtime.driver import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.runnables import RunnableConfig

    from notebook_agents.graph.wrap import Graph


class Updates:
    """What the nodes of a graph may return.

    Args:
        graph: A compiled graph.
    """

    def __init__(self, graph: Graph) -> None:
        builder = getattr(graph, "builder", None)
        self._keys: frozenset[str] | None = None
        self._model: type[BaseModel] | None = None
        if builder is None or "__root__" in graph.channels:
            return  # anything
        self._keys = frozenset(builder.channels) | frozenset(builder.managed)
        schema = builder.state_schema
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            self._model = schema

    def problem(self, value: object, config: RunnableConfig | None) -> str | None:
        """Return why the state would not take a node's result, or None.

        Args:
            value: What the node is said to have returned.
            config: The config that LangGraph gives the node.
        """
        if self._keys is None:
            return None
        if not self._is_update(value):
            keys = ", ".join(sorted(map(repr, self._keys)))
            return (
                f"is no update of its state: resolve it again with a dict that has some of {keys}"
            )
        writes = list(self._writes(value))
        try:
            state = state_after(config, writes)
        except Exception as error:  # noqa: BLE001 - a reducer is the user's
            return (
                f"is refused by the state's reducers ({describe(error)}): resolve it again with "
                "what they take"
            )
        return self._misfit(state, {name for name, _ in writes})

    def _misfit(self, state: dict[str, Any], updated: set[str]) -> str | None:
        """Return what of the updated values the state's schema refuses."""
        if self._model is None:
            return None
        try:
            self._model.model_validate(state)
        except ValidationError as error:
            for one in error.errors():
                if one["loc"] and one["loc"][0] in updated:  # the rest was so before
                    where = ".".join(map(str, one["loc"]))
                    return f"does not fit the state ({where!r}: {one['msg']}): resolve it again"
        return None

    def _is_update(self, value: object) -> bool:
        assert self._keys is not None
        if value is None or isinstance(value, Command):
            return True
        if isinstance(value, dict):
            return self._keys.issuperset(value)
        if isinstance(value, list | tuple):
            return all(map(self._is_update, value))
        return hasattr(type(value), "__annotations__")

    def _writes(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield what a result writes, channel by channel."""
        if isinstance(value, Command):
            if value.graph is None:
                yield from self._writes(value.update)
        elif isinstance(value, dict):
            yield from ((name, item) for name, item in value.items() if name in (self._keys or ()))
        elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            yield value  # a command's update may be pairs
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._writes(item)
        elif isinstance(value, BaseModel):
            yield from ((name, getattr(value, name)) for name in value.model_fields_set)
        elif value is not None:
            names = getattr(type(value), "__annotations__", {})
            yield from ((name, getattr(value, name)) for name in names if hasattr(value, name))
