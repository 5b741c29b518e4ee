"""Keeping less: `prune` and `delete`, for a person to call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from notebook_agents import clock
from notebook_agents.errors import RunUnfinishedError, SealError, ThreadBusyError, UsageError
from notebook_agents.graph import retention
from notebook_agents.graph.folder import default_journal
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal.claims import busy
from notebook_agents.journal.deleting import settled
from notebook_agents.journal.freed import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set
    from datetime import timedelta

    from notebook_agents.journal import Draft, Journal
    from notebook_agents.journal.queue import Head

_TOGETHER = 20
"""So many threads share a burst: others wait for DuckDB meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What went of one thread, or would go.

    Attributes:
        thread: Its name.
        checkpoints: How many of its checkpoints are not shown any more.
        records: How many records nothing needs any more, those checkpoints' included.
        bytes: What those take in the journal's files, as they are stored there.
        why: Why something stays that would go otherwise, or None.
        refused: Whether nothing of it could be touched.
    """

    thread: str
    checkpoints: int = 0
    records: int = 0
    bytes: int = 0
    why: str | None = None
    refused: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What a `prune` or `delete` did, thread by thread.

    Attributes:
        threads: The threads of which something went, or had to stay.
        dry_run: Whether nothing was done.
    """

    threads: tuple[Removed, ...]
    dry_run: bool = False

    @property
    def checkpoints(self) -> int:
        """How many checkpoints went."""
        return sum(one.checkpoints for one in self.threads)

    @property
    def records(self) -> int:
        """How many records nothing needs any more."""
        return sum(one.records for one in self.threads)

    @property
    def bytes(self) -> int:
        """What those take in the journal's files, until it is compacted."""
        return sum(one.bytes for one in self.threads)

    @property
    def refused(self) -> tuple[Removed, ...]:
        """The threads that could not be touched."""
        return tuple(one for one in self.threads if one.refused)

    def __str__(self) -> str:
        went = [one for one in self.threads if one.checkpoints or one.records]
        lines = [f"{one.thread}: {_amount(one)}" for one in went]
        lines += [f"{one.thread}: {one.why}" for one in self.threads if one.why]
        if not went:
            return "\n".join([*lines, "nothing goes"])
        total = f"in all {'would go' if self.dry_run else 'went'}: {_amount(self)}"
        if not self.dry_run and self.bytes:
            total += "; `notebook-agents journal compact` gives the space back"
        return "\n".join([*lines, total])


def prune(
    thread: str | None = None,
    *,
    keep_last: int | None = None,
    newer_than: timedelta | None = None,
    dry_run: bool = False,
    journal: Journal | None = None,
) -> Removal:
    """Delete old checkpoints. Steps, results and what was said stay, and so does the newest state.

    A checkpoint stays if one of the two says so. Besides, whatever they say, stay the newest
    checkpoint of the thread and of each subgraph that goes on, all checkpoints of a run that is
    not finished, and what the checkpoints that stay, or forks of the thread, are built on.

    Args:
        thread: Whose; None for all threads of the journal.
        keep_last: The newest so many of a thread, and of each subgraph, stay; at least 1.
        newer_than: Those stay that are not older.
        dry_run: Only say what would go.
        journal: Which; None for the journal of this folder.

    Returns:
        What went. Without `thread`, threads that could not be touched are among it, with why.

    Raises:
        UsageError: Neither says what stays, or one of them means nothing.
        UnknownThreadError: There is no such thread.
        ThreadBusyError: A living process drives the thread.
    """
    keep = kept(keep_last, newer_than)
    journal = journal or default_journal(create=False)
    if thread is None:
        return prune_threads(journal, None, keep, dry_run=dry_run)
    journal.thread(thread)
    one = _pruned(journal, thread, keep, dry_run=dry_run, gone={})
    return Removal(threads=(one,), dry_run=dry_run)


def delete(thread: str, *, unfinished: bool = False, journal: Journal | None = None) -> Removal:
    """Delete a thread with all it holds: nobody can read it any more.

    Forks and copies of it stay whole, and with them what they share with it.

    Args:
        thread: Its name.
        unfinished: Whether it goes although its newest run could go on.
        journal: Which; None for the journal of this folder.

    Raises:
        UnknownThreadError: There is no such thread.
        RunUnfinishedError: Its newest run is not finished: it failed, waits, is in doubt, or its
            process died.
        ThreadBusyError: A living process drives it.
    """
    journal = journal or default_journal(create=False)
    journal.thread(thread)
    went: list[Removed] = []

    def check(head: Head) -> None:
        went[:] = [deletable(journal, head, unfinished=unfinished)]

    journal.delete_thread(thread, check=check)
    return Removal(threads=tuple(went))


