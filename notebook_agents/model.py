"""The words of the project as data: frozen, keyword-only, nothing here needs a journal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Kind(StrEnum):
    """What a record says. Records are appended and never changed."""

    RUN_STARTED = "run_started"
    """A driver took a run up; attempt 1 starts it, every further one resumes it."""
    RUN_FINISHED = "run_finished"
    """A driver put a run down; `name` is the run's status from then on."""
    STEP_INTENDED = "step_intended"
    """A step is about to run: on disk before it does."""
    STEP_RETURNED = "step_returned"
    """An attempt returned: nothing runs this step again."""
    STEP_FAILED = "step_failed"
    """An attempt raised."""
    STEP_SUSPENDED = "step_suspended"
    """An attempt waits for a person (LangGraph's interrupt)."""
    STEP_LATE = "step_late"
    """An attempt ended after a newer one began; not used."""
    CHECKPOINT = "checkpoint"
    """The graph's state between supersteps."""
    WRITES = "writes"
    """What a task writes into the graph's state."""
    CHUNK = "chunk"
    """A part of a value, stored once."""
    SNAPSHOT = "snapshot"
    """Objects or variables at a moment."""
    MESSAGE = "message"
    """Something sent to a thread."""
    DECISION = "decision"
    """A person said what happened to a step, or what shall happen to a run or a state."""
    DELETION = "deletion"
    """The thread's records before this one are gone."""


class RunStatus(StrEnum):
    """Where a run stands: `pending → running → succeeded | failed | cancelled`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"
    """For a person."""
    IN_DOUBT = "in_doubt"
    """For somebody who knows whether a step happened."""
    ORPHANED = "orphaned"
    """Its driver is gone. Computed from the driver's process, never stored."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to resume."""
        return self in (RunStatus.SUCCEEDED, RunStatus.CANCELLED)


class Outcome(StrEnum):
    """How an attempt of a step ended."""

    RUNNING = "running"
    RETURNED = "returned"
    FAILED = "failed"
    SUSPENDED = "suspended"
    UNCERTAIN = "uncertain"
    """Nothing was recorded: the process died, or the attempt was cut off. The step was in doubt."""
    LATE = "late"
    """It ended after a newer attempt had begun, and was not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try of a step.

    Attributes:
        number: 1 for the first, counted over all processes.
        session: Which driver made it: 1 for the process that started the run, 2 for the first that
            resumed it, …
        started: When its intent was recorded.
        ended: When its end was recorded; None if it never was.
        outcome: How it ended.
        error: `Type: message` of what it raised, else None.
    """

    number: int
    session: int
    started: datetime
    ended: datetime | None
    outcome: Outcome
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where its end is not known."""
        return None if self.ended is None else (self.ended - self.started).total_seconds()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A graph node's execution, or one durable call inside it.

    Attributes:
        id: 24 characters, the same in every process.
        name: The node's name, or the function's.
        parent: The enclosing step's id for a durable call; None for a node of the outermost graph.
        namespace: LangGraph's checkpoint namespace ("" outside subgraphs).
        attempts: Every attempt, oldest first; at least one.
        replayed: It returned before the newest driver took the run up, so it was not run again.
        key: The idempotency key of all its attempts.
    """

    id: str
    name: str
    parent: str | None
    namespace: str
    attempts: tuple[Attempt, ...]
    replayed: bool
    key: str

    @property
    def outcome(self) -> Outcome:
        """How the step stands: returned as soon as one attempt returned."""
        for attempt in self.attempts:
            if attempt.outcome is Outcome.RETURNED:
                return Outcome.RETURNED
        return self.attempts[-1].outcome

    @property
    def was_in_doubt(self) -> bool:
        """Whether some attempt may or may not have happened."""
        return any(attempt.outcome is Outcome.UNCERTAIN for attempt in self.attempts)

    @property
    def seconds(self) -> float | None:
        """How long the attempt that counts took."""
        for attempt in reversed(self.attempts):
            if attempt.outcome is Outcome.RETURNED:
                return attempt.seconds
        return self.attempts[-1].seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that drives, or last drove, a thread.

    Attributes:
        pid: Its process id.
        host: The host's name.
        boot: The host's boot id, which changes when the host starts again.
        started: The process's start time in clock ticks since boot: tells a process from a later
            one with the same pid. 0 where the system does not say.
        notebook: The notebook it runs in, or None.
        since: When it took the thread.
    """

    pid: int
    host: str
    boot: str
    started: int
    notebook: str | None
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadInfo:
    """One line of a journal's list: read from the heads, never from DuckDB.

    Attributes:
        thread: Its name.
        agent: The name of the agent that made it, or None for a plain LangGraph thread.
        status: Where its newest run stands.
        run: The newest run's number within the thread, from 1; 0 where there is none.
        returned: How many steps of the newest run have returned (nodes and durable calls), as of
            its newest durable append: after a kill the last results may be missing here, and are
            not in `run_view`.
        intended: How many attempts of steps the newest run has begun.
        created: When its first record was appended.
        updated: When its newest record was appended.
        notebook: The notebook that started the newest run, or None.
        driver: The process that drives it or last drove it, or None.
        records: How many records it has, chunks included.
    """

    thread: str
    agent: str | None
    status: RunStatus
    run: int
    returned: int
    intended: int
    created: datetime
    updated: datetime
    notebook: str | None
    driver: Driver | None
    records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """A run as its records tell it: all that a timeline shows.

    Attributes:
        thread: The thread's name.
        number: The run's number within the thread, from 1.
        agent: The agent's name.
        status: Where it stands; `orphaned` where its driver is gone.
        steps: In the order in which they first began.
        sessions: How many processes drove it: 1 if it was never resumed.
        started: When it first began.
        ended: When its newest driver put it down, or None.
        error: `Type: message` of what ended it, else None.
        stored: The value was in the journal already and nothing was run for it.
    """

    thread: str
    number: int
    agent: str
    status: RunStatus
    steps: tuple[Step, ...]
    sessions: int
    started: datetime
    ended: datetime | None
    error: str | None = None
    stored: bool = False

    @property
    def replayed(self) -> tuple[Step, ...]:
        """The steps that the newest driver did not run again; not those inside such a step."""
        whole = {step.id for step in self.steps if step.replayed}
        return tuple(step for step in self.steps if step.replayed and step.parent not in whole)

    @property
    def seconds_saved(self) -> float:
        """What those steps took when they ran, in seconds."""
        return sum(step.seconds or 0.0 for step in self.replayed)

    @property
    def doubtful(self) -> tuple[Step, ...]:
        """The steps of which some attempt may or may not have happened."""
        return tuple(step for step in self.steps if step.was_in_doubt)
