"""What a compaction left out: the numbers, who may still hold some, and what a killed one left.

Numbers are never given twice, so those of the records that were left out stay free. The queue and
the DuckDB file of that generation both say which they are: else they would look lost.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from notebook_agents.disk import fsync_directory, fsync_file, write_whole
from notebook_agents.errors import CompactedError
from notebook_agents.journal import unsynced
from notebook_agents.journal.records import pack_refs, unpack_refs
from notebook_agents.journal.sql import query
from notebook_agents.model import Kind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from notebook_agents.journal.records import Draft

KEY, COUNT = "compacted", "compacted_count"
"""Which numbers, and how many; keys of `meta`. The second is DuckDB's only: each burst asks it."""
LOCK = "compact.lock"
NOTE = "compact.json"
"""Is there while a compaction exchanges the DuckDB file, or after one that was killed there."""
BUILDING = ".compacting."

_MOST = 2**63

Ranges = list[tuple[int, int]]


def pack(ranges: Iterable[tuple[int, int]]) -> str:
    """Return ranges of numbers, in order, as text: what lies between them mostly takes a byte."""
    flat = [number for pair in ranges for number in pair]
    return base64.b64encode(pack_refs(flat) or b"").decode("ascii")


def unpack(packed: str) -> Ranges:
    """Return what `pack` packed.

    Raises:
        ValueError: It is something else.
    """
    flat = unpack_refs(base64.b64decode(packed, validate=True))
    ranges = list(zip(flat[::2], flat[1::2], strict=True))
    if any(not 0 < low <= high for low, high in ranges):
        raise ValueError("numbers that no record has")
    return ranges


def of(meta: Mapping[str, Any]) -> Ranges:
    """Return the ranges of numbers that compactions left out, from what `meta` says."""
    return unpack(str(meta.get(KEY, "")))


def count(ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many numbers ranges have."""
    return sum(high - low + 1 for low, high in ranges)


def joined(*several: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges of numbers that are in any of several lists, in order."""
    found: Ranges = []
    for low, high in sorted(pair for ranges in several for pair in ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def within(ranges: Ranges, number: int) -> bool:
    """Whether a number is in one of these ranges, which are in order."""
    place = bisect_right(ranges, (number, _MOST)) - 1
    return place >= 0 and number <= ranges[place][1]


# -- the exchange of the DuckDB file ---------------------------------------------------------------


def archive_name(generation: int) -> str:
    """Return the name of a generation's DuckDB file."""
    return f"journal.{generation}.duckdb"


def note(home: Path, *, before: int, after: int) -> None:
    """Write down that one generation's file is about to take the place of another's."""
    write_whole(home / NOTE, json.dumps({"before": before, "after": after}).encode())


def finish(home: Path, generation: int) -> None:
    """Remove that one of two generations which is not current, where a note names both.

    The caller holds `journal.lock`, or has the journal alone: whoever wrote the note is gone.

    Args:
        home: The journal's directory.
        generation: The current one.
    """
    if not (home / NOTE).exists() or unsynced.marked(home):
        return
    log = home / "queue.sqlite-wal"
    if log.exists():  # whoever made it current may have died before it was on disk
        fsync_file(log)
    both = _noted(home)
    if generation in both and (home / archive_name(generation)).exists():
        for other in both - {generation}:
            remove(home / archive_name(other))
        fsync_directory(home)
    (home / NOTE).unlink()
    fsync_directory(home)


def _noted(home: Path) -> set[int]:
    try:
        said = json.loads((home / NOTE).read_bytes())
        return {int(said["before"]), int(said["after"])}
    except (KeyError, TypeError, ValueError):  # it is damaged: `check` names the file that is left
        return set()


def sweep(home: Path) -> None:
    """Remove what a compaction was building; the caller holds `compact.lock`, or is alone."""
    for left in home.glob(f"{BUILDING}*"):
        left.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a DuckDB file, its log first."""
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


# -- what this process still holds -------------------------------------------------------------


class Stale:
    """Keeps drafts from being recorded that refer to what a compaction left out meanwhile.

    Each transaction reads the generation along with the newest number. Where it is another than
    before, whatever this process knew by number is forgotten, and drafts that were made with it are
    refused. A compaction spares what living drivers may refer to, so that this meets hardly anyone.

    Args:
        generation: When the journal was opened.
        forgotten: Told that there was a compaction; it must not wait.
    """

    def __init__(self, generation: int, forgotten: Callable[[], object]) -> None:
        self._generation = generation
        self._forgotten = forgotten
        self._gone: Ranges = []
        self._ended: set[tuple[str, int]] = set()

    def look(self, generation: int) -> None:
        """Have what is known by number forgotten, where this generation is another one."""
        if generation != self._generation:
            self._forgotten()

    def refuse(
        self, connection: sqlite3.Connection, generation: int, tickets: Sequence[Any]
    ) -> bool:
        """Finish the tickets that refer to what is gone; return whether any does.

        A driver of which one record was refused can write no other one: an intent must not be on
        disk without the checkpoint that it rests on.

        Args:
            connection: In the transaction that would write them.
            generation: The current one.
            tickets: What is to be written.
        """
        if generation != self._generation:
            self._gone = of(dict(connection.execute(query("queue.meta")).fetchall()))
            self._generation = generation
            self._forgotten()
        if not self._gone:
            return False
        stale = [
            draft for ticket in tickets for draft in ticket.drafts if self._refers_to_gone(draft)
        ]
        if stale:
            self._forgotten()  # it may have been read again a moment too early
        self._ended |= {(draft.thread, draft.token) for draft in stale if draft.token is not None}
        found = False
        for ticket in tickets if stale or self._ended else ():
            for draft in ticket.drafts:
                if draft in stale or (draft.thread, draft.token) in self._ended:
                    ticket.finish(_refused(draft))
                    found = True
                    break
        return found

    def _refers_to_gone(self, draft: Draft) -> bool:
        if draft.kind is Kind.DELETION:  # which may name what is gone already
            return False
        todo, seen = [draft], set[int]()
        while todo:
            one = todo.pop()
            if one.seq or id(one) in seen:
                continue
            seen.add(id(one))
            for ref in one.refs:
                if within(self._gone, ref if isinstance(ref, int) else ref.seq):
                    return True
                if not isinstance(ref, int):  # a chunk, of which somebody else's append is to come
                    todo.append(ref)
        return False


def _refused(draft: Draft) -> CompactedError:
    return CompactedError(
        f"a {draft.kind} of thread {draft.thread!r} refers to values that were deleted, and that a "
        "compaction took out of the journal since this process read them: nothing of it was "
        "recorded, run it again"
    )
