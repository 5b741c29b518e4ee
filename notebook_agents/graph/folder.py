"""The journal of this folder, for calls that name none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.journal import Journal
from notebook_agents.settings import journal_home

if TYPE_CHECKING:
    import os

    from notebook_agents.journal.store import Mode

_journals: dict[str, Journal] = {}


def default_journal(*, create: bool = True) -> Journal:
    """Return the journal of this folder, opened once in this process.

    Raises:
        NoJournalError: There is none and `create` is false.
    """
    return journal_at(journal_home(create=create), create=create)


def journal_at(
    path: str | os.PathLike[str], mode: Mode = "shared", *, create: bool = False
) -> Journal:
    """Return the journal in a directory, opened once in this process.

    Raises:
        NoJournalError: There is none and `create` is false.
        JournalBusyError: Another process has it open exclusively (mode "exclusive" only).
    """
    home = str(path)
    journal = _journals.get(home)
    if journal is None or journal.closed:
        journal = _journals[home] = Journal.open(home, mode, create=create)
    return journal
