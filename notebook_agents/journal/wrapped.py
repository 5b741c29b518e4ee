"""Data keys as they are stored: wrapped by the master key, in the queue and once more beside it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from notebook_agents.errors import KeyMissingError
from notebook_agents.journal import keycopy
from notebook_agents.journal.failures import writing
from notebook_agents.journal.sql import query
from notebook_agents.sealing import DataKey, KeyRing, load_ring, wrapped_by

if TYPE_CHECKING:
    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.writer import Writer


class WrappedKeys:
    """A journal's stored data keys.

    Args:
        queue: Where they are read.
        writer: By which they are written.
    """

    def __init__(self, queue: Queue, writer: Writer) -> None:
        self._queue = queue
        self._writer = writer
        self._ring: KeyRing | None = None

    def load(self, scope: str, *, create: bool) -> tuple[DataKey, bytes]:
        """Return a scope's key, and what it was unwrapped from; make one for a new scope.

        Raises:
            KeyMissingError: The master key that wraps it is not here, or there is none.
        """
        home = self._queue.home
        context = f"{self._queue.journal_id}\0{scope}".encode()
        wrapped = self._queue.key(scope)
        other = wrapped or self._queue.any_key()
        if self._ring is None:
            self._ring = load_ring(create=other is None)
            if self._ring.created_at is not None:
                sys.stderr.write(
                    f"notebook-agents: made a master key, {self._ring.created_at}: keep a copy\n"
                )
        if wrapped is None:
            if not create:
                how = "was lost" if scope in self._queue.keyless() else "was deleted"
                raise KeyMissingError(
                    f"the key of thread {scope!r} {how} from {home}: its contents cannot be read "
                    "any more"
                )
            if other is not None:
                self._ring.get(wrapped_by(other))  # a journal keeps to the keys it has
            fresh = self._ring.current.wrap(os.urandom(32), context)
            self._writer.execute(query("queue.add_key"), {"scope": scope, "wrapped": fresh})
            wrapped = self._queue.key(scope)
            assert wrapped is not None
            if wrapped == fresh:  # else another process made one a moment earlier
                with writing(home):
                    keycopy.add(home, self._queue.journal_id, scope, fresh)
        return DataKey(self._ring.get(wrapped_by(wrapped)).unwrap(wrapped, context)), wrapped

    def forget_copy(self, scope: str) -> None:
        """Take a scope's key out of the copy, if the queue has it no more."""
        if self._queue.key(scope) is None:
            with writing(self._queue.home):
                keycopy.drop(self._queue.home, scope)
