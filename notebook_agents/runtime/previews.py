"""Short texts for what a call was given and what it returned, for people to recognise it by.

A preview costs the same for a huge value as for a small one, and runs no code of the value's own:
no `__repr__` of a foreign class is called, no large container is walked through or sorted.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from itertools import islice
from typing import TYPE_CHECKING, Any

from notebook_agents import hiding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LIMIT = 400
"""Characters of a preview."""
_ITEMS = 12
_DEPTH = 4
_BITS = 256
_PLAIN = (
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
    range,
    float,
    complex,
    bool,
    type(None),
)
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


class _FullError(Exception):
    """There is no room for more."""


class _Text:
    """A text that grows up to a limit."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self.left = limit
        self.secrets: Mapping[str, str] | None = None

    def put(self, text: str) -> None:
        if len(text) > self.left:
            self._parts.append(text[: max(self.left - 1, 0)] + "…")
            self.left = 0
            raise _FullError
        self._parts.append(text)
        self.left -= len(text)

    def __str__(self) -> str:
        return "".join(self._parts)


def of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, limit: int = LIMIT) -> str:
    """Return the arguments of a call as they would stand between its parentheses, cut."""
    text = _Text(limit)
    try:
        for number, value in enumerate(args):
            text.put(", " if number else "")
            _write(value, text, 0)
        for number, (name, value) in enumerate(kwargs.items()):
            text.put(f"{', ' if number or args else ''}{name}=")
            _write(value, text, 0)
    except _FullError:
        pass
    except Exception:  # noqa: BLE001 - a value that changes meanwhile; a preview breaks nothing
        return f"{text}…"
    return str(text)


def of_value(value: Any, *, limit: int = LIMIT) -> str:
    """Return a value as it would be written, cut."""
    return of_call((value,), {}, limit=limit)


def _write(value: Any, text: _Text, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bytes:
        if kind is str and len(value) >= hiding.SHORTEST:
            value = _hidden(value, text)
        shown = repr(value[: text.left])
        text.put(shown if len(value) <= text.left else shown + "…")
    elif kind is int:
        bits = value.bit_length()
        text.put(repr(value) if bits <= _BITS else f"<int of {bits} bits>")
    elif isinstance(value, enum.Enum):
        text.put(f"{kind.__name__}.{value.name}")
    elif kind in _PLAIN or isinstance(value, pathlib.PurePath):
        text.put(repr(value))
    elif kind is dict:
        items = ((f"{of_value(key, limit=60)}: ", item) for key, item in value.items())
        _write_all("{", items, "}", len(value), text, depth)
    elif kind in _BRACKETS:
        opening, closing = _BRACKETS[kind]
        _write_all(opening, (("", item) for item in value), closing, len(value), text, depth)
    elif callable(value):
        text.put(f"<{_name(value if hasattr(value, '__qualname__') else kind)}>")
    else:
        _write_object(value, text, depth)


def _hidden(value: str, text: _Text) -> str:
    """Return as much of a string as may be shown, and no secret of the environment."""
    if text.secrets is None:
        text.secrets = hiding.known_secrets()
    longest = max(map(len, text.secrets.values()), default=0)
    return hiding.hide(value[: text.left + longest + 1], text.secrets)


def _write_all(
    opening: str,
    items: Iterable[tuple[str, Any]],
    closing: str,
    size: int,
    text: _Text,
    depth: int,
) -> None:
    text.put(opening)
    if depth >= _DEPTH and size:
        text.put(f"…{closing}")
        return
    for number, (label, item) in enumerate(islice(items, _ITEMS)):
        text.put((", " if number else "") + label)
        _write(item, text, depth + 1)
    if size > _ITEMS:
        text.put(f", … {size - _ITEMS:,} more")
    text.put(closing)


def _write_object(value: Any, text: _Text, depth: int) -> None:
    """Write an object by its fields, where it is made of fields, or by its class and shape."""
    kind = type(value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        fields = [(name, getattr(value, name, None)) for name in names]
    elif hasattr(kind, "model_fields"):  # pydantic's, LangChain's messages among them
        fields = [(name, item) for name, item in vars(value).items() if not _empty(item)]
    elif isinstance(shape := getattr(value, "shape", None), tuple):
        text.put(f"<{_name(kind)} of shape {shape}>")
        return
    else:
        text.put(f"<{_name(kind)}>")
        return
    labelled = ((f"{name}=", item) for name, item in fields)
    _write_all(f"{kind.__name__}(", labelled, ")", len(fields), text, depth)


def _name(named: Any) -> str:
    return str(named.__qualname__).rpartition("<locals>.")[2]


def _empty(value: Any) -> bool:
    return value is None or (type(value) in (dict, list, str) and not value)
