"""How values of a graph become bytes.

State goes through LangGraph's msgpack serialiser with its strict allow-list. What a step returned
must come back with the very types it had, and msgpack turns tuples into lists and exceptions into
text: so a recorded result uses msgpack only for what it keeps faithfully, and that part is then
byte for byte what the state holds, hence stored once. All the rest is pickled; it was sealed by
this journal's own key, so it is loaded only if this user wrote it.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import ormsgpack
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.event_hooks import register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint
from langgraph.types import Command, Send

from notebook_agents import pickling
from notebook_agents.errors import ValueNotKeptError
from notebook_agents.graph.private import DeltaSnapshot, unpacker
from notebook_agents.runtime.driver import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

_MESSAGES = frozenset({AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage})
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_STRINGS = frozenset({str})
_NATIVE = frozenset({str, int, float, bool, list, dict})  # LangGraph tags bytes and None itself
_TAGS = {"msgpack": "m", "bytes": "b", "bytearray": "a", "null": "n"}
_TYPES = {tag: type_ for type_, tag in _TAGS.items()}
_PICKLED = "p"
_COMMAND = ("graph", "update", "resume", "goto")

_blocked: ContextVar[list[str] | None] = ContextVar("na_blocked", default=None)


def _note_blocked(event: Any) -> None:
    collected = _blocked.get()
    if collected is not None and event["kind"] == "msgpack_blocked":
        collected.append(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note_blocked)


def strict_serializer(allow: Iterable[tuple[str, ...] | type] = ()) -> JsonPlusSerializer:
    """Return LangGraph's serialiser with its strict allow-list and the given types besides."""
    serializer = JsonPlusSerializer(allowed_msgpack_modules=None)
    return serializer.with_msgpack_allowlist(tuple(allow))


class StateCodec:
    """Serialises what goes into a graph's state.

    Args:
        serializer: LangGraph's serialiser; what it would not give back as it was is refused.
    """

    def __init__(self, serializer: Any) -> None:
        self.serializer = serializer
        self._unpack = unpacker(serializer)
        self._restorable: set[type] = set()

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of a value.

        Raises:
            ValueNotKeptError: It does not serialise, or would come back as something else.
        """
        packed = _packed(value)
        if packed is not None:
            return "m", packed
        try:
            type_, data = self.serializer.dumps_typed(value)
        except Exception as error:
            raise ValueNotKeptError(
                f"{what} is a {_type_name(value)}, which LangGraph's state serialiser does not "
                f"take ({error}): keep plain data, messages or pydantic models in the state"
            ) from error
        if not faithful(value):
            self._check(value, type_, data, what)
        return _TAGS.get(type_, type_), bytes(data)  # a bytearray comes back as the very object

    def loads(self, tag: str, data: bytes) -> Any:
        """Return the value of a tag and its bytes."""
        if tag == _PICKLED:
            return pickling.loads(data)
        if tag == "m":
            return self._unpack(data)
        return self.serializer.loads_typed((_TYPES.get(tag, tag), data))

    objects: frozenset[type] = _MESSAGES
    part_types: frozenset[type] = frozenset({Send, Command, entrypoint.final, DeltaSnapshot})

    def parts(self, value: Any) -> tuple[str, list[Any]]:
        """Take what carries state apart, so that the state is shared."""
        if isinstance(value, Send):
            rest = [getattr(value, "timeout", None)]
            return ("send", [value.node, value.arg, *(rest if rest != [None] else [])])
        if isinstance(value, entrypoint.final):
            return ("final", [value.value, value.save])
        if isinstance(value, DeltaSnapshot):
            return ("delta", [value.value])
        return ("command", [getattr(value, name) for name in _COMMAND])

    def whole(self, tag: str, parts: list[Any]) -> Any:
        """Put together again what `parts` took apart."""
        if tag == "send":
            node, arg, *timeout = parts
            return Send(node, arg, timeout=timeout[0]) if timeout else Send(node, arg)
        if tag == "final":
            return entrypoint.final(value=parts[0], save=parts[1])
        if tag == "delta":
            return DeltaSnapshot(parts[0])
        return Command(**dict(zip(_COMMAND, parts, strict=True)))

    def _check(self, value: Any, type_: str, data: bytes, what: str) -> None:
        """Refuse what the strict allow-list would give back as a plain dict."""
        kind = type(value)
        if kind in self._restorable:
            return
        collected: list[str] = []
        token = _blocked.set(collected)
        try:
            loaded = self.serializer.loads_typed((type_, data))
        except Exception as error:
            raise ValueNotKeptError(
                f"{what} is a {_type_name(value)}, which does not load again ({error})"
            ) from error
        finally:
            _blocked.reset(token)
        if collected or (type(loaded) is not kind and kind is not tuple):
            lost = collected[0] if collected else _type_name(value)
            raise ValueNotKeptError(
                f"{what} holds a {lost}, which would not come back as one: declare its type in the "
                "state's schema, or allow it with JournalSaver(journal, allow=[...]) or "
                "Agent(..., allow=[...])"
            )
        if not isinstance(value, list | tuple | dict | set | frozenset):
            self._restorable.add(kind)  # a container may hold another type next time


class ResultCodec(StateCodec):
    """Serialises what a step returned, with the types it had.

    Args:
        serializer: LangGraph's serialiser.
        into_state: The values also go into the state: what the state would refuse is refused here,
            so that the step fails and not the graph after it.
    """

    def __init__(self, serializer: Any, *, into_state: bool = False) -> None:
        super().__init__(serializer)
        self._into_state = into_state

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of a value.

        Raises:
            ValueNotKeptError: It cannot be kept.
        """
        packed = _packed(value)
        if packed is not None:
            return "m", packed
        plain = type(value) in _NATIVE and faithful(value, native=True)  # and did not pack
        if not plain and faithful(value):
            with suppress(Exception):  # an artifact may hold an integer beyond 64 bits
                type_, data = self.serializer.dumps_typed(value)
                return _TAGS.get(type_, type_), data
        if self._into_state:
            super().dumps(value, what)
        return _PICKLED, pickling.dumps(value, what=what)


