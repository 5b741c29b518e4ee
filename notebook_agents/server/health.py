"""Whether a journal can be used: the journal itself, its lock, its disk, its backlog."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from notebook_agents import settings
from notebook_agents.disk import LOW_BYTES
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.journal import stalls, unsynced
from notebook_agents.journal.damage import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notebook_agents.journal import Journal
    from notebook_agents.server.opened import Journals


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: "journal", "lock", "disk" or "backlog".
        ok: Whether it is as it has to be.
        found: What was found.
        remedy: What to do; "" where nothing is to do, or where `found` says it.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


def health(journals: Journals, home: Path, *, low_bytes: int = LOW_BYTES) -> dict[str, Any]:
    """Return the API's `Health` of a journal.

    Args:
        journals: Opens it.
        home: Its directory.
        low_bytes: Fewer free bytes on its disk are too few.
    """
    checks = [*_journal(journals, home), _disk(home, low_bytes)]
    return {
        "ok": all(check.ok for check in checks),
        "failed": [check.name for check in checks if not check.ok],
        "checks": [asdict(check) for check in checks],
    }


def _journal(journals: Journals, home: Path) -> Iterator[Check]:
    """Look at the lock first: an opening can wait for whoever keeps it."""
    kept = stalls.kept(home)
    try:
        with journals.using(home) as journal:
            yield _opened(journal)
            yield _lock(kept)
            yield _backlog(journal)
    except NotebookAgentsError as error:
        yield Check(name="journal", ok=False, found=str(error))
        yield _lock(kept)


def _opened(journal: Journal) -> Check:
    trouble = journal.queue.trouble()
    if trouble is not None:
        remedy = "close the notebooks that use it, then run `notebook-agents journal repair`"
        return Check(name="journal", ok=False, found=f"it is damaged: {trouble}", remedy=remedy)
    threads = journal.threads()
    head = journal.head(threads[0].thread) if threads else None
    if head is not None:
        journal.data_key(head.scope, create=False)
    return Check(name="journal", ok=True, found=counted(len(threads), "conversation"))


def _lock(kept: tuple[str, str] | None) -> Check:
    if kept is None:
        return Check(name="lock", ok=True, found="nobody keeps it")
    return Check(name="lock", ok=False, found=kept[0], remedy=kept[1])


def _backlog(journal: Journal) -> Check:
    size = journal.queue.backlog_bytes()
    if size <= 8 * settings.INGEST_BYTES:
        return Check(name="backlog", ok=True, found=f"{size:,} bytes not yet in DuckDB")
    return Check(
        name="backlog",
        ok=False,
        found=f"{size:,} bytes not yet in DuckDB",
        remedy="close the process that has the journal open in exclusive mode, and run an agent",
    )


def _disk(home: Path, low_bytes: int) -> Check:
    if unsynced.marked(home):
        return Check(
            name="disk",
            ok=False,
            found="the disk refused to sync the log: nothing is acknowledged as durable",
            remedy="look at the system's log; then close every kernel, and open the journal again",
        )
    if not os.access(home, os.R_OK | os.W_OK):
        return Check(
            name="disk",
            ok=False,
            found="this user cannot read and write the journal's directory",
            remedy="give this user the right to",
        )
    free = shutil.disk_usage(home).free
    low = free < low_bytes
    return Check(
        name="disk",
        ok=not low,
        found=f"{free:,} bytes free",
        remedy="make room: a run stops when nothing can be appended" if low else "",
    )
