"""What a call's own `reconcile` said of a doubt, as a record: who looks later sees how it ended."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING

from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, Said

if TYPE_CHECKING:
    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import RunDriver, StepState

RECONCILED = "reconcile"
"""The name of the decision that a call's `reconcile` took; its `ref` is what it said."""


def reconciliation(driver: RunDriver, step: StepState, *, happened: bool) -> Draft:
    """Return the draft of what `reconcile` said of a step's newest attempt.

    No run acts on it: what follows from it, a result or another attempt, is recorded by itself.
    """
    draft = driver.draft(
        Kind.DECISION,
        step=step.id,
        parent=step.parent,
        name=RECONCILED,
        ns=step.ns or None,
        attempt=step.attempts,
        ref=str(Said.DID if happened else Said.DID_NOT),
    )
    draft.plain = pack((user(), socket.gethostname(), None))
    return draft


def user() -> str:
    """Return the name of the user whose process this is, or the id where there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in some containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