def keep_error(error: BaseException) -> tuple[str, bytes]:
    """Return a tag and the bytes of what a node raised: an error handler meets it again.

    An exception that cannot be kept is kept as a RuntimeError that says what it was.
    """
    try:
        return _PICKLED, pickling.dumps(error, what="the error")
    except Exception:  # noqa: BLE001 - whatever a foreign error's reducer raises
        return _PICKLED, pickling.dumps(RuntimeError(describe(error)), what="the error")


def _packed(value: Any) -> bytes | None:
    """Return `value` in MessagePack if it is nothing but plain data that comes back as it is.

    Not so are integers beyond 64 bits and strings that are no valid Unicode: LangGraph's own
    packing would replace characters in them.
    """
    if type(value) in _NATIVE and faithful(value, native=True):
        try:
            return ormsgpack.packb(value)
        except ormsgpack.MsgpackEncodeError:
            return None
    return None


def faithful(value: Any, *, native: bool = False) -> bool:
    """Whether msgpack gives `value` back exactly as it is, if it takes it at all.

    Args:
        value: Anything.
        native: Without LangGraph's extensions, that is, without messages.
    """
    try:
        return _faithful(value, native=native)
    except RecursionError:  # it holds itself, or lies deeper than msgpack goes
        return False


def _faithful(value: Any, *, native: bool) -> bool:
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is list:
        items = value
    elif kind is dict and _STRINGS.issuperset(map(type, value)):
        items = value.values()
    elif kind in _MESSAGES and not native and not value.model_extra:
        items = value.__dict__.values()
    else:
        return False
    if _ATOMS.issuperset(map(type, items)):
        return True
    for item in items:  # what needs no look inside is told here: this is done for each message
        kind = type(item)
        plain = kind in _ATOMS or (kind in _NATIVE and not item)
        if not plain and not _faithful(item, native=native):
            return False
    return True


def _type_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
