"""Leases: asking a driver whether it is still there, and answering.

A driver writes nothing to keep its thread. Whoever wants the thread and cannot judge from here
whether its driver lives (it is on another host, or stopped) leaves a request and is refused. The
driver looks for requests while it drives and deletes what it answered. A request that stands for
the whole of the lease has not been answered: then the thread may be taken.

The time is measured by whoever asks, with a clock of his host that nobody sets. So each host has a
request of its own, and neither a clock that jumps nor one that is wrong takes anybody's thread.
"""

from __future__ import annotations

import _thread
import logging
import sqlite3
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from notebook_agents import clock
from notebook_agents.journal import locks
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.errors import ThreadBusyError
    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.writer import Writer

LOOK_SECONDS = 0.25
"""How often a driver looks for requests: one read of a table that is empty, 15 us."""
_PATIENCE_SECONDS = 5.0
ANSWER, CANCEL = "answer", "cancel"
_logger = logging.getLogger("notebook_agents.journal")


class Leases:
    """Asks other drivers, and answers for the threads that this process drives.

    Args:
        queue: Where requests are read.
        writer: Where they are left and deleted.
    """

    def __init__(self, queue: Queue, writer: Writer) -> None:
        self._queue = queue
        self._writer = writer
        self._lock = threading.Lock()
        self._closed = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] | None = None  # of the thread that looks, if there is one
        self._cancel: Callable[[str], bool] | None = None

    def ask(self, busy: ThreadBusyError) -> None:
        """Have the driver that was met answer, unless it is known to run."""
        if busy.thread is not None and busy.token is not None and busy.expires is not None:
            with suppress(sqlite3.Error, OSError):  # the answer is "busy" all the same
                self._leave(ANSWER, busy.thread, busy.token)

    def cancel(self, thread: str, token: int) -> None:
        """Have a thread's driver cancel its run."""
        self._leave(CANCEL, thread, token)

    def cancel_by(self, act: Callable[[str], bool]) -> None:
        """Have `act` called with a thread's name when another process asks to cancel its run.

        Where it returns False it is called again a moment later.
        """
        self._cancel = act

    def stands(self, thread: str, token: int) -> bool:
        """Whether the wish to cancel was not answered yet."""
        return self._queue.requested(thread, token, CANCEL)

    def look(self) -> None:
        """Look for requests from now on, until this process drives nothing any more."""
        with self._lock:
            if self._ended is not None or self._closed:
                return
            ended: SimpleQueue[None] = SimpleQueue()
            self._ended = ended
            try:
                # Not threading.Thread: a signal in its start() can leave it waiting for ever.
                _thread.start_new_thread(self._serve, (ended,))
            except BaseException:
                self._ended = None
                raise

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        self._wake.put(None)
        ended = self._ended
        if ended is not None:
            with suppress(Empty):
                ended.get(timeout=_PATIENCE_SECONDS)

    def _leave(self, what: str, thread: str, token: int) -> None:
        self._writer.execute(
            query("queue.ask"),
            {
                "thread": thread,
                "token": token,
                "what": what,
                "boot": locks.boot_id(),
                "at": clock.ticking_us(),
            },
        )

    def _serve(self, ended: SimpleQueue[None]) -> None:
        try:
            while not self._closed:
                with suppress(Empty):
                    self._wake.get(timeout=LOOK_SECONDS)
                with self._lock:
                    if self._closed or not self._writer.driving:
                        self._ended = None
                        return
                try:
                    self._answer()
                except Exception:  # the disk may be full: what stands is answered the next time
                    _logger.warning("a request could not be answered", exc_info=True)
        finally:
            ended.put(None)

    def _answer(self) -> None:
        for thread, token, what in self._queue.asked():
            if thread in self._writer.driving:
                if what == CANCEL and self._cancel is not None and not self._cancel(thread):
                    continue  # who has the thread is not there yet: it stands
                self._writer.execute(
                    query("queue.answered"), {"thread": thread, "token": token, "what": what}
                )
