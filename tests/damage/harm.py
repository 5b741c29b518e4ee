"""What can happen to files that nobody has open."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.journal.queue_file import PAGE_BYTES

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

_FRAME = PAGE_BYTES + 24
_DUCKDB_HEADERS = 3 * 4096
_DUCKDB_BLOCK = 16384
SPOILT = ("queue.sqlite", "queue.sqlite-wal", ".duckdb", ".duckdb.wal", "queue.mark", "keys.copy")


@dataclass(frozen=True)
class Harm:
    """One damage to one file.

    Attributes:
        file: The file's name.
        what: flip, zero, cut, missing.
        at: The byte where it begins.
        size: How many bytes; of a flip, which bit.
    """

    file: str
    what: str
    at: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"{self.what} {self.file} {self.at} {self.size}"

    def do(self, home: Path) -> None:
        """Spoil the file."""
        path = home / self.file
        if self.what == "missing":
            path.unlink()
            return
        content = bytearray(path.read_bytes())
        if self.what == "flip":
            content[self.at] ^= 1 << self.size
        elif self.what == "zero":
            content[self.at : self.at + self.size] = bytes(len(content[self.at :][: self.size]))
        else:
            del content[self.at :]
        path.write_bytes(content)


def pages(home: Path, file: str) -> list[tuple[int, int]]:
    """Return the pages of a file that matter, as offset and length."""
    size = (home / file).stat().st_size
    if file.endswith("-wal"):
        used = _used(home / file)
        return [(0, 32), *((at, _FRAME) for at in range(32, used, _FRAME))]
    if file == "queue.sqlite":
        return [(at, PAGE_BYTES) for at in range(0, size, PAGE_BYTES)]
    if file.endswith(".duckdb"):
        blocks = [(at, _DUCKDB_BLOCK) for at in range(_DUCKDB_HEADERS, size, _DUCKDB_BLOCK)]
        return [*((at, 4096) for at in range(0, _DUCKDB_HEADERS, 4096)), *blocks]
    return [(at, 512) for at in range(0, size, 512)]


def _used(log: Path) -> int:
    """Return where a queue's log ends: it is longer than what is in it."""
    content = log.read_bytes()
    salts, end = content[16:24], 32
    for at in range(32, len(content) - _FRAME + 1, _FRAME):
        if content[at + 8 : at + 16] == salts and struct.unpack_from(">I", content, at + 4)[0]:
            end = at + _FRAME
    return end


def files(home: Path) -> list[str]:
    """Return the names of the files that can be spoilt."""
    return sorted(p.name for p in home.iterdir() if p.name.endswith(SPOILT) and p.stat().st_size)


def each_page(home: Path, file: str, dice: random.Random) -> Iterator[Harm]:
    """Yield, for each page of a file, a flipped bit in it and an end inside it; then no file."""
    for at, length in pages(home, file):
        size = min(length, (home / file).stat().st_size - at)
        yield Harm(file, "flip", at + dice.randrange(size), dice.randrange(8))
        yield Harm(file, "cut", at + dice.choice((0, dice.randrange(size))))
    yield Harm(file, "missing")


def any_harm(home: Path, dice: random.Random) -> Harm:
    """Return some damage to some file."""
    file = dice.choice(files(home))
    at, length = dice.choice(pages(home, file))
    size = min(length, (home / file).stat().st_size - at)
    what = dice.choice(("flip", "flip", "flip", "zero", "cut", "missing"))
    if what == "flip":
        return Harm(file, what, at + dice.randrange(size), dice.randrange(8))
    if what == "zero":
        start = at + dice.randrange(size)
        return Harm(file, what, start, dice.choice((1, 64, 512, 4096)))
    return Harm(file, what, at + dice.randrange(size) if what == "cut" else 0)
