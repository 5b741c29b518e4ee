"""Plain data as records of notebooks and of objects have it: bytes, and what MessagePack has."""

from __future__ import annotations

from typing import Any

import ormsgpack


class PlainCodec:
    """Serialises bytes, and what MessagePack has."""

    objects: frozenset[type] = frozenset()
    part_types: frozenset[type] = frozenset()

    def dumps(self, value: Any, _what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of a value."""
        return ("b", value) if type(value) is bytes else ("m", ormsgpack.packb(value))

    def loads(self, tag: str, data: bytes) -> Any:
        """Return the value of a tag and its bytes."""
        return data if tag == "b" else ormsgpack.unpackb(data)

    def parts(self, value: Any) -> tuple[str, list[Any]]:
        """Nothing here has parts."""
        raise TypeError(value)

    def whole(self, tag: str, _parts: list[Any]) -> Any:
        """Nothing here has parts."""
        raise TypeError(tag)
