"""Recorded values as plain data, for whoever looks at them and must not run anything.

MessagePack is unpacked with a hook that makes nothing: where LangGraph would call a constructor,
here stands a dict with the type's name. A pickle is not loaded; its opcodes are read for the name
of its type.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import ormsgpack
from langgraph.checkpoint.serde import jsonplus

from notebook_agents.graph.codec import ResultCodec, strict_serializer

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPE = "@type"
"""The key that names the type of what is told as a dict."""
_LOOKED_BYTES = 64 * 1024
"""Bytes of a pickle up to which all its opcodes are read: a few ms."""
_LOOKED_OPCODES = 400
_QUIET_OPCODES = frozenset({"STOP", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})
_BUILT = {
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"), "tuple"),
    **dict.fromkeys(("LIST", "EMPTY_LIST", "APPEND", "APPENDS"), "list"),
    **dict.fromkeys(("DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"), "dict"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS"), "set"),
    "FROZENSET": "frozenset",
    **dict.fromkeys(("LONG", "LONG1", "LONG4"), "int"),
    **dict.fromkeys(("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"), "str"),
}
_MAKERS = ("cloudpickle.", "dill.", "copyreg.", "notebook_agents.")


@dataclass(frozen=True, slots=True)
class Pickled:
    """Stands for a pickle that was not loaded.

    Attributes:
        type: The name of its type, as far as its opcodes tell; None where they do not.
        size: Its bytes.
    """

    type: str | None
    size: int

    def __str__(self) -> str:
        return f"<pickle of {self.type or 'an object'}, {self.size:,} bytes: not opened>"


class InertCodec(ResultCodec):
    """Reads what `ResultCodec` and `StateCodec` wrote as plain data; makes no object of a type."""

    def __init__(self) -> None:
        super().__init__(strict_serializer())

    def loads(self, tag: str, data: bytes) -> Any:
        """Return plain data, or a `Pickled`."""
        match tag:
            case "m":
                return unpacked(data)
            case "b" | "a":
                return bytes(data)
            case "n":
                return None
            case "p":
                return Pickled(pickled_type(data), len(data))
        return Pickled(tag[:100], len(data))  # written by a serialiser of the user's own

    def whole(self, tag: str, parts: list[Any]) -> Any:
        """Return the parts of an object of LangGraph's under its name."""
        return {TYPE: tag, "parts": parts}


def unpacked(data: bytes) -> Any:
    """Return what MessagePack as LangGraph writes it says, as plain data."""
    return ormsgpack.unpackb(data, ext_hook=_told, option=ormsgpack.OPT_NON_STR_KEYS)


def _told(code: int, data: bytes) -> Any:
    """Return what an extension would be made of, with the name of its type."""
    if code == jsonplus.EXT_DELTA_SNAPSHOT:
        return {TYPE: "delta", "value": unpacked(data)}
    held: Sequence[Any] = unpacked(data)
    if code == jsonplus.EXT_NUMPY_ARRAY:
        dtype, shape, *_ = held
        return {TYPE: "numpy.ndarray", "dtype": str(dtype), "shape": list(shape)}
    module, name, given = held[:3]
    if code == jsonplus.EXT_METHOD_SINGLE_ARG:  # a date from its ISO text
        return given
    if isinstance(given, dict):
        return {TYPE: f"{module}.{name}", **given}
    if code == jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG and isinstance(given, str | int | float):
        return given
    return {TYPE: f"{module}.{name}", "value": given}


def pickled_type(data: bytes) -> str | None:
    """Return the name of a pickle's type, as far as its opcodes tell; nothing is loaded.

    Args:
        data: A pickle behind the byte that names its engine, see `pickling/codec.py`.
    """
    last, named = "", []
    strings: list[str] = []
    small = len(data) <= _LOOKED_BYTES
    try:
        opcodes = pickletools.genops(data[1:] if small else data[1:_LOOKED_BYTES])
        for opcode, given, _ in opcodes if small else islice(opcodes, _LOOKED_OPCODES):
            if opcode.name not in _QUIET_OPCODES:
                last = opcode.name
            if opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                named.append(".".join(strings[-2:]))
            elif isinstance(given, str):
                strings.append(given)
    except Exception:  # noqa: BLE001 - whatever is no pickle
        return None
    if small and last in _BUILT:
        return _BUILT[last]
    for name in named:
        if not name.startswith(_MAKERS) and not name.rpartition(".")[2].startswith("_"):
            return name[:200]
    return None
