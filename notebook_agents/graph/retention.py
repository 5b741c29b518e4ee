"""What of the checkpoints may go: the deletions that `JournalSaver` appends, and its refusals.

Each deletion names the token that the thread had when nobody drove it. The append compares it in
its own transaction, so a driver that began in between is seen: see `journal/deleting.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.errors import RunUnfinishedError
from notebook_agents.graph.checkpoints import Reader
from notebook_agents.graph.history import KINDS, History, Place
from notebook_agents.journal import Draft
from notebook_agents.journal.copying import hidden
from notebook_agents.model import Kind
from notebook_agents.runtime.object_records import INDEXED, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_agents.graph.codec import StateCodec
    from notebook_agents.journal import Journal, Record
    from notebook_agents.journal.queue import Head


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


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints a pruning leaves.

    Attributes:
        last: The newest so many of each namespace, at least 1.
        since: And those made from then on, microseconds since 1970-01-01 UTC; None for no others.
    """

    last: int = 1
    since: int | None = None

    def has(self, number: int, record: Record) -> bool:
        """Whether it leaves a checkpoint that has `number` newer ones in its namespace."""
        return number < self.last or (self.since is not None and record.ts >= self.since)


def without_all_but(
    journal: Journal, codec: StateCodec, head: Head, keep: Keep
) -> tuple[list[Draft], bool]:
    """Return deletions of a thread's checkpoints that `keep` does not leave.

    Those of an unfinished run stay. The subgraph of a task that ended before the oldest checkpoint
    that stays goes as a whole: nothing goes on from it. So do objects as only states had them that
    are older than the first one that stays.

    Args:
        journal: The journal.
        codec: Reads its checkpoints.
        head: The thread's, which nobody drives.
        keep: What stays.

    Returns:
        The deletions, and whether more would go if the newest run were finished.
    """
    history = History(journal.select(thread=head.thread, kinds=KINDS))
    run = head.run if head.run and not head.info().status.finished else None
    stay = _staying(history, keep, run)
    newest = {ns: max(places) for ns, places in _by_ns(history.shown).items()}
    older = [
        place
        for place in history.places()
        if place not in stay
        and place.ns in newest
        and (newest[place.ns] not in stay or place.id < newest[place.ns].id)
    ]
    left = [record for place, record in history.shown.items() if place in stay]
    drafts = history.without(older, left, Reader(journal, codec), show=True)
    first = min((record.seq for record in left if not record.ns), default=0)
    drafts = _by(head, drafts + _without_objects(journal, head, first))
    return drafts, run is not None and stay != _staying(history, keep, None)


def _without_objects(journal: Journal, head: Head, first: int) -> list[Draft]:
    """Return the deletion of the snapshots of objects that only older states than `first` had."""
    known = snapshots(journal, head.thread)
    whole = [r.seq for r in known if r.ref == INDEXED and r.parent is None and r.seq < first]
    gone = hidden(journal.select(thread=head.thread, kinds=[Kind.DELETION]))
    older = [r.seq for r in known if whole and r.seq < whole[-1] and r.seq not in gone]
    return [
        Draft(kind=Kind.DELETION, thread=head.thread, scope=head.scope, refs=older)
        for _ in older[:1]
    ]


def shown(journal: Journal, thread: str) -> list[Record]:
    """Return a thread's checkpoints that no deletion names."""
    return [*History(journal.select(thread=thread, kinds=KINDS)).shown.values()]


def _staying(history: History, keep: Keep, run: int | None) -> set[Place]:
    """Return the checkpoints that stay; `run` is one that stays as a whole."""
    stay: set[Place] = set()
    spaces = _by_ns(history.shown)
    for places in spaces.values():
        for number, place in enumerate(sorted(places, reverse=True)):
            record = history.shown[place]
            if keep.has(number, record) or (run is not None and record.run == run):
                stay.add(place)
    roots = [place for place in stay if not place.ns]
    if not roots:
        return stay
    first = min(place.id for place in roots), min(history.shown[place].seq for place in roots)
    for ns, places in spaces.items():
        records = [history.shown[place] for place in places]
        # The clock that is in the ids can have been set back: the numbers have to agree.
        ended = ":" in ns and all(r.seq < first[1] and (r.ref or "") < first[0] for r in records)
        if ended and not any(
            (run is not None and r.run == run) or (keep.since is not None and r.ts >= keep.since)
            for r in records
        ):
            stay.difference_update(places)
    return stay


def _by_ns(places: Iterable[Place]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.ns, []).append(place)
    return found


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
                    check_run(head)
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
            check_run(head)


def check_run(head: Head) -> None:
    """Refuse where a thread's newest run can still go on.

    Raises:
        RunUnfinishedError: It can.
    """
    status = head.info().status
    if head.run and not status.finished:
        raise RunUnfinishedError(
            f"run {head.run} of thread {head.thread!r} is {status} and goes on from its "
            "checkpoints: resume it first, or give it up with "
            f"saver.delete_thread({head.thread!r})"
        )
