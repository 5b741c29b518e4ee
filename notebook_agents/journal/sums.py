"""What a thread's head is told of the records that are appended to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents.model import Kind

if TYPE_CHECKING:
    from notebook_agents.journal.records import Draft

# Looking a member up in an enumeration takes longer than the comparison.
_INTENDED, _RETURNED = Kind.STEP_INTENDED, Kind.STEP_RETURNED
_STARTED, _FINISHED = Kind.RUN_STARTED, Kind.RUN_FINISHED

Place = tuple[str, int | None]
"""A thread and the token of who writes to it."""


def count(touched: dict[Place, dict[str, Any]], draft: Draft, ts: int) -> None:
    """Add a draft to what its thread's head is told."""
    values = touched.get((draft.thread, draft.token))
    if values is None:
        values = touched[(draft.thread, draft.token)] = {
            "thread": draft.thread,
            "scope": draft.scope,
            "token": draft.token,
            "first": draft.seq,
            "ts": ts,
            "records": 0,
            "intended": 0,
            "returned": 0,
            "status": None,
        }
    values["seq"] = draft.seq
    values["records"] += 1
    if draft.kind is _INTENDED:
        values["intended"] += 1
    elif draft.kind is _RETURNED:
        values["returned"] += 1
    elif draft.kind is _FINISHED:
        values["status"] = draft.name
    elif draft.kind is _STARTED and draft.attempt == 1:  # the head has the newest run's counts
        values["intended"] = values["returned"] = 0


def added(before: dict[str, Any] | None, values: dict[str, Any]) -> dict[str, Any]:
    """Return a thread's counts with those that its head was not told yet."""
    if before is None:
        return values
    sums = {name: before[name] + values[name] for name in ("records", "intended", "returned")}
    return {**values, **sums}
