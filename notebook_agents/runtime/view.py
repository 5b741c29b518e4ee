"""Runs as their records tell them: what timelines, lists and summaries show."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from notebook_agents import clock, ids
from notebook_agents.errors import KeyMissingError, UnknownThreadError
from notebook_agents.journal.values import unpack
from notebook_agents.model import (
    Attempt,
    Decision,
    Kind,
    ModelUsage,
    Outcome,
    Proof,
    RunStatus,
    RunView,
    Said,
    Step,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from notebook_agents.journal import Journal, Record
    from notebook_agents.model import ThreadInfo

_ENDS = {
    Kind.STEP_RETURNED: Outcome.RETURNED,
    Kind.STEP_FAILED: Outcome.FAILED,
    Kind.STEP_SUSPENDED: Outcome.SUSPENDED,
    Kind.STEP_LATE: Outcome.LATE,
}
_RUN_KINDS = (Kind.RUN_STARTED, Kind.RUN_FINISHED)
_STEP_KINDS = (Kind.STEP_INTENDED, Kind.DECISION, Kind.USAGE, *_ENDS)


def run_view(
    journal: Journal, thread: str, number: int | None = None, *, stored: bool = False
) -> RunView:
    """Return a run of a thread as its records tell it.

    Args:
        journal: The journal.
        thread: The thread's name.
        number: The run's number within the thread; None for the newest.
        stored: Its value was given without running anything.

    Raises:
        UnknownThreadError: There is no such thread, or no such run in it.
    """
    info = journal.thread(thread)
    number = info.run if number is None else number
    # One read for both: DuckDB, if it has some of it, is opened once.
    records = journal.select(thread=thread, run=number, kinds=(*_RUN_KINDS, *_STEP_KINDS))
    frame = _framed(info, number, records)
    newest = frame.newest
    closed = closed_by(journal, thread)
    return RunView(
        thread=thread,
        number=frame.number,
        agent=frame.starts[0].name or "",
        status=frame.status,
        steps=_steps(journal, records, frame, closed=closed is not None),
        sessions=len(frame.starts),
        started=clock.from_us(frame.starts[0].ts),
        ended=clock.from_us(newest.ts) if newest else None,
        error=unpack(journal.payload(newest.seq))[1] if newest and closed is None else None,
        stored=stored,
        closed=closed,
    )


def renewed(journal: Journal, view: RunView, touched: Collection[str]) -> RunView:
    """Return a run's view with some of its steps as they are now, reading no others.

    What models took, and what was decided, is as the view had it: that, and the run's end, takes
    a `run_view`.

    Args:
        journal: The journal.
        view: The run as it was.
        touched: The ids of the steps of which something was recorded since; they may be new.

    Raises:
        UnknownThreadError: The thread is gone.
    """
    frame = _frame(journal, view.thread, view.number)
    kinds = (Kind.STEP_INTENDED, *_ENDS)
    records = journal.select(thread=view.thread, run=view.number, kinds=kinds, steps=[*touched])
    now = {
        step.id: step for step in _steps(journal, records, frame, closed=view.closed is not None)
    }
    steps = []
    for step in view.steps:
        new = now.pop(step.id, None)
        if new is not None:
            new = replace(
                new, usage=step.usage, usage_kept=step.usage_kept, decisions=step.decisions
            )
        steps.append(new or step)
    return replace(view, status=frame.status, steps=(*steps, *now.values()))


def closed_by(journal: Journal, thread: str) -> str | None:
    """Return why nothing of a thread's contents can be told, or None."""
    head = journal.head(thread)
    try:
        if head is not None:
            journal.data_key(head.scope, create=False)
    except KeyMissingError as error:
        return str(error)
    return None


def steps_page(
    journal: Journal,
    thread: str,
    number: int | None = None,
    *,
    after: str | None = None,
    limit: int = 100,
) -> tuple[Step, ...]:
    """Return some steps of a run, as `run_view` would, reading no others.

    Args:
        journal: The journal.
        thread: The thread's name.
        number: The run's number within the thread; None for the newest.
        after: The id of the step behind which to begin; None: with the first.
        limit: How many at most.

    Returns:
        The steps in the order in which they first began; none behind the last.

    Raises:
        UnknownThreadError: There is no such thread, run, or step.
    """
    with journal.reading():
        frame = _frame(journal, thread, number)
        begun = _begun(journal, thread, frame.number, after=after, limit=limit)
        # Models that were called inside a step are told with it, so what is inside is read too.
        inside, found = begun, list(begun)
        while inside:
            below = journal.select(
                thread=thread, run=frame.number, kinds=[Kind.STEP_INTENDED], parents=inside
            )
            inside = [*{record.step: None for record in below if record.step}.keys() - set(found)]
            found += inside
        records = journal.select(thread=thread, run=frame.number, kinds=_STEP_KINDS, steps=found)
        wanted = set(begun)
        closed = closed_by(journal, thread) is not None
        steps = _steps(journal, records, frame, closed=closed)
        return tuple(step for step in steps if step.id in wanted)


