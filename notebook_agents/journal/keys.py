"""The data keys that a process knows, and how it learns that another one deleted some.

A thread's key is deleted with the thread. A process that went on sealing with its copy would write
records that nobody can ever read. So the journal counts deleted keys, and each transaction reads
the count along with the newest number: where it grew, the keys that are known are looked up again.
One that was rotated meanwhile is the same key, wrapped by another master key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents.errors import FencedError, SealError
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from notebook_agents.journal.records import Draft
    from notebook_agents.sealing import DataKey


class Keys:
    """Data keys by scope.

    Args:
        forgotten: Told each scope whose key is not known any more.
        unwrap: Returns the key of a scope that is stored so, asking nobody for a passphrase: a
            rotation stores the same key in another form.
    """

    def __init__(
        self, forgotten: Callable[[str], object], unwrap: Callable[[str, bytes], DataKey]
    ) -> None:
        self._known: dict[str, tuple[DataKey, bytes | None]] = {}
        self._closed: dict[str, SealError] = {}
        self._forgotten = forgotten
        self._unwrap = unwrap
        self._deleted: int | None = None

    def __contains__(self, scope: str) -> bool:
        return scope in self._known

    def __getitem__(self, scope: str) -> DataKey:
        return self._known[scope][0]

    def get(self, scope: str) -> DataKey | None:
        """Return a key, if it is known."""
        known = self._known.get(scope)
        return None if known is None else known[0]

    def add(self, scope: str, key: DataKey, wrapped: bytes | None) -> DataKey:
        """Remember a key, and what it was unwrapped from (None: it is not stored); return it."""
        self._known[scope] = (key, wrapped)
        self._closed.pop(scope, None)
        return key

    def forget(self, scope: str) -> None:
        """Forget a key, and have all forgotten that was made with it."""
        self._forgotten(scope)
        self._known.pop(scope, None)

    def check(self, scope: str, wrapped: bytes | None) -> bool:
        """Return whether what is known of a scope's key is so; forget the key if it is not."""
        known = self._known.get(scope)
        if known is None or known[1] == wrapped:
            return True
        if wrapped is not None and self._same(scope, known[0], wrapped):
            self._known[scope] = (known[0], wrapped)
            return True
        self.forget(scope)
        return False

    def _same(self, scope: str, known: DataKey, wrapped: bytes) -> bool:
        try:
            return known.equals(self._unwrap(scope, wrapped))
        except SealError as error:  # it was rotated to a key that is not here, or made anew
            self._closed[scope] = error
            return False

    def refuse(self, connection: sqlite3.Connection, deleted: int, tickets: Sequence[Any]) -> bool:
        """Finish the tickets that would be sealed with a deleted key; return whether any was.

        Args:
            connection: In the transaction that would write them.
            deleted: How many keys were ever deleted from the journal.
            tickets: What is to be written.
        """
        if deleted != self._deleted:
            stored = dict(connection.execute(query("queue.keys")).fetchall())
            for scope in list(self._known):
                self.check(scope, stored.get(scope))
            self._deleted = deleted
        found = False
        for ticket in tickets:
            if not all(map(self._fits, ticket.drafts)):
                closed = [self._closed.get(draft.scope) for draft in ticket.drafts]
                ticket.finish(next(filter(None, closed), None) or _deleted(ticket.drafts))
                found = True
        return found

    def _fits(self, draft: Draft) -> bool:
        """Whether the key that is known of a draft's scope is the one that it was made with."""
        known = self._known.get(draft.scope)
        return known is not None and (draft.key is None or draft.key.equals(known[0]))


def _deleted(drafts: Sequence[Draft]) -> FencedError:
    return FencedError(
        f"thread {drafts[0].thread!r} was deleted by another process, and the key that this one "
        "had of it: nothing of this was recorded, do it again for a new thread of that name"
    )
