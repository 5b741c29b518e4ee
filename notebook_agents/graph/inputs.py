"""What a graph can be given, checked before anything is recorded.

LangGraph finds most of this out too, but only after a run has begun, or runs on without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.types import Command
from pydantic import BaseModel, ValidationError

from notebook_agents.errors import InputError

if TYPE_CHECKING:
    from notebook_agents.graph.wrap import Graph


def check(graph: Graph, given: Any, *, agent: str) -> None:
    """Refuse an input that the graph would not use.

    Raises:
        InputError: It is nothing, of another kind than the graph's state, has none of its keys, or
            does not validate.
    """
    builder = getattr(graph, "builder", None)
    if builder is None or isinstance(given, Command):
        return  # an @entrypoint takes anything
    known = set(builder.schemas.get(builder.input_schema, ()))
    if "__root__" in known:
        return
    if _is_class(builder) and isinstance(given, builder.input_schema):
        return
    if given is None:
        raise InputError(
            f"agent {agent!r} was given nothing to run with: give it {_names(known)}, or go on "
            "with a run by na.resume(thread)"
        )
    if not isinstance(given, dict) and not _is_pairs(given):
        raise InputError(
            f"agent {agent!r} takes a dict with {_names(known)} and was given a "
            f"{type(given).__qualname__}: nothing was run"
        )
    if known and known.isdisjoint(dict(given)):
        raise InputError(
            f"agent {agent!r} cannot use this input: it has {_names(dict(given)) or 'nothing'} and "
            f"the graph takes {_names(known)}; nothing was run"
        )
    _validate(builder.input_schema, dict(given), agent)


def _is_class(builder: Any) -> bool:
    """Whether the state is a class whose instances can be told: a TypedDict's cannot."""
    schema = builder.input_schema
    return isinstance(schema, type) and not issubclass(schema, dict)


def _is_pairs(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in given
    )


def _validate(schema: Any, given: dict[str, Any], agent: str) -> None:
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return
    try:
        schema.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"agent {agent!r} cannot use this input: {where!r} does not fit ({first['msg']}); "
            "nothing was run"
        ) from error


def _names(keys: Any) -> str:
    return ", ".join(sorted(map(repr, keys)))
