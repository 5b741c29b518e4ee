"""Whether a journal and a backup mean the same record by the same number.

A repair that loses the end of a journal, and a restore, let it go on from an earlier number. A
backup may have other records under the numbers that are given from then on. So both write down a
branch: the first such number, and an id. Two files have one history below the first branch that
only one of them knows.

Records prove it too: the end of a journal was either cut off or not, so where both have the same
record all before it are the same.
"""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any

from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    Branches = list[tuple[int, str]]

KEY = "branches"
"""In the queue's `meta`."""
_NONCE, _TAG = slice(0, 13), slice(-16, None)


def of(meta: Mapping[str, Any]) -> Branches:
    """Return the branches that a queue's `meta` tells.

    Raises:
        TypeError, ValueError: It does not say them as it should.
    """
    return [(int(first), str(name)) for first, name in json.loads(meta.get(KEY, "[]"))]


def branched(known: Iterable[tuple[int, str]], newest: int) -> str:
    """Return what `meta` says of a journal that goes on behind record `newest`.

    Args:
        known: The branches that its records are of.
        newest: Its newest record's number.
    """
    kept = sorted({one for one in known if one[0] <= newest})
    return json.dumps([*kept, (newest + 1, secrets.token_hex(8))])


def parting(
    one: Iterable[tuple[int, str]], other: Iterable[tuple[int, str]], upto: int
) -> int | None:
    """Return the first number up to `upto` that two histories gave to different records."""
    first = min((number for number, _ in set(one) ^ set(other)), default=upto + 1)
    return first if first <= upto else None


def compared(
    here: tuple[sqlite3.Connection, Path], there: tuple[sqlite3.Connection, Path], upto: int
) -> tuple[int | None, bool]:
    """Compare the newest records that a queue and a backup both have, up to number `upto`.

    Args:
        here: The queue, and the DuckDB file that goes with it, which may be unreadable.
        there: Those of the backup.
        upto: The number.

    Returns:
        The first number of two different records, or None; and whether both have record `upto`.
    """
    seqs = [row[0] for row in here[0].execute(query("queue.numbers"), {"upto": upto})] or [upto]
    mine, theirs = _payloads(*here, seqs), _payloads(*there, seqs)
    other = None
    for seq in sorted(mine.keys() & theirs.keys(), reverse=True):
        if _same(mine[seq], theirs[seq]):
            break  # one that differs before it is damaged
        other = seq
    return other, upto in mine and upto in theirs


def _same(one: bytes, other: bytes) -> bool:
    """Whether two payloads were sealed as one: damage seldom spoils both nonce and tag."""
    return one[_NONCE] == other[_NONCE] or one[_TAG] == other[_TAG]


def _payloads(
    connection: sqlite3.Connection, archive: Path, seqs: Sequence[int]
) -> dict[int, bytes]:
    """Return the payloads of those of the records that can be read."""
    import duckdb

    from notebook_agents.journal.remains import attach

    rows = connection.execute(query("queue.by_seq"), {"seqs": json.dumps(seqs)})
    found = {row[0]: bytes(row[-1]) for row in rows}
    rest = [seq for seq in seqs if seq not in found]
    if rest and archive.exists():
        try:
            with closing(attach(archive)) as opened:
                wanted = {"seqs": rest, "low": min(rest), "high": max(rest)}
                older = opened.execute(query("archive.by_seq"), wanted).fetchall()
        except (duckdb.Error, RuntimeError):
            return found  # it may be why the backup is restored
        found.update((row[0], bytes(row[-1])) for row in older)
    return found
