"""The journal of this folder, for calls that name none."""

from __future__ import annotations

from notebook_agents.journal import Journal
from notebook_agents.settings import journal_home

_journals: dict[str, Journal] = {}


def default_journal(*, create: bool = True) -> Journal:
    """Return the journal of this folder, opened once in this process.

    Raises:
        NoJournalError: There is none and `create` is false.
    """
    home = str(journal_home(create=create))
    journal = _journals.get(home)
    if journal is None or journal.closed:
        journal = _journals[home] = Journal.open(home, create=create)
    return journal