def _begun(journal: Journal, thread: str, run: int, *, after: str | None, limit: int) -> list[str]:
    """Return the ids of the next steps of a run in the order in which they first began."""
    intended = [Kind.STEP_INTENDED]
    seen = 0
    if after is not None:
        first = journal.select(thread=thread, run=run, kinds=intended, step=after, limit=1)
        if not first:
            raise UnknownThreadError(
                f"run {run} of thread {thread!r} has no step {after!r}: begin without `after`"
            )
        seen = first[0].seq
    begun: dict[str, None] = {}
    while len(begun) < limit:
        page = journal.select(thread=thread, run=run, kinds=intended, since=seen, limit=limit)
        if not page:
            break
        again = [record.step or "" for record in page if (record.attempt or 1) > 1]
        earlier = (
            {
                record.step
                for record in journal.select(thread=thread, run=run, kinds=intended, steps=again)
                if record.seq <= seen
            }
            if again
            else set()
        )
        begun |= {
            record.step: None for record in page if record.step and record.step not in earlier
        }
        seen = page[-1].seq
    return list(begun)[:limit]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is said of a run itself.

    Attributes:
        number: Its number within the thread.
        status: Where it stands.
        starts: The records of its drivers' starts.
        newest: The record of its end, if that came behind the newest start.
    """

    number: int
    status: RunStatus
    starts: list[Record]
    newest: Record | None


def _frame(journal: Journal, thread: str, number: int | None) -> _Frame:
    info = journal.thread(thread)
    number = info.run if number is None else number
    return _framed(info, number, journal.select(thread=thread, run=number, kinds=_RUN_KINDS))


def _framed(info: ThreadInfo, number: int, records: list[Record]) -> _Frame:
    """Return what is said of a run in records of it, of whichever kinds."""
    about = [record for record in records if record.kind in _RUN_KINDS]
    starts = [record for record in about if record.kind is Kind.RUN_STARTED]
    if not starts:
        has = f"its newest run is {info.run}" if info.run else "it was never run by an agent"
        raise UnknownThreadError(f"thread {info.thread!r} has no run {number}: {has}")
    newest = about[-1] if about[-1].kind is Kind.RUN_FINISHED else None
    status = RunStatus(newest.name) if newest and newest.name else RunStatus.RUNNING
    if status is RunStatus.RUNNING:  # a run that a newer one left behind has no driver either
        status = info.status if number == info.run else RunStatus.ORPHANED
    return _Frame(number, status, starts, newest)


def pending_nodes(journal: Journal, thread: str, number: int) -> set[str]:
    """Return the names of the outermost graph's nodes that began in a run and did not return."""
    begun: dict[str, str] = {}
    kinds = (Kind.STEP_INTENDED, Kind.STEP_RETURNED)
    for record in journal.select(thread=thread, run=number, kinds=kinds):
        if record.parent is not None or record.ns:
            continue
        if record.kind is Kind.STEP_INTENDED and record.ref:  # a conditional edge
            continue
        if record.kind is Kind.STEP_INTENDED:
            begun[record.step or ""] = record.name or ""
        else:
            begun.pop(record.step or "", None)
    return set(begun.values())


def _steps(
    journal: Journal, records: list[Record], frame: _Frame, *, closed: bool
) -> tuple[Step, ...]:
    """Return the steps in the order in which they first began; without contents if closed."""
    ends: dict[tuple[str | None, int | None], Record] = {}
    begun: dict[str, list[Record]] = {}
    used, failed, decided = [], [], []
    for record in records:  # the kinds of which there are most come first
        kind = record.kind
        if kind is Kind.STEP_INTENDED:
            if record.step is not None:
                begun.setdefault(record.step, []).append(record)
        elif kind in _ENDS:
            ends[record.step, record.attempt] = record
            if kind is Kind.STEP_FAILED:
                failed.append(record.seq)
        elif kind is Kind.USAGE:
            used.append(record)
        elif kind is Kind.DECISION:
            decided.append(record)
    told = [] if closed else failed
    errors = {seq: unpack(payload)[0] for seq, payload in journal.payloads(told).items()}
    decisions = {} if closed else _decisions(journal, decided)
    starts = [record.seq for record in frame.starts]
    active = frame.status is RunStatus.RUNNING
    steps = [
        _step(step, intents, ends, errors, starts, decisions.get(step, ()), active=active)
        for step, intents in begun.items()
    ]
    return tuple(_with_usage(journal, steps, used) if used and not closed else steps)


