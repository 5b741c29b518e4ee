"""Digests of Python values that are the same in every process."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import pathlib
import uuid
from typing import Any

from notebook_agents import pickling

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


def digest(value: Any, what: str, *, without: frozenset[str] = frozenset()) -> str:
    """Return 32 hex digits that stand for `value` in every process.

    The order of a set's elements and of a dict's keys does not count. What is neither plain data
    nor a model is pickled, and equal objects then need equal pickles.

    Args:
        value: Anything.
        what: Its name in errors.
        without: Field names of models that do not count.

    Raises:
        ValueNotKeptError: A part of it cannot be pickled.
    """
    return hashlib.blake2b(_canonical(value, what, without), digest_size=16).hexdigest()


def _canonical(value: Any, what: str, without: frozenset[str]) -> bytes:
    below = functools.partial(_canonical, what=what, without=without)
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or kind in (bool, int, float):
        return _framed("scalar", repr(value).encode())
    if kind is str:
        return _framed("str", value.encode("utf-8", "surrogatepass"))
    if kind in (bytes, bytearray):
        return _framed(name, bytes(value))
    if kind in (list, tuple):
        return _framed(name, *(below(item) for item in value))
    if kind in (set, frozenset):
        return _framed(name, *sorted(below(item) for item in value))
    if kind is dict:
        return _framed("dict", *sorted(below(key) + below(item) for key, item in value.items()))
    if isinstance(value, enum.Enum):
        return _framed(name, value.name.encode())
    if isinstance(value, _PLAIN):
        return _framed(name, repr(value).encode())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.name not in without
        }
        return _framed(name, below(fields))
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        fields = {key: item for key, item in dump().items() if key not in without}
        return _framed(name, below(fields))
    return _framed("pickle", pickling.dumps(value, what=what))


def _framed(tag: str, *parts: bytes) -> bytes:
    """Join parts so that no two different sequences of parts give the same bytes."""
    head = f"{tag}:{len(parts)}:".encode()
    return head + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
