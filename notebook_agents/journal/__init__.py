"""The journal: the only package that opens SQLite and DuckDB."""

from __future__ import annotations

from notebook_agents.interpreters import refuse_others

refuse_others()  # before what would hang there

from notebook_agents.journal.records import Claim, Draft, Record  # noqa: E402
from notebook_agents.journal.store import Journal  # noqa: E402

__all__ = ["Claim", "Draft", "Journal", "Record"]
