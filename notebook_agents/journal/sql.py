"""The SQL of `store/`, by name."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

from notebook_agents.resources import resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from notebook_agents.model import Kind


class Filters(TypedDict, total=False):
    """What records are selected by; None does not filter. Of a sequence any may match."""

    scope: str | None
    kinds: Iterable[Kind] | None
    run: int | None
    ns: str | None
    ref: str | None
    least_ref: str | None
    any_ref: Sequence[str] | None
    step: str | None
    steps: Sequence[str] | None
    parents: Sequence[str] | None
    name: str | None


_PARAMETER = re.compile(r"\$(\w+)")


@cache
def statements(file: str) -> dict[str, str]:
    """Return the named statements of a file in `store/`.

    A statement begins after a line `-- name: NAME` and reaches to the next such line; comments
    inside it stay.
    """
    found: dict[str, str] = {}
    text = resource("store", file).read_text(encoding="utf-8")
    for part in text.split("-- name: ")[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = body.strip().removesuffix(";")
    return found


def query(name: str) -> str:
    """Return the statement `name` of queries.sql."""
    return statements("queries.sql")[name]


def filtered(name: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a statement of queries.sql without the lines whose parameters are None.

    What is left are plain conditions: an engine passes over what its statistics rule out only
    where no `OR` stands in the way. `kinds` is written into the text, since a list of literals is
    such a condition, and a parameter is none.

    Args:
        name: The statement's name.
        given: The parameters; None leaves their lines out. `kinds` are members of `Kind`.

    Returns:
        The statement and its parameters.
    """
    used = {key: value for key, value in given.items() if value is not None}
    kinds = used.pop("kinds", None)
    text = _without(name, frozenset(used) | ({"kinds"} if kinds is not None else set()))
    if kinds is not None:
        text = text.replace("$kinds", ", ".join(f"'{kind}'" for kind in kinds) or "NULL")
    return text, used


@cache
def _without(name: str, given: frozenset[str]) -> str:
    lines = query(name).splitlines()
    return "\n".join(line for line in lines if given.issuperset(_PARAMETER.findall(line)))


def schema(name: str) -> str:
    """Return the statement group `name` of schema.sql."""
    return statements("schema.sql")[name] + ";"
