"""Large arrays of strings, which pandas keeps as an object each: pickled as one text.

Of an array whose strings are the very objects that they were the text is known. Strings cannot be
changed in place, so this is told from the array's pointers, as fast as an array of numbers is read.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
import time
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from notebook_agents.pickling import rebuild

_FROM = 1000
"""Strings from which on an array is pickled so."""
_BETWEEN = ("\0", "\x1f", "\ufdd0")
"""What may stand between two strings: the first that is in none of them."""


class _Text(NamedTuple):
    """What is known of an array.

    Attributes:
        held: Its strings: while they live, their addresses are nobody else's.
        reduced: As `Texts.reduce` returns it, but for shape and order.
    """

    held: list[Any]
    reduced: tuple[Any, ...]


class Texts:
    """The arrays that were met in one taking of objects, and in the one before.

    Attributes:
        seconds: What it took to make the texts of arrays that were not known.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: dict[bytes, _Text] = {}
        self._met: dict[bytes, _Text] = {}

    def begin(self) -> None:
        """Forget what the taking that ended did not meet."""
        self._known, self._met, self.seconds = self._met, {}, 0.0

    def reduce(self, value: Any) -> tuple[Any, ...] | None:
        """Return what `__reduce__` may return of a large array of strings, None of anything else.

        Missing ones (None, or the NaN that pandas has for them) may be among them.
        """
        if type(value).__name__ != "ndarray":
            return None
        numpy = sys.modules.get("numpy")
        if numpy is None or type(value) is not numpy.ndarray:
            return None
        if value.dtype != object or value.size < _FROM:
            return None
        order = "F" if value.flags.f_contiguous else "C"
        flat = value.reshape(-1, order=order)
        if not flat.flags.c_contiguous:
            flat = flat.copy()
        mark = _pointers(flat)
        text = self._met.get(mark) or self._known.get(mark)
        if text is None:
            begun = time.perf_counter()
            held = flat.tolist()
            reduced = _joined(held, numpy)
            if reduced is None:
                return None
            again = numpy.empty(len(held), dtype=object)
            again[:] = held  # a thread may have changed the array since
            mark, text = _pointers(again), _Text(held, reduced)
            self.seconds += time.perf_counter() - begun
        self._met[mark] = text
        return rebuild.texts, (*text.reduced, value.shape, order)


def reduce(value: Any) -> tuple[Any, ...] | None:
    """Do as `Texts.reduce`, of what nothing is known."""
    return Texts().reduce(value) if type(value).__name__ == "ndarray" else None


def _pointers(flat: Any) -> bytes:
    """Return a digest of which objects are in a contiguous array."""
    pointers = (ctypes.c_char * flat.nbytes).from_address(flat.ctypes.data)
    return xxh3_128_digest(pointers)


def _joined(held: list[Any], numpy: Any) -> tuple[Any, ...] | None:
    """Return the arguments of `rebuild.texts` that stand for strings, None if others are there."""
    kinds = set(map(type, held))
    missing: dict[int, float | None] = {}
    if kinds != {str}:
        if str not in kinds or not kinds <= {str, float, type(None)}:
            return None
        missing = {place: one for place, one in enumerate(held) if type(one) is not str}
        if not all(one is None or one is numpy.nan for one in missing.values()):
            return None
        held = ["" if type(one) is not str else one for one in held]
    for between in _BETWEEN:
        text = between.join(held)
        if text.count(between) == len(held) - 1:
            data = text.encode("utf-8", "surrogatepass")
            return pickle.PickleBuffer(data), between, missing
    return None
