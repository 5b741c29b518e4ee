"""queue.sqlite as a file: where it may lie, how it is made, opened, and known for a journal's."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, ids, settings
from notebook_agents.disk import fsync_directory, make_directory, write_whole
from notebook_agents.errors import JournalFormatError, JournalNewerError, JournalWriteError
from notebook_agents.journal import compacted, damage, integrity, lineage, locks
from notebook_agents.journal.failures import cause, reason
from notebook_agents.journal.records import FORMAT
from notebook_agents.journal.sql import query, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

APPLICATION_ID = 0x4E424147  # "NBAG", in the SQLite header: tells a journal from other databases
FILE = "queue.sqlite"

PAGE_BYTES = 512
# A transaction logs whole pages, so small ones make a log that holds more steps, and leave less of
# themselves empty. Measured with `python -m tests.bench fsyncs size` for 0.5, 1, 2 and 4 KB: files
# after a kill 1.81, 2.22, 1.98 and 1.97 times the content; fsyncs of the log per step 1.018,
# 1.025, 1.035 and 1.058. The price is paid by large values: 500 KB take 9.5 ms instead of 4.8.
WAL_PAGES = 1300
# The log is folded back at this many pages, and is this long from the start. More leaves larger
# files after a kill, fewer costs more fsyncs (two per fold).
LOG_BYTES = 32 + WAL_PAGES * (24 + PAGE_BYTES)
"""That many frames of the log, behind its header."""
_NETWORK_TYPES = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "lustre")


def file_system(path: Path) -> str:
    """Return the type of the file system that `path` lies on, or "" where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_
    return kind


def on_network(path: Path) -> bool:
    """Whether `path` lies on a network file system, where SQLite's WAL does not work."""
    told = settings.on_network()
    return file_system(path) in _NETWORK_TYPES if told is None else told


def connect(path: Path, *, reads: bool = False) -> sqlite3.Connection:
    """Open queue.sqlite in autocommit mode, usable from any thread under the caller's lock.

    Args:
        path: The file.
        reads: Whether it is only to be read. What a killed process left in a rollback journal (on
            network file systems) has to be put back first, so that is not for readers.

    Raises:
        JournalFormatError: The file is no SQLite database.
        JournalDamagedError: It cannot be read.
    """
    reads = reads and not path.with_name(f"{path.name}-journal").exists()
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'ro' if reads else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30,
    )
    try:
        if reads:  # the heads of 10,000 threads fit in
            connection.execute("PRAGMA cache_size=-8192")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        connection.execute("PRAGMA secure_delete=ON")  # a deleted data key leaves no copy behind
        if sys.platform == "darwin":  # fsync alone stops at the drive's cache there
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _unreadable(path, error) from error
    return connection


def pages_in_use(connection: sqlite3.Connection) -> int:
    """Return how many pages of the file hold something."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return int(pages) - int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def make_small(connection: sqlite3.Connection) -> None:
    """Give back the pages that hold nothing, if they are a third of the file or more.

    Each opening digests them. Nobody else has the file open: who wants to write would have to wait
    wherever much is left, see `Writer.vacuum`.
    """
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if 2 * free > pages_in_use(connection):
        with suppress(sqlite3.OperationalError):  # no room to make room: another time
            connection.execute("VACUUM")


def make_home(home: Path) -> None:
    """Make a journal's directory."""
    if home.exists() and not home.is_dir():
        raise JournalFormatError(f"{home} is a file: a journal is a directory, name another path")
    make_directory(home)
    ignore = home / ".gitignore"
    if not ignore.exists() or not ignore.stat().st_size:
        write_whole(ignore, b"*\n")


def make(home: Path) -> None:
    """Create an empty journal; of several processes that try at once, one makes it."""
    lock = locks.FileLock(home / "queue.lock")
    try:
        lock.wait()
        path = home / FILE
        if not path.exists():
            building = home / f".{FILE}.{os.getpid()}"
            building.unlink(missing_ok=True)
            os.close(os.open(building, os.O_CREAT | os.O_WRONLY, 0o600))
            fill(building, network=on_network(home))
            building.rename(path)
            fsync_directory(home)
    finally:
        lock.close()


def fill(path: Path, *, network: bool) -> None:
    """Make an empty queue at `path`."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_mode={'DELETE' if network else 'WAL'}")
        connection.executescript("BEGIN;" + schema("queue.create"))
        for key, value in (
            ("journal", ids.new_journal_id()),
            ("created", clock.now_us()),
            ("generation", 1),
            ("keys_deleted", 0),
        ):
            connection.execute(query("queue.set_meta"), {"key": key, "value": value})
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def checked_meta(
    connection: sqlite3.Connection, path: Path, *, as_left: bool = False
) -> dict[str, Any]:
    """Return what the table `meta` says.

    Args:
        connection: The queue.
        path: Its file.
        as_left: Whether the file is known to be as whoever closed it left it.

    Raises:
        JournalFormatError: It is no journal.
        JournalNewerError: It is one of a newer version.
        JournalDamagedError: It does not say what it has to.
    """
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID and (left := integrity.remains(path.parent)) is not None:
            raise damage.found(path.parent, f"{FILE} is no journal's, but {left} is")
        if application != APPLICATION_ID:
            raise JournalFormatError(
                f"{path} is a SQLite database but no journal: name another directory"
            )
        if version > FORMAT:
            look = damage.check_command(path.parent)
            damaged = "" if as_left else f"; or that number is damaged: `{look}` says whether it is"
            raise JournalNewerError(
                f"the journal in {path.parent} has format {version} and this version of "
                f"notebook-agents reads up to {FORMAT}: upgrade notebook-agents to open it{damaged}"
            )
        meta = dict(connection.execute(query("queue.meta")).fetchall())
        int(meta["generation"]), int(meta["keys_deleted"]), meta["journal"]
        lost_of(meta), json.loads(meta.get("keyless", "[]"))
        lineage.of(meta), compacted.of(meta)
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    except (KeyError, TypeError, ValueError) as error:  # a UnicodeDecodeError is one
        raise damage.found(path.parent, f"{FILE} does not say what it is ({error})") from error
    return meta


def lost_of(meta: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the ranges of numbers that a repair found nowhere, from what `meta` says."""
    return [(low, high) for low, high in json.loads(meta.get("lost", "[]"))]


def lost_between(lost: Iterable[tuple[int, int]], first: int, last: int) -> int:
    """Return how many numbers from `first` to `last` are in those ranges."""
    return sum(max(0, min(high, last) - max(low, first) + 1) for low, high in lost)


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> Exception:
    if cause(error) is not None and damage.of(error, path.parent) is None:
        return JournalWriteError(f"{path} cannot be opened {reason(error)}")
    if "not a database" in str(error) and integrity.remains(path.parent) is None:
        return JournalFormatError(f"{path} is no journal ({error}): name another directory")
    return damage.of(error, path.parent) or damage.found(
        path.parent, f"{FILE} cannot be read ({error})"
    )