def deletable(journal: Journal, head: Head, *, unfinished: bool) -> Removed:
    """Return what the deletion of a thread would take away.

    Raises:
        RunUnfinishedError: Its newest run is not finished, and may not go unfinished.
    """
    status = head.info().status
    if not unfinished and head.run and not status.finished:
        raise RunUnfinishedError(
            f"run {head.run} of thread {head.thread!r} is {status} and can go on: resume or cancel "
            "it first, or delete it as it is by unfinished=True (--unfinished)"
        )
    with journal.reading():
        scope = Scope(journal, head.scope)
        records, size = scope.freed(thread=head.thread)
        checkpoints = len(retention.shown(journal, head.thread))
    others = [name for name in scope.threads if name != head.thread]
    why = f"what it shares with {', '.join(map(repr, others))} stays" if others else None
    return Removed(
        thread=head.thread, checkpoints=checkpoints, records=records, bytes=size, why=why
    )


def kept(keep_last: int | None, newer_than: timedelta | None) -> retention.Keep:
    """Return what stays.

    Raises:
        UsageError: Neither says it, or one of them means nothing.
    """
    if keep_last is None and newer_than is None:
        raise UsageError(
            "nothing says which checkpoints stay: give keep_last (--keep), newer_than "
            "(--newer-than), or both"
        )
    if keep_last is not None and keep_last < 1:
        raise UsageError(f"keep_last is {keep_last}: give at least 1, or delete the thread instead")
    if newer_than is None:
        return retention.Keep(last=keep_last or 1)
    if newer_than.total_seconds() < 0:
        raise UsageError(f"newer_than is {newer_than}: give a time that is not negative")
    since = clock.now_us() - round(newer_than.total_seconds() * 1e6)
    return retention.Keep(last=keep_last or 1, since=since)


def prune_threads(
    journal: Journal,
    threads: Sequence[str] | None,
    keep: retention.Keep,
    *,
    dry_run: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Removal:
    """Prune several threads, each in a transaction of its own; None: all.

    One that refuses does not keep the others from being pruned.

    Args:
        journal: The journal.
        threads: Their names.
        keep: What stays.
        dry_run: Only say what would go.
        progress: Told how many of how many threads are done.

    Raises:
        UnknownThreadError: There is no such thread; nothing was pruned.
    """
    if threads is None:
        threads = [head.thread for head in journal.heads()]
    else:
        for name in threads:
            journal.thread(name)
    names = list(dict.fromkeys(threads))
    found: list[Removed] = []
    gone: dict[str, set[int]] = {}
    for start in range(0, len(names), _TOGETHER):
        with journal.reading():
            for number, name in enumerate(names[start : start + _TOGETHER], start + 1):
                try:
                    one = _pruned(journal, name, keep, dry_run=dry_run, gone=gone)
                except (ThreadBusyError, SealError) as error:
                    one = Removed(thread=name, why=str(error), refused=True)
                if one.checkpoints or one.records or one.why:
                    found.append(one)
                if progress is not None:
                    progress(number, len(names))
    return Removal(threads=tuple(found), dry_run=dry_run)


def _pruned(
    journal: Journal,
    thread: str,
    keep: retention.Keep,
    *,
    dry_run: bool,
    gone: dict[str, set[int]],
) -> Removed:
    """Prune one thread; `gone` is what a dry run has taken away before, by scope."""
    went = Removed(thread=thread)
    codec = JournalSaver(journal)._codec

    def drafts() -> list[Draft]:
        nonlocal went
        head = _at_rest(journal, thread, dry_run=dry_run)
        if head is None:  # it was deleted a moment ago
            return []
        with journal.reading():
            made, spared = retention.without_all_but(journal, codec, head, keep)
            before = gone.setdefault(head.scope, set())
            went = _went(journal, head, made, before)
        if dry_run:
            before.update(_named(made))
        if spared:
            why = f"all checkpoints of run {head.run} stay, which is {head.info().status}"
            went = replace(went, why=why)
        return made

    if dry_run:
        drafts()
    else:
        settled(journal, drafts)
    return went


def _at_rest(journal: Journal, thread: str, *, dry_run: bool) -> Head | None:
    """Return a thread's head; a dry run asks nothing of its driver, which would be a record."""
    if not dry_run:
        return journal.at_rest(thread, then="prune it")
    head = journal.head(thread)
    if head is not None and head.driven:
        raise busy(head, "stop it there, then prune it")
    return head


def _went(journal: Journal, head: Head, made: Sequence[Draft], before: Set[int]) -> Removed:
    gone = _named(made)
    if not gone:
        return Removed(thread=head.thread)
    records, size = Scope(journal, head.scope, before).freed(gone)
    shown = {record.seq for record in retention.shown(journal, head.thread)}
    checkpoints = len(shown.intersection(gone))
    return Removed(thread=head.thread, checkpoints=checkpoints, records=records, bytes=size)


def _named(deletions: Sequence[Draft]) -> set[int]:
    return {ref for draft in deletions for ref in draft.refs if isinstance(ref, int)}


def _amount(one: Removed | Removal) -> str:
    from notebook_agents.journal.damage import counted

    parts = (counted(one.checkpoints, "checkpoint"), counted(one.records, "record"))
    return f"{', '.join(parts)}, {one.bytes:,} bytes"
