"""What the doctor sees in a journal's directory: rights, locks, marks, backups, what is aside."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from notebook_agents import settings
from notebook_agents.cli.doctor import Check, Level, size
from notebook_agents.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from notebook_agents.journal.queue import Queue

_LOCKS = (("queue.lock", "appending"), ("journal.lock", "DuckDB"), ("backup.lock", "a backup"))
_FEW_INODES = 1000


def total_of(paths: Iterable[Path]) -> int:
    """Return the bytes of those of the files that are there: others may be at work."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def examine_files(home: Path) -> Iterator[Check]:
    """Look at what can be seen without opening the journal."""
    yield _private(home)
    yield _inodes(home)
    yield _locks(home)
    yield _write_lock(home)
    yield from _marks(home)
    yield from _backups(home)
    yield from _aside(home)


def _private(home: Path) -> Check:
    """Whether others can reach the files: payloads are sealed, names and times are not."""
    if os.name == "posix":
        for path in (home, *sorted(home.iterdir())):
            try:
                info = path.stat()
            except FileNotFoundError:  # renamed or removed meanwhile, or a link to nowhere
                continue
            wanted = 0o700 if path.is_dir() else 0o600
            if info.st_uid != os.geteuid() and os.geteuid() != 0:
                return Check(
                    name="permissions",
                    level=Level.WARNING,
                    found=f"{path} belongs to user {info.st_uid}",
                    remedy=f"chown it to {os.geteuid()} if it is yours",
                )
            mode = stat.S_IMODE(info.st_mode)
            if mode & 0o077 and path.name != ".gitignore":
                return Check(
                    name="permissions",
                    level=Level.WARNING,
                    found=f"{path} has mode {mode:04o}: others can reach names, times and sizes",
                    remedy=f"chmod {wanted:o} {path}",
                )
    return Check(name="permissions", level=Level.OK, found="only this user can reach the files")


def _inodes(home: Path) -> Check:
    left = os.statvfs(home)
    few = left.f_files > 0 and left.f_favail < _FEW_INODES
    return Check(
        name="files left",
        level=Level.WARNING if few else Level.OK,
        found=f"{left.f_favail} more files fit" if left.f_files else "not limited",
        remedy="remove files there: a journal has to make some" if few else "",
    )


def _locks(home: Path) -> Check:
    from notebook_agents.journal.locks import holders
    from notebook_agents.journal.presence import USERS

    told = [
        f"{what}: {_processes(pids)}" for file, what in _LOCKS if (pids := holders(home / file))
    ]
    users = holders(home / USERS)
    found = f"open in {_processes(users)}" if users else "open nowhere"
    return Check(name="in use", level=Level.OK, found="; ".join([found, *told]))


def _write_lock(home: Path) -> Check:
    """Whether somebody keeps all others from writing, and writes nothing."""
    from notebook_agents.journal import stalls

    kept = stalls.kept(home)
    if kept is None:
        return Check(name="write lock", level=Level.OK, found="nobody keeps it")
    found, remedy = kept
    return Check(name="write lock", level=Level.BAD, found=found, remedy=remedy)


def _processes(pids: list[int]) -> str:
    """Return process ids with the commands that they are."""
    words = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            command = "ended; a child of it still holds the lock"
        words.append(f"process {pid} ({command})")
    return ", ".join(words)


def _marks(home: Path) -> Iterator[Check]:
    """What a process left behind that could not finish."""
    from notebook_agents.journal import presence, unsynced

    if unsynced.marked(home):
        yield Check(
            name="sync",
            level=Level.BAD,
            found="the disk refused to sync the log: nothing is acknowledged as durable",
            remedy="look at the system's log; then close every process above, and open it again",
        )
    if presence.exchanging(home):
        yield Check(
            name="restore",
            level=Level.WARNING,
            found="a restore was cut off",
            remedy="whoever opens the journal next finishes it",
        )


def _backups(home: Path) -> Iterator[Check]:
    from notebook_agents.journal.backup import backups

    try:
        schedule = settings.backup_schedule()
    except UsageError as error:
        yield Check(name="backups", level=Level.BAD, found=str(error))
        return
    found = backups(home)
    if not found:
        how = f"set {settings.BACKUP_VARIABLE}, or run `notebook-agents journal backup`"
        yield Check(name="backups", level=Level.OK, found=f"none in the journal's folder; {how}")
        return
    age = datetime.now(UTC) - found[-1].created
    total = size(sum(each.size for each in found))
    late = schedule is not None and age > 2 * schedule.every + timedelta(hours=1)
    yield Check(
        name="backups",
        level=Level.WARNING if late else Level.OK,
        found=f"{len(found)} ({total}), the newest {age.total_seconds() / 3600:.1f} h old, "
        f"up to record {found[-1].last}",
        remedy="run `notebook-agents journal backup`: it says why none is made" if late else "",
    )


def _aside(home: Path) -> Iterator[Check]:
    aside = [p for p in home.iterdir() if ".replaced-" in p.name or ".damaged-" in p.name]
    if aside:
        total = size(total_of(aside))
        yield Check(
            name="put aside",
            level=Level.OK,
            found=f"{len(aside)} files ({total}) from a restore or repair; remove them when the "
            "journal has what you need",
        )


def examine_queue(queue: Queue) -> Iterator[Check]:
    """Look at what the opened queue says of itself: its kind of log, and the clock."""
    from notebook_agents.journal.queue_file import on_network

    mode = queue.journal_mode()
    network = on_network(queue.home)
    wrong = network and mode == "wal"
    yield Check(
        name="log",
        level=Level.BAD if wrong else Level.OK,
        found="a write-ahead log" if mode == "wal" else "a rollback journal",
        remedy="a write-ahead log loses records on a network file system: back the journal up and "
        "restore it there, which changes the kind of log"
        if wrong
        else "",
    )
    newest = max((head.info().updated for head in queue.heads()), default=None)
    ahead = newest is not None and newest > datetime.now(UTC) + timedelta(minutes=5)
    yield Check(
        name="clock",
        level=Level.WARNING if ahead else Level.OK,
        found=f"the newest record is from {newest:%Y-%m-%d %H:%M} UTC, which is to come"
        if ahead
        else "no record is from the future",
        remedy="set the clock; the order of records does not depend on it" if ahead else "",
    )
