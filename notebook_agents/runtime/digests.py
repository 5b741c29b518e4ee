"""Digests of Python values that are the same in every process."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import pathlib
import types
import uuid
from typing import Any

from notebook_agents.errors import ValueNotKeptError
from notebook_agents.pickling.search import path_to

_PLAIN = (
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    pathlib.PurePath,
    uuid.UUID,
    complex,
)
_DEPTH = 100


def digest(value: Any, what: str, *, instead: str) -> str:
    """Return 32 hex digits that stand for `value` in every process.

    Equal content gives equal digests, however it is laid out in memory: the order of a set's
    elements and of a dict's keys does not count, nor whether a sequence is a list or a tuple, since
    LangGraph's state gives tuples back as lists. Functions and classes count by their names.

    Args:
        value: Anything.
        what: Its name in errors.
        instead: What to do about a value without stable content.

    Raises:
        ValueNotKeptError: A part of it has no stable content.
    """
    try:
        return hashlib.blake2b(_canonical(value, 0), digest_size=16).hexdigest()
    except _UnstableError as error:
        path = path_to(value, error.part, _reduced) or ""
        raise ValueNotKeptError(
            f"{what}{path} is a {type(error.part).__qualname__}, which has no stable content "
            f"({error.reason}): {instead}"
        ) from error


class _UnstableError(Exception):
    """A part of a value has no stable content."""

    def __init__(self, part: Any, reason: object) -> None:
        super().__init__(part, reason)
        self.part = part
        self.reason = reason


def _canonical(value: Any, depth: int) -> bytes:
    """Return bytes that are equal for equal content, and only then."""
    if depth > _DEPTH:
        raise _UnstableError(value, "nested too deep, or in itself")
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or kind in (bool, int, float):
        return _framed("scalar", repr(value).encode())
    if kind is str:
        return _framed("str", value.encode("utf-8", "surrogatepass"))
    if kind in (bytes, bytearray):
        return _framed(name, bytes(value))
    if kind in (list, tuple):
        return _framed("sequence", *(_canonical(item, depth + 1) for item in value))
    if kind in (set, frozenset):
        return _framed("set", *sorted(_canonical(item, depth + 1) for item in value))
    if kind is dict:
        return _mapping(value, depth)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return _framed("name", f"{value.__module__}.{value.__qualname__}".encode())
    if isinstance(value, enum.Enum):
        return _framed(name, value.name.encode())
    if isinstance(value, _PLAIN):
        return _framed(name, repr(value).encode())
    return _framed(name, _content(value, depth))


def _content(value: Any, depth: int) -> bytes:
    """Return the canonical content of an object: its fields, or what it would be made from."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _mapping(fields, depth)
    if callable(dump := getattr(value, "model_dump", None)):
        return _mapping(dump(), depth)
    try:
        reduced = _reduced(value)
    except Exception as error:
        raise _UnstableError(value, error) from error
    if isinstance(reduced, str):
        return reduced.encode()
    made, arguments, state, *items = (*reduced, None, None)[:5]
    parts = [made, arguments, state, *(list(some) for some in items if some is not None)]
    return _canonical(parts, depth + 1)


def _reduced(value: object) -> str | tuple[Any, ...]:
    return value.__reduce_ex__(4)


def _mapping(fields: dict[Any, Any], depth: int) -> bytes:
    return _framed(
        "dict",
        *sorted(
            _canonical(key, depth + 1) + _canonical(item, depth + 1) for key, item in fields.items()
        ),
    )


def _framed(tag: str, *parts: bytes) -> bytes:
    """Join parts so that no two different sequences of parts give the same bytes."""
    head = f"{tag}:{len(parts)}:".encode()
    return head + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
