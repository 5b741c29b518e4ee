"""Forks: a new thread that has the past of another one up to a point, and goes on from there.

LangGraph's ids of tasks hash the checkpoint, and the fork keeps checkpoints under their ids, so a
task that is still to run has the same id in both threads. Our ids of steps hash the thread too. So
a step that the fork runs has an id and an idempotency key of its own, unless its records were
copied: those are found by the id that they had (`RunDriver.node_step`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from notebook_agents import ids
from notebook_agents.errors import (
    FencedError,
    ThreadBusyError,
    UnknownThreadError,
    UsageError,
)
from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.copying import copy_records, hidden
from notebook_agents.journal.values import pack
from notebook_agents.model import NOTEBOOK, VARIABLES, Kind, RunStatus
from notebook_agents.runtime.origin import here

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from notebook_agents.journal import Journal, Record
    from notebook_agents.journal.queue import Head

FORK = "fork"
"""The name of the decision that begins a fork; its parent is the thread that was forked."""
_STEPS = (
    Kind.STEP_INTENDED,
    Kind.STEP_RETURNED,
    Kind.STEP_FAILED,
    Kind.STEP_SUSPENDED,
    Kind.STEP_LATE,
    Kind.ROUTED,
    Kind.USAGE,
    Kind.SNAPSHOT,
)
_COPIED = (
    Kind.RUN_STARTED,
    Kind.RUN_FINISHED,
    Kind.CHECKPOINT,
    Kind.WRITES,
    Kind.DECISION,
    *_STEPS,
)
_NO_TASK = "00000000-0000-0000-0000-000000000000"
"""LangGraph's task id for what did not come from a task: answers and updates of a `Command`."""
_BAR = "|"


def fork(
    journal: Journal,
    thread: str,
    *,
    at: str | None = None,
    until: int | None = None,
    name: str | None = None,
) -> str:
    """Make a thread that has another one's past up to a point; return its name.

    Args:
        journal: The journal.
        thread: The thread to fork. It is only read: somebody may be driving it.
        at: A step's id: it, and what followed from it, is still to run in the fork; its siblings
            of the same superstep keep what they returned. A checkpoint's id: all tasks behind it
            are still to run. None: nothing is undone; a waiting run waits in the fork too.
        until: Instead of that, the number of the last record that is past.
        name: The new thread's name; None makes one.

    Raises:
        UnknownThreadError: There is no such thread, or no such step or checkpoint in it; or until
            then nothing had begun, or what it stood at was pruned since.
        UsageError: There is a thread `name` already.
    """
    journal.thread(thread)
    head = journal.head(thread)
    assert head is not None
    agent = _agent_of(head)
    name = name or _name(thread)
    records = journal.select(thread=thread, kinds=_COPIED)
    pruned = journal.select(thread=thread, kinds=[Kind.DELETION])
    if until is not None:
        records = _before(thread, records, until, hidden(pruned))
    point = None if at is None else Point(thread, records, at, hidden(pruned))
    kept = [
        record for record in records if _is_past(record) and (point is None or point.has(record))
    ]
    run = head.run if point is None else point.run
    if until is not None:
        run = max(record.run or 0 for record in records)
    session = max(r.attempt or 1 for r in kept if r.kind is Kind.RUN_STARTED and r.run == run)
    there = {record.seq for record in kept}
    kept += [record for record in pruned if not there.isdisjoint(record.refs)]
    drafts = copy_records(journal, kept, name)
    book = here().notebook or head.notebook  # a person forks from a server or a terminal, too
    claim = Claim(agent=agent, run=run, session=session, notebook=book, fresh=True)
    drafts[0].claim = claim
    last = Draft(kind=Kind.DECISION, thread=name, scope=head.scope, run=run, name=FORK)
    last.parent = thread
    if point is not None:
        last.ref = point.checkpoint.ref
        last.step = point.step.step if point.step is not None else None
    drafts.append(last)
    running = head.status == RunStatus.RUNNING if until is None else _is_open(kept, run)
    if point is not None or running:
        drafts.append(pending(name, head.scope, run, session))
    _append(journal, drafts, claim, name, thread)
    return name


def _append(
    journal: Journal, drafts: Sequence[Draft], claim: Claim, name: str, thread: str
) -> None:
    """Record a fork, which nobody drives.

    Raises:
        UsageError: There is a thread of that name.
    """
    try:
        journal.append(drafts, durable=True)
    except FencedError:
        raise
    except ThreadBusyError:
        raise UsageError(
            f"there is a thread {name!r} already: give the fork of {thread!r} another name"
        ) from None
    finally:
        if claim.token:
            journal.release(name, claim.token)


