"""New records as they are committed, by whichever process.

`PRAGMA data_version` tells whether another connection has committed since it was last asked: 3 us
while nothing happens, and no commit is missed. (A look at the log's times would miss one within a
tick of the file system's clock.) So it is asked often, and records are read when it has changed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from notebook_agents.errors import NotDurableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.journal.records import Record
    from notebook_agents.journal.store import Journal

LOOK_SECONDS = 0.05


def follow(
    journal: Journal, since: int | None, thread: str | None, seconds: float | None
) -> Iterator[Record]:
    """Yield the records behind number `since`, then new ones as they come; see `Journal.follow`."""
    seen = journal.newest() if since is None else since
    until = None if seconds is None else time.monotonic() + seconds
    version: tuple[int, int] | None = None
    while not journal.closed:
        now = journal.version()
        if now != version:
            version = now  # first: what is committed while the records are read counts again
            newest = journal.newest()
            for record in journal.select(thread=thread, since=seen) if newest > seen else ():
                yield record
                newest = max(newest, record.seq)
            seen = newest
            continue
        if until is not None and time.monotonic() >= until:
            return
        time.sleep(LOOK_SECONDS)
    raise NotDurableError(
        f"the journal in {journal.home} was closed while it was followed: open it again"
    )
