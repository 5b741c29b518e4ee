"""A copy of a thread's checkpoints under another name.

The copy is of the same scope: the chunks, where the content is, are not written again, and the
scope's data key lives on for as long as one of the two threads does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.errors import (
    FencedError,
    KeyMissingError,
    ThreadExistsError,
    UnknownThreadError,
)
from notebook_agents.journal.records import Draft, Record
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.store import Journal

_COPIED = (Kind.CHECKPOINT, Kind.WRITES)
NEEDED = "needed"
"""A deletion's `name` where what it hides has to stay: a shown checkpoint is built on it."""


def hidden(records: Sequence[Record]) -> set[int]:
    """Return the numbers of the records that deletions among `records` name."""
    return {seq for record in records if record.kind is Kind.DELETION for seq in record.refs}


def copy_thread(journal: Journal, source: str, target: str) -> None:
    """Copy a thread's checkpoints and pending writes to a new thread, in one transaction.

    Runs and their steps are not copied: to an agent the copy is a conversation that has not run.

    Args:
        journal: The journal.
        source: The thread to copy; it may be driven, then its newest committed state is copied.
        target: The new thread's name.

    Raises:
        UnknownThreadError: There is no such thread, or it was deleted in the meantime.
        ThreadExistsError: There is a thread of the new name.
    """
    head = journal.head(source)
    if head is None:
        raise UnknownThreadError(
            f"there is no thread {source!r} in {journal.home} to copy: `notebook-agents list` "
            "shows those that there are"
        )
    if journal.head(target) is not None:
        raise _exists(source, target)
    drafts = _drafts(journal, head, target)
    if not drafts:
        return
    try:
        journal.append(drafts, durable=True)  # from here on the copy keeps the key alive
    except (FencedError, KeyMissingError) as error:
        raise UnknownThreadError(
            f"thread {source!r} was deleted while it was copied to {target!r}: nothing was copied, "
            "copy another thread"
        ) from error
    made = journal.head(target)
    if made is None or made.first_seq != drafts[0].seq:  # somebody else was a moment earlier
        if made is not None:
            gone = [draft for draft in drafts if draft.kind is not Kind.DELETION]
            journal.append(_hiding(target, head.scope, gone), durable=True)
        raise _exists(source, target)


def _drafts(journal: Journal, head: Head, target: str) -> list[Draft]:
    """Return the records of a copy: what is shown, what that refers to, and what hides the rest."""
    with journal.reading():
        records = journal.select(thread=head.thread, kinds=(*_COPIED, Kind.DELETION))
        gone = hidden(records)
        copied = _closed([r for r in records if r.kind is not Kind.DELETION], records, gone)
    drafts = copy_records(journal, copied, target)
    for draft in drafts:
        draft.run = None
    unseen = [draft for record, draft in zip(copied, drafts, strict=True) if record.seq in gone]
    return [*drafts, *_hiding(target, head.scope, unseen)]


def copy_records(
    journal: Journal, records: Sequence[Record], thread: str, *, token: int | None = None
) -> list[Draft]:
    """Return drafts of records as another thread's, with the times at which they were made.

    What a record refers to is the copy, if that is among `records`, and otherwise what it was:
    chunks belong to the scope and are not copied.

    Args:
        journal: The journal that has them.
        records: In order.
        thread: Whose the copies are.
        token: The driver's that appends them, if the thread has one.

    Raises:
        SealError: One does not open.
    """
    keys = {one: journal.data_key(one, create=False) for one in {r.scope for r in records}}
    plain = journal.payloads([record.seq for record in records])
    made: dict[int, Draft] = {}
    for record in records:
        made[record.seq] = Draft(
            kind=record.kind,
            thread=thread,
            scope=record.scope,
            plain=plain[record.seq],
            run=record.run,
            ns=record.ns,
            step=record.step,
            parent=record.parent,
            name=record.name,
            attempt=record.attempt,
            ref=record.ref,
            prior=record.prior,
            digest=record.digest,
            refs=[made.get(seq, seq) for seq in record.refs],
            size=record.size,
            token=token,
            ts=record.ts,
            key=keys[record.scope],
        )
    return list(made.values())


def _closed(
    candidates: Sequence[Record], records: Sequence[Record], gone: set[int]
) -> list[Record]:
    """Return the shown records and the hidden ones that these need, in order."""
    wanted = {
        seq
        for record in records
        if record.kind is Kind.DELETION and record.name == NEEDED
        for seq in record.refs
    }
    for record in reversed(candidates):  # a record refers to smaller numbers only
        if record.seq not in gone or record.seq in wanted:
            wanted.update((record.seq, *record.refs))
    return [record for record in candidates if record.seq in wanted]


def _hiding(thread: str, scope: str, gone: Sequence[Draft]) -> list[Draft]:
    """Return deletions that name these drafts, one for each namespace."""
    return [
        Draft(
            kind=Kind.DELETION,
            thread=thread,
            scope=scope,
            ns=ns,
            name=NEEDED,
            refs=[draft for draft in gone if draft.ns == ns],
        )
        for ns in dict.fromkeys(draft.ns for draft in gone)
    ]


def _exists(source: str, target: str) -> ThreadExistsError:
    return ThreadExistsError(
        f"thread {target!r} is there already: copy thread {source!r} to another name, or delete "
        f"{target!r} first"
    )
