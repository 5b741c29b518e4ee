"""Texts of one length that compress well, badly, and hardly at all.

A module of its own, so that a graph that is kept by value refers to it instead of holding its
vocabulary.
"""

from __future__ import annotations

import base64
import functools
import pydoc_data.topics
import re
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = 1024


def say(kind: str, *seeds: int) -> str:
    """Return `BYTES` bytes of text; the same seeds give the same text."""
    return KINDS[kind](Random(repr(seeds)))


def _words(rng: Random) -> str:
    """Return English words in no order, each as often as Python's own manual uses it."""
    words = rng.choices(_vocabulary(), k=BYTES // 2)
    return " ".join(words)[:BYTES]


@functools.cache
def _vocabulary() -> list[str]:
    return re.findall(r"[A-Za-z]+[.,]?", " ".join(pydoc_data.topics.topics.values()))


KINDS: dict[str, Callable[[Random], str]] = {
    "random words": _words,
    "random hex": lambda rng: rng.randbytes(BYTES // 2).hex(),
    "random base64": lambda rng: base64.b64encode(rng.randbytes(BYTES * 3 // 4)).decode(),
}
