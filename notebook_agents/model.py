"""The words of the project as data: frozen, keyword-only, nothing here needs a journal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
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
    ROUTED = "routed"
    """A conditional edge chose, not quickly: it does not choose again."""
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
    """A person said what happened to a step or answered what it asked (`name` is a `Said`), forked
    the thread, or changed its state."""
    USAGE = "usage"
    """What a model's reply took: `name` is the model, the payload its tokens and cost."""
    DELETION = "deletion"
    """The thread's records before this one are gone."""


NOTEBOOK = "(notebook)"
"""Stands for the agent's name where a thread is a notebook that ran without a browser."""
VARIABLES = "(variables)"
"""Stands for the agent's name where a thread has the variables of a notebook's kernels."""


class Said(StrEnum):
    """What a person said of an attempt: the name of a decision."""

    DID = "did"
    """It happened, and this is what it returned."""
    DID_NOT = "did_not"
    """It did not happen: it runs again under the same idempotency key."""
    ANSWERED = "answered"
    """The answer to what it asked (LangGraph's interrupt)."""
    ANSWERED_INSIDE = "answered_inside"
    """The answer to what a graph asked that its function called."""


class Proof(StrEnum):
    """What an attempt's error says of its effect; a failure without one says nothing."""

    NOTHING_HAPPENED = "nothing_happened"
    """Of an at-most-once call: an error of which its author says so (`retry_on`)."""
    NONE = "none"
    """Of an at-most-once call: it may have happened, so it is in doubt."""
    ANSWER_REFUSED = "answer_refused"
    """The answer did not fit what the step asked for: it asks again."""


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
class ModelUsage:
    """What replies of one model took.

    Attributes:
        model: The model's name, as its provider reports it.
        input_tokens: Tokens of the prompts.
        output_tokens: Tokens of the replies.
        total_tokens: Both, as the provider counts them.
        cost: US dollars; None where it is not known for every reply.
        replies: How many replies these were.
    """

    model: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: float | None = None
    replies: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What models took, one entry for each model, in the order of their first replies."""

    models: tuple[ModelUsage, ...] = ()

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompts, of all models."""
        return sum(model.input_tokens for model in self.models)

    @property
    def output_tokens(self) -> int:
        """Tokens of the replies, of all models."""
        return sum(model.output_tokens for model in self.models)

    @property
    def total_tokens(self) -> int:
        """Tokens of both, of all models."""
        return sum(model.total_tokens for model in self.models)

    @property
    def cost(self) -> float | None:
        """US dollars; None where it is not known for every reply, or there was none."""
        costs = [model.cost for model in self.models if model.cost is not None]
        return sum(costs) if costs and len(costs) == len(self.models) else None

    def __bool__(self) -> bool:
        return bool(self.models)

    @classmethod
    def total(cls, parts: Iterable[Usage]) -> Usage:
        """Return the sum of several, model by model."""
        models: dict[str, ModelUsage] = {}
        for more in (model for part in parts for model in part.models):
            before = models.get(more.model)
            models[more.model] = more if before is None else _added(before, more)
        return cls(models=tuple(models.values()))


def _added(before: ModelUsage, more: ModelUsage) -> ModelUsage:
    costs = (before.cost, more.cost)
    return ModelUsage(
        model=before.model,
        input_tokens=before.input_tokens + more.input_tokens,
        output_tokens=before.output_tokens + more.output_tokens,
        total_tokens=before.total_tokens + more.total_tokens,
        cost=None if costs[0] is None or costs[1] is None else costs[0] + costs[1],
        replies=before.replies + more.replies,
    )


_NOTHING = Usage()


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
        proof: What that error says of the effect, where it says something.
    """

    number: int
    session: int
    started: datetime
    ended: datetime | None
    outcome: Outcome
    error: str | None = None
    proof: Proof | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where its end is not known."""
        if self.ended is None:
            return None
        return max((self.ended - self.started).total_seconds(), 0.0)  # a clock can be set back


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a person said of an attempt.

    Attributes:
        said: What.
        attempt: The attempt's number.
        user: The person's user name.
        host: The host on which it was said.
        at: When it was recorded.
        interrupt: The id of the interrupt that was answered, else None.
    """

    said: Said
    attempt: int
    user: str
    host: str
    at: datetime
    interrupt: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupt:
    """What a step asks a person, and nobody has answered yet.

    Attributes:
        id: LangGraph's id of the interrupt: what an answer is given for.
        value: What was handed to `interrupt()`; None where it cannot be rebuilt here.
        step: The asking step's id.
        node: The asking node's name.
        namespace: LangGraph's checkpoint namespace ("" outside subgraphs).
        error: Why the value cannot be rebuilt in this process, else None.
    """

    id: str
    value: Any
    step: str
    node: str
    namespace: str
    error: str | None = None


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
        usage: What models took in all its attempts, the calls inside it included.
        usage_kept: The part of it that went into results: what a replay does not spend again.
        decisions: What people said of its attempts, oldest first.
    """

    id: str
    name: str
    parent: str | None
    namespace: str
    attempts: tuple[Attempt, ...]
    replayed: bool
    key: str
    usage: Usage = _NOTHING
    usage_kept: Usage = _NOTHING
    decisions: tuple[Decision, ...] = ()

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
    def in_doubt(self) -> bool:
        """Whether nobody can tell from the records if the newest attempt happened."""
        if self.outcome is Outcome.RETURNED:
            return False
        newest = self.attempts[-1]
        return newest.outcome in (Outcome.UNCERTAIN, Outcome.LATE) or newest.proof is Proof.NONE

    @property
    def decided(self) -> Decision | None:
        """The newest decision about the newest attempt, if it is in doubt and there is one."""
        if self.in_doubt:
            for decision in reversed(self.decisions):
                if decision.attempt == self.attempts[-1].number:
                    return decision
        return None

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


class ThreadInfo(NamedTuple):
    """One line of a journal's list: read from the heads, never from DuckDB.

    A tuple, since a list has one for each thread: a frozen dataclass takes four times as long.

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
        interrupts: What its steps ask people and nobody has answered yet, as they were asked.
        closed: Why its contents (errors, questions, tokens, who decided) are not told: they are
            sealed with a key that is not here. None where they are.
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
    interrupts: tuple[Interrupt, ...] = ()
    closed: str | None = None

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
    def usage(self) -> Usage:
        """What models took in all attempts of all steps."""
        known = {step.id for step in self.steps}
        return Usage.total(step.usage for step in self.steps if step.parent not in known)

    @property
    def usage_saved(self) -> Usage:
        """What the replayed steps' results had taken, and was not spent again."""
        return Usage.total(step.usage_kept for step in self.replayed)

    @property
    def doubtful(self) -> tuple[Step, ...]:
        """The steps of which some attempt may or may not have happened."""
        return tuple(step for step in self.steps if step.was_in_doubt)
