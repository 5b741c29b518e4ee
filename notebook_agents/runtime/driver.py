"""One run in one process: what its steps did before, and what they do now.

The life of a step (ARCHITECTURE.md has the table of what a kill leaves behind):
intent, on disk → effect → result, in the operating system's hands → the caller gets it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from notebook_agents import faults, ids
from notebook_agents.errors import StepFailedError
from notebook_agents.faults import Fault
from notebook_agents.journal import Claim, Draft, Journal, Record
from notebook_agents.journal.values import Codec, Decoder, Encoder, pack, unpack
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime import stopping
from notebook_agents.runtime.events import StepEvent, What, tell, watched

_STEP_KINDS = (Kind.STEP_INTENDED, Kind.STEP_RETURNED, Kind.STEP_FAILED, Kind.STEP_SUSPENDED)
_logger = logging.getLogger("notebook_agents.runtime")


@dataclass(slots=True)
class StepState:
    """What this process knows of a step.

    Attributes:
        id: The step's id.
        name: The node's or function's name.
        parent: The enclosing step's id, or None.
        ns: LangGraph's checkpoint namespace.
        attempts: How many attempts were begun, in all processes.
        returned: The record with the result, once there is one.
        failed: The newest record of a failure, if the newest attempt failed.
        suspended: The newest attempt waits for a person.
        went_on: After that failure the enclosing step began another call.
        was: The ids that it had in the threads that this one was forked from.
    """

    id: str
    name: str
    parent: str | None
    ns: str
    attempts: int = 0
    returned: Record | Draft | None = None
    failed: Record | None = None
    suspended: bool = False
    went_on: bool = False
    value: Any = None
    has_value: bool = False
    used: bool = False
    was: tuple[str, ...] = ()

    @property
    def in_doubt(self) -> bool:
        """Whether its newest attempt may or may not have happened."""
        ended = self.returned or self.failed or self.suspended
        return self.attempts > 0 and not ended


@dataclass(slots=True)
class Attempt:
    """A step that is running now."""

    step: StepState
    number: int
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    """How often each durable call was made inside it, by name and digest."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class RunDriver:
    """Drives one run of one thread in this process.

    Args:
        journal: The journal.
        thread: The thread's name.
        scope: The scope whose key and chunks it uses.
        number: The run's number.
        claim: What the run's start was granted.
        codec: Serialises results.
        origins: The threads that this one was forked from.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        thread: str,
        scope: str,
        number: int,
        claim: Claim,
        codec: Codec,
        origins: tuple[str, ...] = (),
    ) -> None:
        self.journal = journal
        self.thread = thread
        self.scope = scope
        self.number = number
        self.claim = claim
        self.codec = codec
        self.origins = origins
        self._steps: dict[str, StepState] = {}
        self._children: dict[str | None, list[StepState]] = {}
        self._waiting: set[str] = set()
        self._lock = threading.RLock()

    # -- what happened before -----------------------------------------------------------------

    def load(self) -> None:
        """Read what earlier processes did in this run."""
        for record in self.journal.select(thread=self.thread, kinds=_STEP_KINDS):
            if record.run == self.number and record.step is not None:
                self._apply(record)

    def _apply(self, record: Record) -> None:
        step = self.step(
            record.step or "", name=record.name or "", parent=record.parent, ns=record.ns or ""
        )
        if record.kind is Kind.STEP_INTENDED:
            step.attempts = max(step.attempts, record.attempt or 1)
            step.failed, step.suspended, step.went_on = None, False, False
            for sibling in self._children.get(step.parent, ()):
                if sibling is not step and sibling.failed is not None:
                    sibling.went_on = True
        elif record.kind is Kind.STEP_RETURNED:
            step.returned = step.returned or record
        elif record.attempt == step.attempts:
            step.failed = record if record.kind is Kind.STEP_FAILED else None
            step.suspended = record.kind is Kind.STEP_SUSPENDED
            for call in self._children.get(step.id, ()) if step.failed else ():
                call.went_on = False  # the step ended with an error: its calls are made again

    def step(self, step_id: str, *, name: str, parent: str | None, ns: str) -> StepState:
        """Return the state of a step, new or known."""
        with self._lock:
            state = self._steps.get(step_id)
            if state is None:
                state = self._steps[step_id] = StepState(step_id, name, parent, ns)
                if parent is not None:
                    self._children.setdefault(parent, []).append(state)
            return state

    def node_step(self, task: str, *, name: str, parent: str | None, ns: str) -> StepState:
        """Return the step that a node's execution as LangGraph's `task` is."""
        own = ids.node_step_id(self.thread, task, name)
        was = tuple(ids.node_step_id(origin, task, name) for origin in self.origins)
        return self._kept(own, was, name=name, parent=parent, ns=ns)

    def call_step(self, outer: StepState, name: str, digest: str, ordinal: int) -> StepState:
        """Return the step that a durable call inside `outer` is."""
        own = ids.call_step_id(outer.id, name, digest, ordinal)
        was = tuple(ids.call_step_id(id_, name, digest, ordinal) for id_ in outer.was)
        return self._kept(own, was, name=name, parent=outer.id, ns=outer.ns)

    def _kept(
        self, own: str, was: tuple[str, ...], *, name: str, parent: str | None, ns: str
    ) -> StepState:
        """Return a step: a fork has those that it keeps under the ids that they had.

        So what they returned counts, and what is in doubt goes out again under the same
        idempotency key, whichever of the two threads comes first.
        """
        known = next((id_ for id_ in was if id_ in self._steps), own)
        step = self.step(known, name=name, parent=parent, ns=ns)
        step.was = was
        return step

    @property
    def waiting(self) -> bool:
        """Whether some step that ran in this process waits for a person.

        LangGraph runs all that do again with each answer; others belong to a state that
        somebody has changed since.
        """
        return bool(self._waiting)

    @property
    def began(self) -> bool:
        """Whether any step of this run ever began."""
        return bool(self._steps)

    def result(self, step: StepState) -> Any:
        """Return the recorded result of a step that returned.

        Raises:
            ValueNotKeptError: It cannot be rebuilt in this process.
        """
        if not step.has_value:
            assert isinstance(step.returned, Record)
            step.value, step.has_value = self.decode(step.returned), True
        self.tell(step, "replayed")
        return step.value

    def error(self, step: StepState) -> BaseException:
        """Return the recorded error of a step, or one that stands for it."""
        assert step.failed is not None
        text, pickled = unpack(self.journal.payload(step.failed.seq))
        if pickled is not None:
            try:
                error = self.codec.loads(*pickled)
            except Exception:
                _logger.info("the error of step %s cannot be rebuilt", step.id, exc_info=True)
            else:
                if isinstance(error, BaseException):
                    return error
        return StepFailedError(
            f"step {step.name!r} ({step.id}) of thread {self.thread!r} failed with {text}"
        )

    def unused(self, parent: str) -> list[str]:
        """Return the names of recorded calls that a step's newest attempt did not make again."""
        return [
            step.name for step in self._children.get(parent, ()) if step.returned and not step.used
        ]

    # -- what happens now ---------------------------------------------------------------------

    def intend(self, step: StepState) -> tuple[Attempt, Draft]:
        """Begin an attempt; the draft must be appended durably before anything happens.

        Raises:
            RunStopped: This process was asked to begin no further step.
        """
        stopping.check()
        faults.hit(Fault.INTENT_BEFORE)
        with self._lock:
            doubtful = step.in_doubt
            step.attempts += 1
            step.failed, step.suspended = None, False
            self._waiting.discard(step.id)
            attempt = Attempt(step, step.attempts)
        if doubtful:
            self.tell(step, "in_doubt")
        return attempt, self._draft(Kind.STEP_INTENDED, attempt)

    def intended(self, attempt: Attempt) -> None:
        """Note that the intent is on disk."""
        faults.hit(Fault.INTENT_AFTER)
        self.tell(attempt.step, "intended")

    def returned(self, attempt: Attempt, value: Any, *, codec: Codec | None = None) -> list[Draft]:
        """Return the drafts of a result; they must be appended before the caller gets it.

        Args:
            attempt: What returned.
            value: Its result.
            codec: Serialises it; None for the run's own.

        Raises:
            ValueNotKeptError: The result cannot be kept.
        """
        faults.hit(Fault.RESULT_BEFORE)
        what = f"the result of step {attempt.step.name!r} of thread {self.thread!r}"
        encoder = self.encoder(codec)
        tree = encoder.placed(encoder.encode(value, what))
        late = attempt.number != attempt.step.attempts
        draft = self._draft(Kind.STEP_LATE if late else Kind.STEP_RETURNED, attempt)
        draft.plain, draft.refs, draft.size = pack(tree), encoder.refs, encoder.size
        if not late:
            step = attempt.step
            step.returned, step.value, step.has_value = draft, value, True
        return [*encoder.new, draft]

    def reconciled(self, step: StepState, value: Any) -> list[Draft]:
        """Return the drafts of a result that somebody else knew."""
        return self.returned(Attempt(step, step.attempts), value)

    def recorded(self, attempt: Attempt) -> None:
        """Note that the result is in the operating system's hands."""
        faults.hit(Fault.RESULT_AFTER)
        self.tell(attempt.step, "returned")

    def failed(self, attempt: Attempt, error: Exception) -> list[Draft]:
        """Return the draft of a failure."""
        try:
            pickled = self.codec.dumps(error, "the error")
        except Exception:  # noqa: BLE001 - whatever a foreign error's reducer raises
            pickled = None  # its text is kept in any case
        draft = self._draft(Kind.STEP_FAILED, attempt)
        draft.plain = pack((describe(error), pickled))
        self.tell(attempt.step, "failed")
        return [draft]

    def suspended(self, attempt: Attempt) -> list[Draft]:
        """Return the draft of an attempt that waits for a person."""
        attempt.step.suspended = True
        self._waiting.add(attempt.step.id)
        self.tell(attempt.step, "suspended")
        return [self._draft(Kind.STEP_SUSPENDED, attempt)]

    def finish(self, status: RunStatus, *, value: Any = None, error: str | None = None) -> None:
        """Record where the run stands and give the thread back."""
        faults.hit(Fault.RUN_END_BEFORE)
        encoder = self.encoder()
        tree = None
        if status is RunStatus.SUCCEEDED:
            what = f"the value of run {self.number} of thread {self.thread!r}"
            tree = encoder.placed(encoder.encode(value, what))
        draft = self.draft(Kind.RUN_FINISHED, name=str(status), attempt=self.claim.session)
        draft.plain, draft.refs, draft.size = pack((tree, error)), encoder.refs, encoder.size
        self.journal.append([*encoder.new, draft], durable=True)
        self.journal.driving.discard(self.thread)
        faults.hit(Fault.RUN_END_AFTER)

    # -- helpers ------------------------------------------------------------------------------

    def encoder(self, codec: Codec | None = None) -> Encoder:
        """Return an encoder for one record of this thread."""
        return Encoder(
            codec or self.codec,
            self.journal.chunks(self.scope),
            thread=self.thread,
            scope=self.scope,
            token=self.claim.token,
        )

    def decode(self, record: Record) -> Any:
        """Return the value in a record's payload."""
        tree = unpack(self.journal.payload(record.seq))
        return Decoder(self.codec, self.journal.payloads).decode(tree, record.refs)

    def draft(self, kind: Kind, **columns: Any) -> Draft:
        """Return a draft of this run under this driver's token."""
        return Draft(
            kind=kind,
            thread=self.thread,
            scope=self.scope,
            run=self.number,
            token=self.claim.token,
            **columns,
        )

    def tell(self, step: StepState, what: What) -> None:
        """Tell observers."""
        if watched():
            tell(
                StepEvent(
                    thread=self.thread,
                    run=self.number,
                    step=step.id,
                    name=step.name,
                    parent=step.parent,
                    attempt=step.attempts,
                    what=what,
                )
            )

    def _draft(self, kind: Kind, attempt: Attempt) -> Draft:
        step = attempt.step
        return self.draft(
            kind,
            step=step.id,
            parent=step.parent,
            name=step.name,
            ns=step.ns or None,
            attempt=attempt.number,
        )


def describe(error: BaseException) -> str:
    """Return `Type: message` of an error."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
