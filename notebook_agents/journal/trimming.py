"""Taking out of the queue what DuckDB has, a little at a time: others want to write meanwhile.

In one transaction 20,000 records of 1 KB held the write lock for 400 ms, and every step of every
process waited for it.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from notebook_agents.journal.failures import write_error
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.writer import Writer

_FIRST_PIECE = 200  # records
_PIECE_SECONDS = 0.01
_PAUSE_SECONDS = 0.002
"""Who gives a file lock back and takes it at once would win it from all that wait."""


def trim(writer: Writer, queue: Queue, newest: int) -> None:
    """Delete the records up to number `newest`, but the very last one of the queue.

    The oldest go first, so that the queue has no gap whenever this ends. A trim that a power loss
    takes back is made again by the next burst: nothing is synced for it.
    """
    first, last = queue.bounds()
    newest = min(newest, last - 1)
    piece = _FIRST_PIECE
    while first <= newest:
        upto = min(newest, first + piece - 1)
        begun = time.monotonic()
        _delete(writer, queue, upto)
        took = max(time.monotonic() - begun, 1e-6)
        piece = max(1, int(piece * min(2.0, max(0.25, _PIECE_SECONDS / took))))
        first = upto + 1
        if first <= newest:
            time.sleep(_PAUSE_SECONDS)


def _delete(writer: Writer, queue: Queue, upto: int) -> None:
    """Delete records; of what they leave only what is written anyway is overwritten.

    It is sealed, and overwriting large payloads took two thirds of a burst. Deleted data keys are
    overwritten.
    """
    try:
        with writer.alone() as (connection, log):
            connection.execute("PRAGMA secure_delete=FAST")
            try:
                connection.execute(query("queue.trim"), {"upto": upto})
                log.committed()
            finally:
                connection.execute("PRAGMA secure_delete=ON")
    except (sqlite3.Error, OSError) as error:
        raise write_error(error, queue.path) from error
