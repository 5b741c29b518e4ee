"""What open journals do when their process forks, and when it ends."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

from notebook_agents.errors import JournalError

if TYPE_CHECKING:
    from notebook_agents.journal.store import Journal

_logger = logging.getLogger("notebook_agents.journal")
open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()
opening = threading.RLock()
"""Held while a journal is opened: no child is born in the middle of that."""


def _before_fork() -> None:
    """Wait for the end of commits, bursts and reads, and close what SQLite has open.

    SQLite keeps its locks in memory, for all connections to a file, and locks of the operating
    system are not inherited. A child that opens the file while the parent has it open takes no
    lock of its own: when the parent closes, SQLite there deletes the log, and what the child
    commits from then on goes nowhere.
    """
    _between_backups()
    for journal in list(open_journals):
        journal._archive.bursting.acquire()
        journal._archive.rest()
        journal._writer.leading.acquire()
        journal._writer.rest()
        journal._queue.before_fork()


def _between_backups() -> None:
    """Have nothing opened, with no scheduled backup at work: that opens the journal once more."""
    while True:
        for journal in list(open_journals):
            journal._backups.wait()
        opening.acquire()
        if not any(journal._backups.busy for journal in list(open_journals)):
            return
        opening.release()


def _after_fork_in_parent() -> None:
    for journal in list(open_journals):
        journal._queue.in_parent()
        journal._writer.leading.release()
        journal._archive.bursting.release()
    opening.release()


def _after_fork_in_child() -> None:
    for journal in list(open_journals):
        journal._renew()
    opening.release()


def close_all() -> None:
    """Close every journal that is open in this process."""
    for journal in list(open_journals):
        try:
            journal._close()  # whatever still runs: a second Ctrl-C ended the wait for it
        except JournalError as error:  # nobody is left to be told; the others are closed too
            _logger.error("%s", error)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
# Not a `with` around anything: a kernel has no end that it could be put around. DuckDB aborts the
# process if a thread is busy in it when the interpreter goes, so bursts are joined first.
atexit.register(close_all)
