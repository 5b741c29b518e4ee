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


def digest(value: Any, what: str) -> str:
    """Return 32 hex digits that stand for `value` in every process.

    Equal content gives equal digests, however it is laid out in memory: the order of a set's
    elements and of a dict's keys does not count, nor whether a sequence is a list or a tuple, since
    LangGraph's state gives tuples back as lists. Functions and classes count by their names.

    Args:
        value: Anything.
        what: Its name in errors.

    Raises:
        ValueNotKeptError: A part of it has no stable content.
    """
    return hashlib.blake2b(_Walk(what).canonical(value, 0), digest_size=16).hexdigest()


class _Walk:
    """One walk through a value."""

    def __init__(self, what: str) -> None:
        self._what = what

    def canonical(self, value: Any, depth: int) -> bytes:
        """Return bytes that are equal for equal content, and only then."""
        if depth > _DEPTH:
            raise ValueNotKeptError(f"{self._what} cannot be told apart: nested too deep")
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if value is None or kind in (bool, int, float):
            return _framed("scalar", repr(value).encode())
        if kind is str:
            return _framed("str", value.encode("utf-8", "surrogatepass"))
        if kind in (bytes, bytearray):
            return _framed(name, bytes(value))
        if kind in (list, tuple):
            return _framed("sequence", *(self.canonical(item, depth + 1) for item in value))
        if kind in (set, frozenset):
            return _framed("set", *sorted(self.canonical(item, depth + 1) for item in value))
        if kind is dict:
            return self._mapping(value, depth)
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return _framed("name", f"{value.__module__}.{value.__qualname__}".encode())
        if isinstance(value, enum.Enum):
            return _framed(name, value.name.encode())
        if isinstance(value, _PLAIN):
            return _framed(name, repr(value).encode())
        return _framed(name, self._content(value, depth))

    def _content(self, value: Any, depth: int) -> bytes:
        """Return the canonical content of an object: its fields, or what it would be made from."""
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return self._mapping(fields, depth)
        if callable(dump := getattr(value, "model_dump", None)):
            return self._mapping(dump(), depth)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise ValueNotKeptError(
                f"{self._what} cannot be told apart: a {type(value).__qualname__} has no stable "
                f"content ({error})"
            ) from error
        if isinstance(reduced, str):
            return reduced.encode()
        made, arguments, state, *items = (*reduced, None, None)[:5]
        parts = [made, arguments, state, *(list(some) for some in items if some is not None)]
        return self.canonical(parts, depth + 1)

    def _mapping(self, fields: dict[Any, Any], depth: int) -> bytes:
        return _framed(
            "dict",
            *sorted(
                self.canonical(key, depth + 1) + self.canonical(item, depth + 1)
                for key, item in fields.items()
            ),
        )


def _framed(tag: str, *parts: bytes) -> bytes:
    """Join parts so that no two different sequences of parts give the same bytes."""
    head = f"{tag}:{len(parts)}:".encode()
    return head + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