def _before(thread: str, records: Sequence[Record], until: int, gone: Set[int]) -> list[Record]:
    """Return the records up to a number, if the thread can go on from there."""
    past = [record for record in records if record.seq <= until]
    roots = [record for record in past if record.kind is Kind.CHECKPOINT and not record.ns]
    if not any(record.kind is Kind.RUN_STARTED for record in past):
        raise UnknownThreadError(f"no run of thread {thread!r} had begun before record {until}")
    if roots and roots[-1].seq in gone:
        raise UnknownThreadError(
            f"the checkpoint at which thread {thread!r} stood before record {until} was pruned: "
            "fork it at one that Thread.history() still has"
        )
    return past


def _is_open(records: Sequence[Record], run: int) -> bool:
    """Whether a run neither ended nor was put down in these records."""
    of = [r.kind for r in records if r.run == run]
    marks = [kind for kind in of if kind in (Kind.RUN_STARTED, Kind.RUN_FINISHED)]
    return marks[-1] is Kind.RUN_STARTED


def _agent_of(head: Head) -> str:
    if head.agent in (NOTEBOOK, VARIABLES):
        has = "is a notebook" if head.agent == NOTEBOOK else "has a notebook's variables"
        raise UnknownThreadError(
            f"thread {head.thread!r} {has} and is no conversation: fork a thread of an agent"
        )
    if head.agent is None:
        raise UnknownThreadError(
            f"thread {head.thread!r} was written by a plain LangGraph graph and has no steps: fork "
            "it there, by update_state on an older checkpoint"
        )
    return str(head.agent)


def pending(thread: str, scope: str, run: int, session: int, token: int | None = None) -> Draft:
    """Return the record that says that a run is still to be gone on with."""
    return Draft(
        kind=Kind.RUN_FINISHED,
        thread=thread,
        scope=scope,
        run=run,
        name=str(RunStatus.PENDING),
        attempt=session,
        plain=pack((None, None)),
        token=token,
    )


def origins(journal: Journal, head: Head) -> tuple[str, ...]:
    """Return the threads that a thread was forked from, the nearest first."""
    if head.scope == head.thread:
        return ()
    records = journal.select(thread=head.thread, kinds=[Kind.DECISION])
    return tuple(record.parent or "" for record in reversed(records) if record.name == FORK)


