"""keys.copy: the wrapped data keys once more, for the day on which queue.sqlite is gone.

Without its data key nothing of a thread can be read, and the queue has the only other copy. A line
is added with each new key, and taken out when the key is deleted. Keys are wrapped, so that this
file says no more than the queue does.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from notebook_agents.disk import write_whole
from notebook_agents.journal.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE = "keys.copy"


def read(home: Path) -> tuple[str | None, dict[str, bytes]]:
    """Return the journal's id and the wrapped keys by scope, as far as lines are whole."""
    journal: str | None = None
    keys: dict[str, bytes] = {}
    try:
        content = (home / FILE).read_bytes()
    except OSError:
        return None, {}
    for line in content.splitlines():
        try:
            parsed = json.loads(line)
            scope, wrapped = str(parsed["scope"]), str(parsed["wrapped"]).encode()
            journal = str(parsed["journal"])
        except (ValueError, KeyError, TypeError):
            continue
        keys[scope] = wrapped
    return journal, keys


def add(home: Path, journal_id: str, scope: str, wrapped: bytes) -> None:
    """Add a scope's key."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    lock = FileLock(home / "queue.lock")
    try:
        lock.wait()
        with os.fdopen(os.open(home / FILE, flags, 0o600), "wb") as file:
            # A line that a kill cut short ends here.
            file.write(b"\n" + _line(journal_id, scope, wrapped))
    finally:
        lock.close()


def drop(home: Path, scope: str) -> None:
    """Take a scope's key out."""
    lock = FileLock(home / "queue.lock")
    try:
        lock.wait()
        journal, keys = read(home)
        if keys.pop(scope, None) is not None and journal is not None:
            write(home, journal, keys)
    finally:
        lock.close()


def complete(home: Path, journal_id: str, stored: Callable[[], Mapping[str, bytes]]) -> None:
    """Have the scopes that the queue has: a kill comes between a change there and the one here.

    Of a scope that is in both, what is here stays: one of the two may be damaged.
    """
    lock = FileLock(home / "queue.lock")
    try:
        lock.wait()
        said, copied = read(home)
        keys = stored()
        if copied.keys() != keys.keys() or said not in (None, journal_id):
            kept = copied if said == journal_id else {}
            write(home, journal_id, {**keys, **{s: kept[s] for s in keys.keys() & kept.keys()}})
    finally:
        lock.close()


def renew(home: Path, journal_id: str, stored: Callable[[], Mapping[str, bytes]]) -> None:
    """Write the keys that the queue has."""
    lock = FileLock(home / "queue.lock")
    try:
        lock.wait()
        write(home, journal_id, stored())
    finally:
        lock.close()


def write(home: Path, journal_id: str, keys: Mapping[str, bytes]) -> None:
    """Write these keys and no others; under the queue's lock."""
    write_whole(home / FILE, content(journal_id, keys))


def content(journal_id: str, keys: Mapping[str, bytes]) -> bytes:
    """Return what the file is with these keys."""
    return b"".join(_line(journal_id, *key) + b"\n" for key in keys.items())


def _line(journal_id: str, scope: str, wrapped: bytes) -> bytes:
    line = {"journal": journal_id, "scope": scope, "wrapped": wrapped.decode()}
    return json.dumps(line, separators=(",", ":")).encode()
