"""Plain data as records of notebooks and of objects have it: bytes, and what MessagePack has."""

from __future__ import annotations

from typing import Any

import ormsgpack

from notebook_agents.errors import ValueNotKeptError
from notebook_agents.journal.chunking import Stored


class PlainCodec:
    """Serialises bytes, and what MessagePack has."""

    objects: frozenset[type] = frozenset()
    part_types: frozenset[type] = frozenset({Stored})

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of a value.

        Raises:
            ValueNotKeptError: A part of it is stored already, or is no plain data.
        """
        if type(value) is bytes:
            return "b", value
        try:
            return "m", ormsgpack.packb(value, option=ormsgpack.OPT_PASSTHROUGH_DATACLASS)
        except TypeError as error:
            raise ValueNotKeptError(f"{what} is no plain data ({error})") from error

    def loads(self, tag: str, data: bytes) -> Any:
        """Return the value of a tag and its bytes."""
        return data if tag == "b" else ormsgpack.unpackb(data)

    def parts(self, value: Any) -> tuple[str, list[Any]]:
        """Nothing here has parts."""
        raise TypeError(value)

    def whole(self, tag: str, _parts: list[Any]) -> Any:
        """Nothing here has parts."""
        raise TypeError(tag)
