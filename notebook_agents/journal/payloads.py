"""Numbered records from either engine, and their payloads: of a long state thousands at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents.errors import SealError
from notebook_agents.journal.records import open_row, record_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_agents.journal.archive import Archive
    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.store import Journal

Row = tuple[Any, ...]


def numbered(queue: Queue, archive: Archive, seqs: Sequence[int]) -> list[Row]:
    """Return the rows of the numbered records with their payloads, in no order."""
    if not seqs:
        return []
    rows = queue.by_seq(seqs)
    missing = set(seqs).difference(row[0] for row in rows)
    first = queue.bounds()[0] if missing else 0
    if older := sorted(seq for seq in missing if seq < first):
        rows += archive.by_seq(older)
    return rows


def opened(journal: Journal, rows: Iterable[Row]) -> dict[int, tuple[Sequence[int], bytes]]:
    """Return references and opened payload of each row, by number.

    Raises:
        SealError: One does not open.
        JournalDamagedError: One has columns that no record has.
    """
    found: dict[int, tuple[Sequence[int], bytes]] = {}
    scope, key = None, None
    for row in rows:
        if key is None or scope != (row[4] or row[3]):
            scope = row[4] or row[3]
            key = journal.data_key(scope, create=False)
        try:
            found[row[0]] = open_row(row, journal_id=journal.id, key=key)
        except (SealError, TypeError, ValueError):  # another key by now, or damage: it says which
            record = record_of(row, journal.home)
            found[record.seq] = record.refs, journal.opened(record)
    return found
