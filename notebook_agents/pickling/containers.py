"""Queues and events, which hold something besides being waited for.

As results of steps they are refused, since whoever waits for them is not there later. Among a
thread's objects they are kept for what they hold, unless somebody waits for them now.
"""

from __future__ import annotations

import pickle
import queue
import threading
from typing import Any

_QUEUES = (queue.Queue, queue.LifoQueue, queue.PriorityQueue)
_ASYNCIO_QUEUES = ("Queue", "LifoQueue", "PriorityQueue")


def reduce(value: Any) -> tuple[Any, ...] | None:
    """Return what `__reduce__` may return of a queue or an event, None of anything else.

    Raises:
        PicklingError: Somebody waits for it, or it was shut down.
    """
    kind = type(value)
    if kind in _QUEUES:
        with value.mutex:
            waits = (value.not_empty, value.not_full, value.all_tasks_done)
            _refuse_used(value, any(one._waiters for one in waits))
            held = list(value.queue)
            return queue_again, (kind, value.maxsize, held, value.unfinished_tasks)
    if kind.__module__ == "asyncio.queues" and kind.__qualname__ in _ASYNCIO_QUEUES:
        _refuse_used(value, bool(value._getters or value._putters or value._finished._waiters))
        return asyncio_queue_again, (
            kind,
            value.maxsize,
            list(value._queue),
            value._unfinished_tasks,
        )
    if kind is threading.Event:
        _refuse_used(value, bool(value._cond._waiters))
        return event_again, (value.is_set(),)
    return None


def _refuse_used(value: Any, waited_for: bool) -> None:  # noqa: FBT001 - its only question
    if waited_for:
        raise pickle.PicklingError("somebody waits for it now")
    if getattr(value, "is_shutdown", False) or getattr(value, "_is_shutdown", False):
        raise pickle.PicklingError("it was shut down")


# Journals name these: see rebuild.py.


def queue_again(cls: Any, maxsize: int, items: list[Any], unfinished: int) -> Any:
    """Rebuild a queue between threads with what was in it."""
    made = cls(maxsize)
    for item in items:
        made.put_nowait(item)
    made.unfinished_tasks = unfinished
    return made


def asyncio_queue_again(cls: Any, maxsize: int, items: list[Any], unfinished: int) -> Any:
    """Rebuild a queue between coroutines with what was in it."""
    made = cls(maxsize)
    for item in items:
        made.put_nowait(item)
    made._unfinished_tasks = unfinished
    if unfinished:
        made._finished.clear()
    return made


def event_again(is_set: bool) -> threading.Event:  # noqa: FBT001 - positional in a pickle
    """Rebuild an event as it was."""
    made = threading.Event()
    if is_set:
        made.set()
    return made
