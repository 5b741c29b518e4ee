"""Data keys as they are stored: wrapped by the master key, in the queue and once more beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from notebook_agents.errors import (
    JournalFormatError,
    KeyMissingError,
    NotebookAgentsError,
    SealError,
)
from notebook_agents.journal import keycopy
from notebook_agents.journal.failures import writing
from notebook_agents.journal.sql import query
from notebook_agents.saying import say
from notebook_agents.sealing import DataKey, KeyRing, MasterKey, load_ring, wrapped_by

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from notebook_agents.journal.queue import Queue
    from notebook_agents.journal.writer import Writer


class FoundKeys:
    """The data keys of a journal whose own table of them may be damaged.

    Args:
        journal_id: The journal's id.
        sources: Stored keys by scope, from each place that has some.

    Attributes:
        wrapped: Of each scope the stored key that opens; where none does, one whose master key is
            not here, of which nothing can be told. A scope that has neither is left out.
    """

    def __init__(self, journal_id: str, *sources: Mapping[str, bytes]) -> None:
        self._id = journal_id
        self._open: dict[str, DataKey] = {}
        self._ring: KeyRing | None = None
        with suppress(NotebookAgentsError):
            self._ring = load_ring(create=False)
        self.wrapped: dict[str, bytes] = {}
        for scope in sorted({scope for source in sources for scope in source}):
            self._choose(scope, [source[scope] for source in sources if scope in source])

    def _choose(self, scope: str, stored: list[bytes]) -> None:
        for wrapped in stored:
            try:
                master = wrapped_by(wrapped)
                if self._ring is not None:
                    context = f"{self._id}\0{scope}".encode()
                    raw = self._ring.get(master).unwrap(wrapped, context)
                    self._open[scope] = DataKey(raw)
                    self.wrapped[scope] = wrapped
                    return
            except KeyMissingError:  # or what names the master key is altered: the next may open
                pass
            except (SealError, JournalFormatError):
                continue
            self.wrapped.setdefault(scope, wrapped)

    def key(self, scope: str) -> DataKey:
        """Return a scope's key.

        Raises:
            KeyMissingError: It is not here.
        """
        if scope not in self._open:
            raise KeyMissingError(f"the key of {scope!r} is not here")
        return self._open[scope]


def altered(home: Path, journal_id: str, stored: Mapping[str, bytes]) -> set[str]:
    """Return the scopes whose stored key does not open, while that in `keys.copy` does."""
    copied = keycopy.read(home)[1]
    either = FoundKeys(journal_id, stored, copied).wrapped
    return {scope for scope, wrapped in stored.items() if either.get(scope, wrapped) != wrapped}


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
        wrapped = self._queue.key(scope)
        other = wrapped or self._queue.any_key()
        if self._ring is None:
            self._ring = _ring(other)
            if self._ring.created_at is not None:
                say(
                    f"notebook-agents: made a master key, {self._ring.created_at}: keep a copy, "
                    "without it nothing that is kept here can be read"
                )
        if wrapped is None:
            if not create:
                how = "was lost" if scope in self._queue.keyless() else "was deleted"
                raise KeyMissingError(
                    f"the key of thread {scope!r} {how} from {home}: its contents cannot be read "
                    "any more"
                )
            if other is not None:
                self._master(wrapped_by(other))  # a journal keeps to the keys it has
            wrapped = self._make(scope)
        return self.unwrap(scope, wrapped, ask=True), wrapped

    def _make(self, scope: str) -> bytes:
        """Make a scope's key, unless another process does so first; return it as it is stored."""
        raw = os.urandom(32)
        while True:
            assert self._ring is not None
            named = self._queue.master()
            master = self._ring.current if named is None else self._master(named)
            fresh = master.wrap(raw, self._context(scope))
            asked = {"scope": scope, "wrapped": fresh, "master": master.id}
            self._writer.execute(query("queue.add_new_key"), asked)
            wrapped = self._queue.key(scope)
            if wrapped is None:  # the journal was rotated in between, or the thread deleted
                continue
            if wrapped == fresh:  # else another process made one a moment earlier
                with writing(self._queue.home):
                    keycopy.add(self._queue.home, self._queue.journal_id, scope, fresh)
            return wrapped

    def unwrap(self, scope: str, wrapped: bytes, *, ask: bool = False) -> DataKey:
        """Return the key of a scope that is stored so.

        Args:
            scope: The scope.
            wrapped: What is stored.
            ask: Whether somebody may be asked for a passphrase.

        Raises:
            KeyMissingError: The master key that wraps it is not here.
            SealError: It is damaged.
        """
        try:
            master = self._master(wrapped_by(wrapped), ask=ask)
            return DataKey(master.unwrap(wrapped, self._context(scope)))
        except KeyMissingError:
            raise
        except SealError as error:
            raise SealError(
                f"the key of thread {scope!r} in {self._queue.home} does not open: {error}; "
                "nothing of the thread was loaded, `notebook-agents journal repair` says what can "
                "be brought back"
            ) from error

    def _master(self, name: str, *, ask: bool = True) -> MasterKey:
        """Return a master key; one that came into the key file after this journal was opened."""
        if self._ring is None:
            self._ring = load_ring(create=False)
        try:
            return self._ring.get(name, ask=ask)
        except KeyMissingError:
            if not self._ring.changed():
                raise
        self._ring = load_ring(create=False)
        return self._ring.get(name, ask=ask)

    def _context(self, scope: str) -> bytes:
        return f"{self._queue.journal_id}\0{scope}".encode()

    def forget_copy(self, scope: str) -> None:
        """Take a scope's key out of the copy, if the queue has it no more."""
        if self._queue.key(scope) is None:
            with writing(self._queue.home):
                keycopy.drop(self._queue.home, scope)


def _ring(wrapped: bytes | None) -> KeyRing:
    """Return the ring that is to open a stored key; without one the first key may be made."""
    try:
        return load_ring(create=wrapped is None)
    except KeyMissingError as error:
        if wrapped is None:
            raise
        name = wrapped_by(wrapped)
        raise KeyMissingError(f"this journal is sealed with key {name}, and {error}") from None
