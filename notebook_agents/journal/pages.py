"""queue.sqlite and its log as pages, for what SQLite does not read any more.

The formats are those of https://www.sqlite.org/fileformat2.html (1.6 pages, 2.1 rows, 4 the log).
SQLite stops at the first damaged frame of a log, and what was committed behind it is gone without a
word. Here the frames behind it are applied too: each record says by its seal whether it is whole.
Rows are also taken from the pages themselves, when what leads to them is damaged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 32
_FRAME = 24
_TABLE_LEAF, _INDEX_LEAF, _INDEX_NODE = 0x0D, 0x0A, 0x02
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type


@dataclass(frozen=True, slots=True)
class Frame:
    """One page in the log.

    Attributes:
        page: Its number.
        commit: The database's size in pages after a commit that ends here; else 0.
        salts: What tells this turn of the log from older ones.
        content: The page.
    """

    page: int
    commit: int
    salts: bytes
    content: bytes


def frames(log: bytes, page_bytes: int) -> Iterator[Frame]:
    """Yield a log's frames, whether their checksums hold or not."""
    step = _FRAME + page_bytes
    for at in range(_HEADER, len(log) - step + 1, step):
        page, commit = struct.unpack_from(">II", log, at)
        yield Frame(page, commit, log[at + 8 : at + 16], log[at + _FRAME : at + step])


def replayed(main: bytes, log: bytes, page_bytes: int) -> bytes:
    """Return the database with every commit in its log, whatever the log's checksums say.

    Args:
        main: queue.sqlite.
        log: Its log.
        page_bytes: The size of a page.

    Returns:
        A database without a log; damaged where the frames are.
    """
    every = list(frames(log, page_bytes))
    turn = _turn(log, every)
    # What a transaction wrote that was rolled back, or never ended, has no commit behind it.
    commits = [n for n, frame in enumerate(every) if frame.commit and frame.salts == turn]
    pages = bytearray(main)
    largest = (len(main) // page_bytes) + len(every)
    for frame in every[: commits[-1] + 1 if commits else 0]:
        end = frame.page * page_bytes
        if 0 < frame.page <= largest:
            pages.extend(bytes(max(end - len(pages), 0)))
            pages[end - page_bytes : end] = frame.content
    return _without_log(bytes(pages))


def _turn(log: bytes, every: list[Frame]) -> bytes:
    """Return the salts of the newest turn: those of the header, unless no frame has them."""
    said = log[16:24]
    if not every or any(frame.salts == said for frame in every):
        return said
    return every[0].salts


def _without_log(pages: bytes) -> bytes:
    """Have the database be read as it is: in a rollback journal's mode there is no log."""
    if len(pages) < 100:
        return pages
    return pages[:18] + b"\x01\x01" + pages[20:]


def rows(pages: bytes, page_bytes: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows on every page that looks like one with rows, whatever leads to it.

    The row id stands in the place of a first column that is one (`records`), as SQLite has it; the
    other rows come as they are stored, and those of an index as its columns and the row id. What is
    torn is left out.
    """
    for start in range(0, len(pages) - page_bytes + 1, page_bytes):
        kind = pages[start]
        if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_NODE):
            continue
        (count,) = struct.unpack_from(">H", pages, start + 3)
        first = start + (12 if kind == _INDEX_NODE else 8)
        for n in range(min(count, page_bytes // 4)):
            try:
                (cell,) = struct.unpack_from(">H", pages, first + 2 * n)
                yield _row(pages, start + cell + 4 * (kind == _INDEX_NODE), kind, page_bytes)
            except (struct.error, IndexError, ValueError, UnicodeDecodeError):
                continue


def _row(pages: bytes, at: int, kind: int, page_bytes: int) -> tuple[Any, ...]:
    size, at = _varint(pages, at)
    row_id = None
    if kind == _TABLE_LEAF:
        row_id, at = _varint(pages, at)
    payload = _payload(pages, at, size, table=kind == _TABLE_LEAF, page_bytes=page_bytes)
    header, place = _varint(payload, 0)
    types = []
    while place < header:
        type_, place = _varint(payload, place)
        types.append(type_)
    columns = []
    for type_ in types:
        value, place = _value(payload, place, type_)
        columns.append(value)
    if row_id is not None and columns and columns[0] is None:
        columns[0] = row_id
    return tuple(columns)


def _payload(pages: bytes, at: int, size: int, *, table: bool, page_bytes: int) -> bytes:
    """Return a row's bytes: some in its page, the rest in a chain of others."""
    most = page_bytes - 35 if table else (page_bytes - 12) * 64 // 255 - 23
    if size > len(pages):
        raise ValueError("longer than the file")
    if size <= most:
        return pages[at : at + size]
    least = (page_bytes - 12) * 32 // 255 - 23
    here = least + (size - least) % (page_bytes - 4)
    here = here if here <= most else least
    found = bytearray(pages[at : at + here])
    (following,) = struct.unpack_from(">I", pages, at + here)
    while len(found) < size:
        start = (following - 1) * page_bytes
        if start < 0:
            raise ValueError("the chain ends early")
        (following,) = struct.unpack_from(">I", pages, start)
        found += pages[start + 4 : start + min(page_bytes, size - len(found) + 4)]
    return bytes(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return (value << 8) | byte, at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + n + 1
    raise AssertionError


def _value(data: bytes, at: int, type_: int) -> tuple[Any, int]:
    if type_ == 0:
        return None, at
    if type_ in _INTEGERS:
        end = at + _INTEGERS[type_]
        return int.from_bytes(data[at:end], "big", signed=True), end
    if type_ in (8, 9):
        return type_ - 8, at
    if type_ < 12:
        raise ValueError("no column of ours")
    end = at + (type_ - 12) // 2
    if end > len(data):
        raise ValueError("ends early")
    return (data[at:end].decode() if type_ % 2 else data[at:end]), end
