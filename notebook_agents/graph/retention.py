"""What of the checkpoints may go: the deletions that `JournalSaver` appends, and its refusals.

Each deletion names the token that the thread had when nobody drove it. The append compares it in
its own transaction, so a driver that began in between is seen: see `settled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.errors import FencedError, RunUnfinishedError
from notebook_agents.graph.checkpoints import Reader
from notebook_agents.graph.history import KINDS, History
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notebook_agents.graph.codec import StateCodec
    from notebook_agents.journal import Draft, Journal
    from notebook_agents.journal.queue import Head


_TRIES = 3


def settled(journal: Journal, drafts: Callable[[], Sequence[Draft]]) -> Sequence[Draft]:
    """Append the deletions that `drafts` returns; look again where a driver began meanwhile.

    Returns:
        What was appended.

    Raises:
        ThreadBusyError, RunUnfinishedError: See `drafts`; nothing is deleted.
        FencedError: One driver after the other takes a thread and gives it back.
    """
    for left in reversed(range(_TRIES)):
        found = drafts()
        try:
            if found:
                journal.append(found, durable=True)
        except FencedError:
            if not left:
                raise
        else:
            return found
    raise AssertionError


def _by(head: Head, drafts: list[Draft]) -> list[Draft]:
    """Have deletions refused once another driver than the thread's last one has it."""
    for draft in drafts:
        draft.token = head.token
    return drafts


def without_older(journal: Journal, codec: StateCodec, threads: Sequence[str]) -> list[Draft]:
    """Return deletions of all but the newest checkpoint of each namespace of these threads.

    Writes whose checkpoint is not stored yet stay.

    Raises:
        ThreadBusyError: A living process drives one of the threads.
    """
    drafts: list[Draft] = []
    for thread in threads:
        head = journal.at_rest(thread, then="prune it")
        if head is None:
            continue
        with journal.reading():
            history = History(journal.select(thread=thread, kinds=KINDS))
            newest = history.newest()
            older = [
                place
                for place in history.places()
                if place.ns in newest and place.id < (newest[place.ns].ref or "")
            ]
            gone = history.without(older, newest.values(), Reader(journal, codec), show=True)
            drafts += _by(head, gone)
    return drafts


def without_runs(journal: Journal, codec: StateCodec, run_ids: set[str]) -> list[Draft]:
    """Return deletions of the checkpoints of LangGraph's runs.

    Raises:
        ThreadBusyError: A living process drives one of the threads.
        RunUnfinishedError: An unfinished run rests on one of the checkpoints.
    """
    drafts: list[Draft] = []
    with journal.reading():
        named = [
            record
            for run_id in sorted(run_ids)
            for record in journal.select(kinds=[Kind.CHECKPOINT], name=run_id)
        ]
        for thread in dict.fromkeys(record.thread for record in named):
            history = History(journal.select(thread=thread, kinds=KINDS))
            gone = {
                place: record for place, record in history.shown.items() if record.name in run_ids
            }
            if not gone:
                continue
            head = journal.at_rest(thread, then="delete the run's checkpoints")
            if head is None:  # the thread was deleted a moment ago
                continue
            newest = {record.seq for record in history.newest().values()}
            for record in gone.values():
                if record.seq in newest or record.run == head.run:
                    _check(head)
            kept = [record for place, record in history.shown.items() if place not in gone]
            drafts += _by(head, history.without(gone, kept, Reader(journal, codec), show=False))
    return drafts


def check_finished(journal: Journal, threads: Sequence[str]) -> None:
    """Refuse to delete threads that are driven, or whose newest run can still go on.

    Raises:
        ThreadBusyError: A living process drives one of them.
        RunUnfinishedError: An agent's run on one of them is unfinished.
    """
    for thread in threads:
        head = journal.at_rest(thread, then="prune it")
        if head is not None:
            _check(head)


def _check(head: Head) -> None:
    status = head.info().status
    if head.run and not status.finished:
        raise RunUnfinishedError(
            f"run {head.run} of thread {head.thread!r} is {status} and goes on from its "
            "checkpoints: resume it first, or give it up with "
            f"saver.delete_thread({head.thread!r})"
        )
