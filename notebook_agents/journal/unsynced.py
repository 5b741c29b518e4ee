"""After a sync of the log that failed.

The system says once that it could not write, and may drop what it could not: the next sync
succeeds, and proves nothing. Processes that open the file later are not told at all. So the first
one leaves a mark, and while it stands nothing is acknowledged as durable. Whoever opens the journal
next, and has it alone, writes anew what can be read, and takes the mark away.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from notebook_agents.disk import fsync_directory
from notebook_agents.journal.locks import boot_id

if TYPE_CHECKING:
    from pathlib import Path

_MARK = "queue.unsynced"


def mark(home: Path) -> None:
    """Say that a sync failed; not synced itself, since a restart of the machine ends it anyway."""
    (home / _MARK).touch(mode=0o600)
    (home / _MARK).write_text(boot_id(), encoding="ascii")


def marked(home: Path) -> bool:
    """Whether a sync failed and what it may have dropped was not written again."""
    # Asked after every sync, where the processor has just slept: exists() takes 11 us, this 5.
    return os.access(f"{home}/{_MARK}", os.F_OK)


def fold(home: Path, connection: sqlite3.Connection) -> None:
    """Write to the database what the log has; the caller has the journal alone.

    The first connection reads the log by its checksums, and the fold writes pages anew, which a
    sync can vouch for. After a restart of the machine only what is on disk is left to be read.

    Raises:
        sqlite3.Error: It could not be written.
    """
    if (home / _MARK).read_text(encoding="ascii") in ("", boot_id()):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def unmark(home: Path) -> None:
    """Say that what could be read was written again."""
    (home / _MARK).unlink()
    fsync_directory(home)


def close_unfolded(path: Path, last: sqlite3.Connection) -> None:
    """Close the last connection to a database without folding its log.

    What it read may not be what is on disk, and the fold does not look at checksums. A connection
    that cannot write folds nothing when it closes.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as keeper:
            keeper.execute("SELECT 1 FROM meta").fetchall()
            last.close()
    except sqlite3.Error:
        last.close()
