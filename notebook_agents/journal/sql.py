"""The SQL of `store/`, by name."""

from __future__ import annotations

from functools import cache

from notebook_agents.resources import resource


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


def schema(name: str) -> str:
    """Return the statement group `name` of schema.sql."""
    return statements("schema.sql")[name] + ";"
