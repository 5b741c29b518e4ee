"""The journal: the only package that opens SQLite and DuckDB."""

from __future__ import annotations

from notebook_agents.journal.records import Claim, Draft, Record
from notebook_agents.journal.store import Journal

__all__ = ["Claim", "Draft", "Journal", "Record"]