def _with_usage(journal: Journal, steps: Sequence[Step], used: Sequence[Record]) -> list[Step]:
    """Return the steps with what models took in them, the calls inside them included."""
    payloads = journal.payloads([record.seq for record in used])
    own: dict[tuple[str, int], list[Usage]] = {}
    for record in used:
        given, said, total, cost = unpack(payloads[record.seq])
        spent = ModelUsage(
            model=record.name or "",
            input_tokens=given,
            output_tokens=said,
            total_tokens=total,
            cost=cost,
        )
        place = (record.step or "", record.attempt or 1)
        own.setdefault(place, []).append(Usage(models=(spent,)))
    spent_in: dict[str, list[Usage]] = {}
    kept_in: dict[str, list[Usage]] = {}
    told = []
    for step in reversed(steps):  # what is inside a step began after it
        spent_here, kept_here = spent_in.get(step.id, []), kept_in.get(step.id, [])
        for attempt in step.attempts:
            taken = own.get((step.id, attempt.number), [])
            spent_here = [*taken, *spent_here]
            if attempt.outcome is Outcome.RETURNED:
                kept_here = [*taken, *kept_here]
        usage, kept = Usage.total(spent_here), Usage.total(kept_here)
        if step.parent is not None:
            spent_in.setdefault(step.parent, []).insert(0, usage)
            if step.outcome is Outcome.RETURNED:
                kept_in.setdefault(step.parent, []).insert(0, kept)
        told.append(replace(step, usage=usage, usage_kept=kept))
    return told[::-1]


def _decisions(journal: Journal, records: list[Record]) -> dict[str, tuple[Decision, ...]]:
    """Return what people said of the steps, by step, as records of decisions tell it."""
    found: dict[str, tuple[Decision, ...]] = {}
    said = {record.seq: record for record in records if record.name in tuple(Said)}
    payloads = journal.payloads(list(said))
    for seq, record in said.items():
        user, host, _ = unpack(payloads[seq])
        decision = Decision(
            said=Said(record.name or ""),
            attempt=record.attempt or 1,
            user=user,
            host=host,
            at=clock.from_us(record.ts),
            interrupt=record.ref,
        )
        found[record.step or ""] = (*found.get(record.step or "", ()), decision)
    return found


def _step(
    step: str,
    intents: list[Record],
    ends: dict[tuple[str | None, int | None], Record],
    errors: dict[int, str],
    starts: list[int],
    decisions: tuple[Decision, ...],
    *,
    active: bool,
) -> Step:
    """Return a step.

    Args:
        step: Its id.
        intents: The records of its attempts.
        ends: The records of all ends, by step and attempt.
        errors: What failed ends say, by their records' numbers.
        starts: The numbers of the records of the run's drivers' starts.
        decisions: What people said of it.
        active: Somebody drives the run.
    """
    resumed_at = starts[-1] if len(starts) > 1 else 0
    attempts = []
    replayed = False
    for intent in intents:
        end = ends.get((step, intent.attempt))
        if end is None:
            here = active and intent is intents[-1] and intent.seq > starts[-1]
            outcome = Outcome.RUNNING if here else Outcome.UNCERTAIN
            ended = error = proof = None
        else:
            outcome, ended = _ENDS[end.kind], clock.from_us(end.ts)
            error = errors.get(end.seq)
            proof = Proof(end.ref) if end.ref and outcome is Outcome.FAILED else None
            if outcome is Outcome.RETURNED and end.seq < resumed_at:
                replayed = True
        attempts.append(
            Attempt(
                number=intent.attempt or 1,
                session=bisect_left(starts, intent.seq),
                started=clock.from_us(intent.ts),
                ended=ended,
                outcome=outcome,
                error=error,
                proof=proof,
            )
        )
    first = intents[0]
    return Step(
        id=step,
        name=first.name or "",
        parent=first.parent,
        namespace=first.ns or "",
        attempts=tuple(attempts),
        replayed=replayed,
        key=ids.idempotency_key(step),
        decisions=decisions,
    )
