"""Named points at which a crash test may kill the process.

A durable edge is a place where something became durable, or is about to. Each has a `Fault` here
and a `hit(...)` there; tests enumerate the enum, so that a new edge is a new crash test. Nothing
is armed outside tests: a hit then costs one comparison.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault(StrEnum):
    """Every durable edge, in the order in which a step meets them."""

    RUN_START_BEFORE = "run.start.before"
    """A run was asked for; nothing of it is recorded."""
    COMMIT_BEFORE = "commit.before"
    """A transaction has its rows and is not committed."""
    COMMIT_AFTER = "commit.after"
    """A transaction is committed; nobody was told."""
    INTENT_BEFORE = "intent.before"
    """A step is about to declare its intent."""
    INTENT_AFTER = "intent.after"
    """The intent is on disk; the effect has not begun."""
    RESULT_BEFORE = "result.before"
    """The effect happened; its result is not recorded."""
    RESULT_AFTER = "result.after"
    """The result is recorded; LangGraph does not have it yet."""
    ROUTE_BEFORE = "route.before"
    """A conditional edge chose; nothing of it is on disk."""
    WRITES_AFTER = "writes.after"
    """LangGraph gave the saver a task's writes."""
    CHECKPOINT_AFTER = "checkpoint.after"
    """LangGraph gave the saver a checkpoint."""
    RUN_END_BEFORE = "run.end.before"
    """The graph is done; the end of the run is not recorded."""
    RUN_END_AFTER = "run.end.after"
    """The end of the run is recorded; the caller was not told."""
    INGEST_BEGIN = "ingest.begin"
    """A burst opened DuckDB and has taken nothing."""
    INGEST_FLUSHED = "ingest.flushed"
    """The batch is in DuckDB's transaction, not committed."""
    INGEST_COMMITTED = "ingest.committed"
    """DuckDB has the batch; the queue has it too."""
    INGEST_TRIMMED = "ingest.trimmed"
    """The batch has left the queue."""
    COMPACT_BUILT = "compact.built"
    """The new DuckDB file has the living records; nobody knows of it."""
    COMPACT_NOTED = "compact.noted"
    """The new file is whole, and a note names it and the old one."""
    COMPACT_RENAMED = "compact.renamed"
    """The new file has its name; the old one counts."""
    COMPACT_SWITCHED = "compact.switched"
    """The queue says that the new file counts; that may not be on disk."""
    COMPACT_REMOVED = "compact.removed"
    """The old file is gone; the new one and the queue both have some records."""
    COMPACT_TRIMMED = "compact.trimmed"
    """They have left the queue, whose file may still hold bytes of those that are gone."""


_armed: Callable[[Fault], None] | None = None


def arm(action: Callable[[Fault], None] | None) -> None:
    """Call `action` at every fault point of this process from now on; None disarms.

    For crash tests only.
    """
    global _armed
    _armed = action


def hit(fault: Fault) -> None:
    """Mark that execution has reached `fault`."""
    if _armed is not None:
        _armed(fault)
