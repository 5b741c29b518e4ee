"""Saying who keeps the write lock, where a wait for it has no end in sight.

A process that was stopped or hangs inside a transaction keeps the lock, and the system takes it
from no living process. All that can be done is to say so: a thread looks at the waits of this
process once a second, while there are any, and tells of each that lasts too long, once.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from notebook_agents import clock

if TYPE_CHECKING:
    from pathlib import Path

LONG_SECONDS = 5.0
"""A transaction takes a few ms, the largest some tenths of a second."""
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0

_logger = logging.getLogger("notebook_agents.journal")


@dataclass(slots=True)
class _Wait:
    path: Path
    since: float
    told: bool = False


_waits: dict[int, _Wait] = {}
"""By worker thread: each waits for one lock at a time."""
_lock = threading.Lock()
_looking = False


def begin(path: Path) -> None:
    """Say that this thread begins to wait for the lock on a file; `end` has to follow."""
    global _looking
    _waits[_thread.get_ident()] = _Wait(path, time.monotonic())
    with _lock:
        if not _looking:
            with suppress(RuntimeError):  # no more threads, or the interpreter ends
                # Not threading.Thread: a signal in its start() can leave it waiting for ever.
                _thread.start_new_thread(_look, ())
                _looking = True


def end() -> None:
    """Say that this thread waits no more."""
    _waits.pop(_thread.get_ident(), None)


def _look() -> None:
    global _looking
    while True:
        time.sleep(min(_LOOK_SECONDS, LONG_SECONDS))
        with _lock:
            if not _waits:
                _looking = False
                return
        for wait in list(_waits.values()):
            waited = time.monotonic() - wait.since
            if waited >= LONG_SECONDS and not wait.told:
                wait.told = True
                since = clock.from_us(clock.now_us() - round(waited * 1e6))
                found, remedy = stuck(wait.path, since)
                _logger.warning("%s, and this process waits for it: %s", found, remedy)


def stuck(path: Path, since: datetime) -> tuple[str, str]:
    """Return who keeps the lock on a file, and what to do about it.

    Args:
        path: The file.
        since: A time from which on it was certainly kept.
    """
    from notebook_agents.journal.locks import holders, stopped

    told = holders(path)
    who = " and ".join(f"process {pid}{' (stopped)' if stopped(pid) else ''}" for pid in told)
    found = (
        f"{who or 'a process that this system does not name'} has kept the write lock of the "
        f"journal in {path.parent} since {since:%Y-%m-%d %H:%M:%S} UTC, or longer"
    )
    if not told:
        how = f"find it (`lsof {path}`), then let it go on or end it"
    elif any(map(stopped, told)):
        how = f"let it go on (`kill -CONT {told[0]}`) or end it (`kill -KILL {told[0]}`)"
    else:
        how = f"see what it waits for, or end it (`kill -KILL {told[0]}`)"
    return found, f"{how}; a lock cannot be taken from a process that lives, and nothing is lost"


def kept(home: Path) -> tuple[str, str] | None:
    """Look whether somebody keeps all others from writing to a journal, and writes nothing.

    Returns:
        Who, and what to do about it; None where nobody does.
    """
    from notebook_agents.journal.locks import FileLock

    path = home / "queue.lock"
    begun, written = datetime.now(UTC), written_at(home)
    lock = FileLock(path)
    try:
        free = not path.exists() or lock.acquire(_PATIENCE_SECONDS)
    except OSError:
        free = True  # who may not open it may not write either
    finally:
        lock.close()
    if free or written_at(home) != written:
        return None
    found, remedy = stuck(path, begun)
    if written:
        last = datetime.fromtimestamp(written, UTC)
        found += f"; nothing was recorded after {last:%Y-%m-%d %H:%M:%S} UTC"
    return found, remedy


def written_at(home: Path) -> float:
    """Return when the newest record was committed, as far as that is noted; 0.0 if it is not."""
    with suppress(OSError):
        return (home / "queue.mark").stat().st_mtime
    return 0.0


def _after_fork_in_child() -> None:
    global _lock, _looking
    _lock, _looking = threading.Lock(), False
    _waits.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
