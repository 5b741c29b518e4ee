"""Threads that are deleted when they are old: a time to live, kept while a process idles."""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from notebook_agents import clock, settings
from notebook_agents.errors import SealError, ThreadBusyError, UsageError
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from datetime import timedelta

    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.store import Journal

_FIRST_SECONDS = 1.0
_LOOK_SECONDS = 60.0
AT_ONCE = 20
"""How many threads one look deletes; each is a transaction of a millisecond or two."""

_logger = logging.getLogger("notebook_agents.journal")


class Expiry:
    """Deletes threads whose newest run succeeded or was cancelled longer ago than they may live.

    In a thread of its own, which there is only where a time to live was asked for, while this
    process drives nothing, and at close. What goes wrong is logged: no run fails for it. A clock
    that is set back keeps threads longer, and so does one that is set forward: what passed since
    the journal was opened is measured by a clock that nobody sets.

    Args:
        journal: Whose threads.
        wanted: Whether NOTEBOOK_AGENTS_TTL counts.

    Raises:
        UsageError: It says nothing that could be meant.
    """

    def __init__(self, journal: Journal, *, wanted: bool) -> None:
        self._journal = weakref.ref(journal)  # a journal that nobody holds may go
        self._every = settings.time_to_live() if wanted else None
        self._of: dict[str, timedelta] = {}
        self._opened = clock.now_us(), clock.ticking_us()
        self._stuck: set[str] = set()
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._closed = False

    def of(self, agent: str, ttl: timedelta) -> None:
        """Have the threads of an agent live so long, whatever the variable says."""
        self._of = {**self._of, agent: ttl}  # a new one: the thread that looks may be reading it
        self.begin()

    def begin(self) -> None:
        """Look from now on, if there is a time to live."""
        with self._lock:
            if self._worker is None and not self._closed and self._shortest() is not None:
                self._worker = threading.Thread(
                    target=self._serve, name="notebook-agents-expiry", daemon=True
                )
                self._worker.start()

    def close(self) -> None:
        """Stop looking, after a last look."""
        with self._lock:
            self._closed = True
        self._wake.put(None)
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()
            self._look(last=True)

    def _serve(self) -> None:
        seconds = _FIRST_SECONDS
        while not self._closed and self._journal() is not None:
            with suppress(Empty):
                self._wake.get(timeout=seconds)
            seconds = _FIRST_SECONDS if self._look() else _LOOK_SECONDS

    def _look(self, *, last: bool = False) -> bool:
        """Delete a few expired threads; return whether there may be more."""
        journal = self._journal()
        if journal is None:
            return False
        done = 0
        try:
            for thread in self._expired(journal):
                if done == AT_ONCE:
                    return True
                if (self._closed and not last) or journal._writer.driven_here():
                    return False  # somebody works here: another time
                done += self._delete(journal, thread)
        except Exception as error:  # noqa: BLE001 - see the class: a run, or a close, goes on
            _logger.warning("old threads stay in %s for now: %s", journal.home, error)
        return False

    def _delete(self, journal: Journal, thread: str) -> bool:
        """Delete one thread, unless something became of it meanwhile; return whether it went."""
        try:
            return journal.delete_thread(thread, check=self._refuse)
        except (_Stays, ThreadBusyError):
            return False
        except SealError as error:
            self._stuck.add(thread)  # its key is not here: it is said once, and holds up no other
            _logger.warning("thread %r is old and was not deleted: %s", thread, error)
            return False

    def _expired(self, journal: Journal) -> list[str]:
        shortest = self._shortest()
        if shortest is None:
            return []
        before = max(0, self._now() - round(shortest.total_seconds() * 1e6))
        return [
            head.thread
            for head in journal.queue.untouched(before)
            if head.thread not in self._stuck and head.sane and self._is_old(head)
        ]

    def _is_old(self, head: Head) -> bool:
        """Whether a thread's run is over, and has been for longer than it may live.

        A failed run can be resumed. A thread without runs is a plain LangGraph graph's, pending for
        ever: nobody here knows whether it waits.
        """
        ttl = self._of.get(head.agent or "", self._every)
        if ttl is None or not RunStatus(head.status).finished:
            return False
        return clock.from_us(self._now()) - head.info().updated > ttl

    def _now(self) -> int:
        wall, ticks = self._opened
        return min(clock.now_us(), wall + clock.ticking_us() - ticks)

    def _refuse(self, head: Head) -> None:
        if not self._is_old(head):
            raise _Stays

    def _shortest(self) -> timedelta | None:
        return min((ttl for ttl in (self._every, *self._of.values()) if ttl), default=None)


class _Stays(Exception):  # noqa: N818 - never leaves this module
    """A thread is not to be deleted after all."""


def checked(ttl: timedelta, agent: str) -> timedelta:
    """Return a time to live.

    Raises:
        UsageError: It is none.
    """
    if not ttl.total_seconds() > 0:
        raise UsageError(
            f"the threads of agent {agent!r} cannot live for {ttl}: give ttl a positive timedelta, "
            "or None to keep them"
        )
    return ttl