class Point:
    """Where a fork leaves its thread's past.

    A step in a subgraph rests on a checkpoint of that subgraph and on one of each graph around it.
    In each of them the task on the way to the step is still to run, and its siblings, which do not
    follow from it, stay as they are.

    Args:
        thread: The thread.
        records: Its records.
        at: A step's or a checkpoint's id.
        gone: The numbers of what was pruned.

    Raises:
        UnknownThreadError: The thread has neither, or what it rests on was pruned.
    """

    def __init__(self, thread: str, records: Sequence[Record], at: str, gone: Set[int]) -> None:
        self._records = records
        self._began: dict[str, Record] = {}
        self._routes: dict[str, str] = {}
        for record in records:
            if record.kind is Kind.STEP_INTENDED:
                self._began.setdefault(record.step or "", record)
            if record.kind in (Kind.STEP_INTENDED, Kind.ROUTED) and record.ref:
                self._routes[record.step or ""] = record.ref
        self.step = self._began.get(at)
        found = self.step or next(
            (r for r in records if r.kind is Kind.CHECKPOINT and r.ref == at), None
        )
        if found is None or found.run is None:
            raise UnknownThreadError(
                f"thread {thread!r} has no step or checkpoint {at!r}: `notebook-agents show "
                f"{thread} --json` has the steps' ids, Thread.history() the checkpoints'"
            )
        self._cut = found.seq
        self.run = found.run
        self._threads = (thread, *(r.parent or "" for r in records if r.name == FORK))
        self._levels = self._found_levels(found)
        # After a compaction the one before it would be found, which is another run's.
        earlier = [level for level in self._levels if level.checkpoint.run != found.run]
        if not self._levels or earlier or any(one.checkpoint.seq in gone for one in self._levels):
            raise UnknownThreadError(
                f"the checkpoint that {at!r} in thread {thread!r} rests on was pruned: fork it at "
                "one that Thread.history() still has, or at a later step"
            )
        self.checkpoint = self._levels[-1].checkpoint

    def _found_levels(self, found: Record) -> list[_Level]:
        """Return the graphs around the point, the outermost first."""
        parts = (found.ns or "").split(_BAR) if found.ns else []
        levels = []
        for depth in range(len(parts) + 1):
            ns = _BAR.join(parts[:depth])
            # A subgraph with a checkpointer of its own has its checkpoints under its bare name.
            names = {ns, _BAR.join(part.partition(":")[0] for part in parts[:depth])}
            saved = [
                r for r in self._records if r.kind is Kind.CHECKPOINT and (r.ns or "") in names
            ]
            before = [record for record in saved if record.seq <= self._cut]
            if before:
                task = parts[depth].partition(":")[2] if depth < len(parts) else None
                end = next((r.seq for r in saved if r.seq > self._cut), None)
                levels.append(_Level(frozenset(names), before[-1], task, end))
        return levels

    def has(self, record: Record) -> bool:
        """Whether a record belongs to the past that the fork gets."""
        if record.kind is Kind.SNAPSHOT and record.step is None:
            return record.seq <= self._cut  # a later one may have what is undone
        level = next(level for level in reversed(self._levels) if level.contains(record.ns or ""))
        inside = (record.ns or "") in level.names
        if record.kind is Kind.WRITES and inside:
            return self._has_writes(record, level)
        told = record.kind is Kind.DECISION and record.step is not None and record.name != FORK
        if (told or record.kind in _STEPS) and self._is_undone(record):
            return False
        if record.seq <= self._cut:
            return True
        if (
            record.run != self.run
            or record.kind not in (Kind.CHECKPOINT, Kind.WRITES, *_STEPS)
            or (level.end is not None and record.seq > level.end)
            or (record.kind is Kind.CHECKPOINT and inside)
        ):
            return False
        if level is not self._levels[-1]:
            return True
        return self.step is not None and not self._is_below(record.ns or "", level)

    def _has_writes(self, record: Record, level: _Level) -> bool:
        if record.ref != level.checkpoint.ref:
            # LangGraph may store what a task writes after the checkpoint that has it.
            return any(
                r.ref == record.ref and r.ns == record.ns and r.seq <= level.checkpoint.seq
                for r in self._checkpoints
            )
        task = record.parent or ""
        if task == _NO_TASK or task == level.task:  # an answer belongs to the task that asked
            return False
        if self._route is not None and self._routes[self._route.step or ""] == task:
            # The answers that its node and the routes before it got; these are not undone.
            return not record.name and record.seq < self._route.seq
        return level is not self._levels[-1] or (self.step is not None and not self._is_own(task))

    @cached_property
    def _checkpoints(self) -> list[Record]:
        return [record for record in self._records if record.kind is Kind.CHECKPOINT]

    def _is_undone(self, record: Record) -> bool:
        """Whether a step is the point's own, one around it, or one made after it in its task.

        The conditional edges behind a node are parts of its task, and follow from it.
        """
        if self.step is None:
            return False
        way = list(self._way(self.step))
        if record.step in {step.step for step in way}:
            return True
        first = self._began.get(record.step or "", record)
        outermost = list(self._way(first))[-1]
        task = self._routes.get(outermost.step or "")
        if task is not None and any(task == level.task for level in self._levels):
            return True  # behind a subgraph that the point is in
        if outermost.step == way[-1].step or (task is not None and self._is_own(task)):
            return first.seq > self.step.seq
        return False

    @cached_property
    def _route(self) -> Record | None:
        """The conditional edge that the point is, or is in."""
        outermost = None if self.step is None else list(self._way(self.step))[-1]
        return outermost if outermost is not None and outermost.step in self._routes else None

    def _way(self, record: Record) -> Iterable[Record]:
        """Yield a step's first record and those of the steps around it, up to its node's."""
        found: Record | None = record
        while found is not None:
            yield found
            found = self._began.get(found.parent) if found.parent else None

    def _is_own(self, task: str) -> bool:
        """Whether LangGraph's task is the one that the point's step belongs to."""
        assert self.step is not None
        if self._route is not None:
            return self._routes[self._route.step or ""] == task
        node = list(self._way(self.step))[-1]
        name = node.name or ""
        return any(ids.node_step_id(t, task, name) == node.step for t in self._threads)

    def _is_below(self, ns: str, level: _Level) -> bool:
        """Whether a namespace is that of a graph which the point's own step ran."""
        outer = next((name for name in level.names if _under(ns, name)), None)
        if outer is None:
            return False
        task = ns[len(outer) :].lstrip(_BAR).partition(_BAR)[0].partition(":")[2]
        return bool(task) and self._is_own(task)


@dataclass(frozen=True, slots=True)
class _Level:
    """One of the graphs around a point.

    Attributes:
        names: Its namespace, as steps and as checkpoints have it.
        checkpoint: Its newest checkpoint before the point.
        task: LangGraph's task in it that leads to the point; None in the innermost.
        end: The number of its next checkpoint, behind which nothing belongs to this superstep.
    """

    names: frozenset[str]
    checkpoint: Record
    task: str | None
    end: int | None

    def contains(self, ns: str) -> bool:
        """Whether a namespace is this graph's, or one of a graph inside it."""
        return any(ns == name or _under(ns, name) for name in self.names)


def _under(ns: str, name: str) -> bool:
    return ns != name and (not name or ns.startswith(name + _BAR))


def _is_past(record: Record) -> bool:
    """Whether a record tells of the past: what somebody asked of the run is not the fork's."""
    return record.kind is not Kind.DECISION or record.name == FORK or record.step is not None


def _name(thread: str) -> str:
    return f"{thread.partition('-fork-')[0]}-fork-{secrets.token_hex(4)}"
