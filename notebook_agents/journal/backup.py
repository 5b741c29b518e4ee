"""Backups of a journal: made while it is in use, read back, kept, and put back.

A backup holds everything but the master key: records stay sealed, and a backup without the key that
sealed them is worth nothing. Keep a copy of that key elsewhere.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING

from notebook_agents import clock
from notebook_agents.disk import fsync_directory, make_directory
from notebook_agents.errors import JournalBusyError, NotebookAgentsError
from notebook_agents.journal.backup_files import (
    Backup,
    copy_archive,
    copy_queue,
    read_back,
    read_backup,
    write_manifest,
)
from notebook_agents.journal.failures import writing
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.queue_file import FILE
from notebook_agents.journal.restore import Report, restore
from notebook_agents.journal.store import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["Backup", "Report", "backup", "backups", "newest_backup", "restore"]

FOLDER = "backups"
_WAIT_SECONDS = 30.0


def backup(home: Path, dest: Path | None = None) -> Backup:
    """Back a journal up while any number of processes uses it.

    Appends go on meanwhile; reads of older history wait for the time that DuckDB's file is copied.

    Args:
        home: The journal's directory.
        dest: The folder that the backup's own directory is made in, named after the time. None:
            `backups` in the journal's directory.

    Returns:
        The backup, on disk and read back.

    Raises:
        NoJournalError: There is no journal.
        JournalBusyError: Another backup is being made, or another process keeps DuckDB open.
        JournalDamagedError: The journal has a damage that a backup would only repeat.
        SealError: A record does not open.
        JournalWriteError: The disk is full or fails; what was begun is removed.
    """
    folder = home / FOLDER if dest is None else dest
    with backing_up(home, folder) as journal:
        return make(journal, folder)


@contextmanager
def backing_up(home: Path, folder: Path) -> Iterator[Journal]:
    """Open a journal for a backup in a folder: nobody else makes or removes one in the block.

    Raises:
        NoJournalError, JournalBusyError, JournalDamagedError, JournalWriteError: See `backup`.
    """
    lock = FileLock(home / "backup.lock")
    with Journal.open(home, create=False, scheduled=False) as journal:
        try:
            with writing(folder):
                if not lock.acquire(_WAIT_SECONDS):
                    raise JournalBusyError(
                        f"process {lock.holder()} is making a backup of {home}: wait for it"
                    )
                lock.write_holder()
                yield journal
        finally:
            lock.close()


def make(journal: Journal, folder: Path) -> Backup:
    """Make a backup; see `backing_up`."""
    created = clock.from_us(clock.now_us()).astimezone(UTC)
    make_directory(folder)
    for left in folder.glob(f".{journal.id[:8]}-*"):  # by a process that died: we have the lock
        shutil.rmtree(left)
    name = _name(folder, created)
    building = folder / f".{journal.id[:8]}-{name}"
    building.mkdir(mode=0o700)
    try:
        with journal.burst() as connection:  # until both are copied nothing moves between them
            generation = journal.generation
            summary = copy_archive(connection, building / f"journal.{generation}.duckdb")
            copy_queue(journal.home / FILE, building / FILE)
        with journal.reading():  # forks wait: a child must not be born with DuckDB open
            seen = read_back(building, journal, summary)
        write_manifest(building, journal.id, created=created, seen=seen)
        building.rename(folder / name)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    fsync_directory(folder)
    return read_backup(folder / name)


def _name(folder: Path, created: datetime) -> str:
    """Return a name that is not taken, though the clock may have been set back."""
    name = f"{created:%Y%m%dT%H%M%SZ}"
    taken = 1
    while (folder / (name if taken == 1 else f"{name}-{taken}")).exists():
        taken += 1
    return name if taken == 1 else f"{name}-{taken}"


def backups(home: Path, folder: Path | None = None) -> list[Backup]:
    """Return a folder's whole backups, oldest first; unfinished ones are none.

    Args:
        home: The journal's directory.
        folder: Where to look; None: `backups` in the journal's directory.
    """
    found = list(_read(home / FOLDER if folder is None else folder))
    # By what is in them, since the clock may have been set back. A journal that was begun anew
    # counts from 1 again, and one that was restored from an earlier number, as a later generation:
    # of two journals the one that was backed up last comes last.
    since = {each.journal: each.created for each in sorted(found, key=lambda one: one.created)}
    return sorted(
        found, key=lambda one: (since[one.journal], one.generation, one.last, one.created)
    )


def _read(folder: Path) -> Iterator[Backup]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        try:
            yield read_backup(path)
        except (NotebookAgentsError, OSError):
            continue  # unfinished, damaged, just being removed, or something else


def newest_backup(home: Path) -> Path | None:
    """Return the whole backup in the journal's directory that has most, or None."""
    found = backups(home)
    return found[-1].path if found else None
