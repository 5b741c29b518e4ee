"""Cancelling a run that another process drives: it is asked to."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from notebook_agents.graph.drive import going
from notebook_agents.journal.claims import busy

if TYPE_CHECKING:
    from notebook_agents.journal import Journal

_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


def listen(journal: Journal) -> None:
    """Let other processes cancel the runs that this one drives."""
    journal.leases.cancel_by(partial(_cancel, journal))


def cancel_elsewhere(journal: Journal, thread: str) -> bool:
    """Ask the process that drives a thread to cancel its run.

    Returns:
        Whether it was asked and took note, or the run ended by itself; else nobody drives the
        thread, and its run is not finished.

    Raises:
        ThreadBusyError: It takes no note of it, as a stopped process does not.
    """
    asked = journal.head(thread)
    if asked is None or not asked.driven:
        return False
    journal.leases.cancel(thread, asked.token)
    patience = time.monotonic() + _PATIENCE_SECONDS
    while journal.leases.stands(thread, asked.token):
        head = journal.head(thread)
        if head is None or head.token != asked.token:
            return True
        if head.driver is None:  # it may have put the run down, to be resumed
            return head.info().status.finished
        if not head.driven:
            return False
        if time.monotonic() > patience:
            error = busy(head, "it takes no note of being cancelled, stop it there")
            journal.leases.ask(error)
            raise error
        time.sleep(_PAUSE_SECONDS)
    return True


def _cancel(journal: Journal, thread: str) -> bool:
    """Cancel what this process drives; False where it is only about to."""
    drive = going(journal, thread)
    if drive is not None:
        drive.cancel()
    return drive is not None
