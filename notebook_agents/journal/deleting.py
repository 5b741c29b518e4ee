"""Deletions that look and write as one.

A deletion names the token that the thread had when nobody drove it. The append compares it in its
own transaction: whoever took the thread in between has another one, also where he gave it back. So
what the look found of the thread's runs is still so when the deletion commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.errors import FencedError, KeyMissingError
from notebook_agents.journal.claims import fenced
from notebook_agents.journal.records import Draft
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.store import Journal

_TRIES = 3


def settled(journal: Journal, drafts: Callable[[], Sequence[Draft]]) -> Sequence[Draft]:
    """Append the deletions that `drafts` returns; look again where a driver began meanwhile.

    Returns:
        What was appended.

    Raises:
        ThreadBusyError, RunUnfinishedError: See `drafts`; nothing is deleted.
        FencedError: One driver after the other takes a thread and gives it back.
        KeyMissingError: A thread is there and its data key is not.
    """
    for left in reversed(range(_TRIES)):
        try:
            found = drafts()
            if found:
                journal.append(found, durable=True)
        except (FencedError, KeyMissingError):  # it is driven, deleted or made anew since the look
            if not left:
                raise
        else:
            return found
    raise AssertionError


def whole(journal: Journal, thread: str, check: Callable[[Head], object]) -> list[Draft]:
    """Return the deletion of a thread with all it holds, or nothing where it is not there.

    Args:
        journal: The journal.
        thread: The thread's name.
        check: Raises if the thread must stay.

    Raises:
        ThreadBusyError: A living process drives it.
    """
    head = journal.at_rest(thread, then="delete the thread")
    if head is None:
        return []
    check(head)
    now = journal.head(thread)  # the check can take its time; a new thread counts tokens anew
    if now is None or now.first_seq != head.first_seq:
        raise fenced(thread, now)
    return [Draft(kind=Kind.DELETION, thread=thread, scope=head.scope, token=head.token)]
