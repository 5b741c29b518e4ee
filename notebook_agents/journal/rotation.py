"""Rotation: a journal's data keys, wrapped by another master key.

No record is touched: each stays sealed with its data key. A data key is unwrapped with the master
key that it has now and wrapped with the new one, some hundred in a transaction, and `keys.copy` is
written again at the end. Both master keys are in the ring all that time, so a journal whose
rotation was killed anywhere opens, and the next rotation finishes it. Processes that have the
journal open go on: the data keys that they know are the same ones.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.errors import (
    JournalBusyError,
    JournalFormatError,
    KeyMissingError,
    SealError,
)
from notebook_agents.journal import damage, keycopy
from notebook_agents.journal.compact import elsewhere
from notebook_agents.journal.failures import write_error, writing
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.sql import query
from notebook_agents.journal.wrapped import altered
from notebook_agents.sealing import wrapped_by

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from notebook_agents.journal.store import Journal
    from notebook_agents.sealing import KeyRing, MasterKey

LOCK = "rotate.lock"
MASTER = "master"
"""The key of `meta` that names the master key which new data keys are wrapped with."""
_SLICE = 500
_FOLD_TRIES, _FOLD_PAUSE = 100, 0.02  # readers keep SQLite from folding its log for a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What a rotation did.

    Attributes:
        home: The journal's directory.
        master: The id of the master key that wraps the data keys now.
        rewrapped: How many data keys were wrapped anew.
        left: Data keys that stay wrapped by a master key that is not in the ring, by its id.
        elsewhere: What still has the data keys as they were: backups, and files put aside.
    """

    home: Path
    master: str
    rewrapped: int
    left: dict[str, int]
    elsewhere: tuple[str, ...]


def used(journal: Journal) -> dict[str, int]:
    """Return how many data keys of a journal each master key wraps, `keys.copy` included.

    Those that only the copy still has in that form count too.
    """
    stored = journal.queue.keys()
    found = Counter(filter(None, map(_wrapped_by, stored.values())))
    for scope, wrapped in keycopy.read(journal.home)[1].items():
        by = _wrapped_by(wrapped)
        if by is not None and wrapped != stored.get(scope) and by not in found:
            found[by] += 1
    return dict(found)


def rotate(journal: Journal, ring: KeyRing, master: MasterKey) -> Rotation:
    """Wrap a journal's data keys with a master key; others may use the journal meanwhile.

    Args:
        journal: The journal.
        ring: The master keys; on disk before this is called, since nothing opens without them.
        master: The one of them that wraps all data keys from now on, those of new threads too.

    Raises:
        JournalBusyError: Another process rotates it.
        JournalDamagedError: A data key is damaged, and nothing was changed.
        KeyMissingError: The passphrase of a key is not here.
        JournalWriteError: It could not be finished; it opens as before, and can be done again.
    """
    lock = FileLock(journal.home / LOCK)
    try:
        with writing(journal.home):
            if not lock.acquire(0):
                raise JournalBusyError(
                    f"process {lock.holder()} is rotating the keys of {journal.home}: wait for it"
                )
            lock.write_holder()
            return _rotate(journal, ring, master)
    finally:
        lock.close()


def _rotate(journal: Journal, ring: KeyRing, master: MasterKey) -> Rotation:
    _refuse_damaged(journal)
    named = {"key": MASTER, "value": master.id}
    journal._writer.execute(query("queue.set_meta"), named)
    done = 0
    while True:
        stored = journal.queue.keys()
        found, left = _rewrapped(journal, ring, master, stored)
        if not found:
            break
        for at in range(0, len(found), _SLICE):
            done += _store(journal, found[at : at + _SLICE])
    journal.flush(durable=True)
    keycopy.renew(journal.home, journal.id, journal.queue.keys)
    _forget(journal)
    return Rotation(
        home=journal.home,
        master=master.id,
        rewrapped=done,
        left=dict(left),
        elsewhere=elsewhere(journal.home),
    )


def _refuse_damaged(journal: Journal) -> None:
    """Refuse a journal of which `keys.copy` may have the only whole key."""
    stored = journal.queue.keys()
    if broken := altered(journal.home, journal.id, stored):
        raise damage.found(journal.home, f"the key of scope {min(broken)!r} is altered")


def _rewrapped(
    journal: Journal, ring: KeyRing, master: MasterKey, stored: Mapping[str, bytes]
) -> tuple[list[dict[str, object]], Counter[str]]:
    """Return data keys as they are and as they are to be, and how many cannot be opened."""
    found: list[dict[str, object]] = []
    left: Counter[str] = Counter()
    for scope, wrapped in stored.items():
        try:
            by = wrapped_by(wrapped)
            if by == master.id:
                continue
            if by not in ring.ids:
                left[by] += 1
                continue
            context = f"{journal.id}\0{scope}".encode()
            after = master.wrap(ring.get(by).unwrap(wrapped, context), context)
        except KeyMissingError:
            raise
        except SealError:
            raise damage.found(journal.home, f"the key of scope {scope!r} is altered") from None
        found.append({"scope": scope, "before": wrapped, "after": after})
    return found, left


def _store(journal: Journal, found: list[dict[str, object]]) -> int:
    """Store some data keys as they are to be, in one transaction; return how many were there."""
    try:
        with journal._writer.alone() as (connection, log):
            connection.execute("BEGIN IMMEDIATE")
            try:
                count = connection.executemany(query("queue.rewrap_key"), found).rowcount
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            log.committed()
    except (sqlite3.Error, OSError) as error:
        raise write_error(error, journal.queue.path) from error
    return int(count)


def _forget(journal: Journal) -> None:
    """Have nothing in the log of how the keys were wrapped, if nobody reads from it."""
    for _ in range(_FOLD_TRIES):
        with suppress(sqlite3.OperationalError), journal._writer.alone() as (_, log):
            if log.cut():
                return
        time.sleep(_FOLD_PAUSE)


def _wrapped_by(wrapped: bytes) -> str | None:
    try:
        return wrapped_by(wrapped)
    except (SealError, JournalFormatError):
        return None
