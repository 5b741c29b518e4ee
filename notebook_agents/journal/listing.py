"""Rows of threads as `list` shows them: made by the ten thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents.clock import EPOCH, MICROSECOND
from notebook_agents.model import RunStatus, ThreadInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUSES = {str(status): status for status in RunStatus}
_UNDRIVEN = {**STATUSES, str(RunStatus.RUNNING): RunStatus.ORPHANED}


def undriven(rows: Iterable[tuple[Any, ...]]) -> tuple[list[ThreadInfo], list[int]]:
    """Return what is listed of each thread, and the number of its newest record.

    Args:
        rows: As `queue.undriven` gives them. A thread that runs is orphaned: nobody drives it.
    """
    infos: list[ThreadInfo] = []
    newest: list[int] = []
    for thread, agent, status, run, returned, intended, created, updated, *rest, last in rows:
        notebook, records = rest
        infos.append(
            ThreadInfo(
                thread,
                agent,
                _UNDRIVEN.get(status) or RunStatus(status),
                run,
                returned,
                intended,
                EPOCH + created * MICROSECOND,
                EPOCH + updated * MICROSECOND,
                notebook,
                None,
                records,
            )
        )
        newest.append(last)
    return infos, newest
