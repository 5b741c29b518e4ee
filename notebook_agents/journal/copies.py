"""Records of one thread written again for another one that shares its scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.journal.records import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from notebook_agents.journal.records import Record
    from notebook_agents.journal.store import Journal


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
        )
    return list(made.values())
