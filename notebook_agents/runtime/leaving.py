"""Leaving a run whose steps still run in worker threads.

Nobody can stop a thread from outside. So Ctrl-C, and whoever cancels a run on an event loop, leaves
those steps behind at once: no other step begins, what they return is recorded as ever, and the
thread is given back when the last of them has ended. Until then whoever takes the thread up in this
process waits for them.

The main thread runs this code, and a signal can raise anywhere in it: so it uses plain locks and
queues, which are taken in C, and says first what has to be known.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from notebook_agents.runtime.steps import current
from notebook_agents.runtime.stopping import RunStopped
from notebook_agents.saying import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.runtime.driver import RunDriver

_NAMED = 4
_left: dict[tuple[str, str], Workers] = {}
"""Those that still run, by journal and thread."""


class Workers:
    """What one run does in worker threads.

    Args:
        driver: The run.

    Attributes:
        left: Nobody waits for them, however the graph is left.
    """

    def __init__(self, driver: RunDriver) -> None:
        self._driver = driver
        self._key = (driver.journal.id, driver.thread)
        self._lock = threading.Lock()
        self._running = 0
        self._over = self._awaited = self._ended = False
        self._then: Callable[[], None] | None = None
        self._waiting: list[Callable[[], object]] = []
        self.left = False

    @property
    def running(self) -> bool:
        """Whether anything runs now."""
        return self._running > 0

    @property
    def names(self) -> str:
        """The steps that run now in this process, for a message."""
        running = [attempt.step for attempt in list(self._driver.under_way.values())]
        ids = {step.id for step in running}
        outer = {step.id: step.name for step in running if step.parent not in ids}
        named = [f"{name!r} ({id_})" for id_, name in outer.items()]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return f"step {', '.join(named[:_NAMED])}{more}" if named else "the end of a step"

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do work in a worker thread.

        Raises:
            RunStopped: The run was left before this work began.
        """
        if threading.current_thread() is threading.main_thread():
            return work(*args, **kwargs)  # a signal cuts it off: there is nothing to leave
        with self._lock:
            if self._over:
                raise RunStopped
            self._running += 1
        try:
            return work(*args, **kwargs)
        finally:
            with self._lock:
                self._running -= 1
                last = self._awaited and not self._running
                then = self._then
            if last:
                self._end(then)

    def leave(self, then: Callable[[], None]) -> bool:
        """Begin nothing more; have the last of what runs call `then`. False where nothing runs."""
        _left[self._key] = self
        with self._lock:
            self._then = then
            self._over = self._awaited = True
            self._ended = not self._running
            if self._running:
                return True
        _left.pop(self._key, None)
        return False

    async def end(self) -> None:
        """Wait for what runs, which may call more, where its graph has come to its end."""
        with self._lock:
            self._awaited = True
            self._ended = not self._running
        await self.wait_async()

    def wait(self) -> None:
        """Return when the last has ended and the thread is given back."""
        news: SimpleQueue[None] = SimpleQueue()
        if self._tell(partial(news.put, None)):
            news.get()

    async def wait_async(self) -> None:
        """Do as `wait` without blocking the event loop."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: it waits no longer
                loop.call_soon_threadsafe(news.set)

        if self._tell(tell):
            await news.wait()

    def _tell(self, tell: Callable[[], object]) -> bool:
        """Have somebody told of the end; False where it is over."""
        with self._lock:
            if not self._ended:
                self._waiting.append(tell)
            return not self._ended

    def _end(self, then: Callable[[], None] | None) -> None:
        try:
            if then is not None:
                then()
        finally:
            _left.pop(self._key, None)
            with self._lock:
                self._ended = True
                waiting, self._waiting = self._waiting, []
            for tell in waiting:
                tell()


def was_left(journal_id: str, thread: str) -> bool:
    """Whether steps of a thread that was left still run in this process."""
    return (journal_id, thread) in _left


def wait_for(journal_id: str, thread: str) -> None:
    """Wait until steps of a thread that were left behind have ended; they are named on stderr."""
    while (workers := _to_wait_for(journal_id, thread)) is not None:
        workers.wait()


async def wait_for_async(journal_id: str, thread: str) -> None:
    """Do as `wait_for` without blocking the event loop."""
    while (workers := _to_wait_for(journal_id, thread)) is not None:
        await workers.wait_async()


def wait_for_all() -> None:
    """Wait until every step that was left behind in this process has ended."""
    for workers in list(_left.values()):
        workers.wait()


def _to_wait_for(journal_id: str, thread: str) -> Workers | None:
    workers, here = _left.get((journal_id, thread)), current()
    if workers is None or (here is not None and here[0].thread == thread):
        return None  # a step cannot wait for itself: it is told that the thread is busy
    say(f"thread {thread!r} was left while steps ran: waiting for {workers.names}")
    return workers


os.register_at_fork(after_in_child=_left.clear)
