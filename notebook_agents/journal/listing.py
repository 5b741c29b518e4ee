"""Rows of threads that nobody drives, as `list` shows them: made by the ten thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents import clock
from notebook_agents.model import RunStatus, ThreadInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUSES = {str(status): status for status in RunStatus}

# A frozen dataclass is filled by `object.__setattr__`, which looks each name up; these know the
# place. Of 10,000 threads that is 15 ms instead of 25.
_fields: dict[str, Any] = vars(ThreadInfo)
_thread, _agent, _status = (_fields[name].__set__ for name in ("thread", "agent", "status"))
_run, _returned, _intended = (_fields[name].__set__ for name in ("run", "returned", "intended"))
_created, _updated = _fields["created"].__set__, _fields["updated"].__set__
_notebook, _driver = _fields["notebook"].__set__, _fields["driver"].__set__
_records = _fields["records"].__set__


def listed(rows: Iterable[tuple[Any, ...]]) -> list[tuple[int, ThreadInfo]]:
    """Return the number of each thread's newest record, and what is listed of the thread.

    Args:
        rows: As `queue.undriven` gives them. One that runs is orphaned: nobody drives it.
    """
    new, from_us = object.__new__, clock.from_us
    statuses = {**STATUSES, str(RunStatus.RUNNING): RunStatus.ORPHANED}
    found = []
    for (
        thread,
        agent,
        status,
        run,
        returned,
        intended,
        created,
        updated,
        notebook,
        records,
        last,
    ) in rows:
        info = new(ThreadInfo)
        _thread(info, thread)
        _agent(info, agent)
        _status(info, statuses.get(status) or RunStatus(status))
        _run(info, run)
        _returned(info, returned)
        _intended(info, intended)
        _created(info, from_us(created))
        _updated(info, from_us(updated))
        _notebook(info, notebook)
        _driver(info, None)
        _records(info, records)
        found.append((last, info))
    return found
