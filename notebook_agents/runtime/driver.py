"""One run in one process: what its steps did before, and what they do now.

The life of a step (ARCHITECTURE.md has the table of what a kill leaves behind):
intent, on disk → effect → result, in the operating system's hands → the caller gets it.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents import faults, hiding, ids
from notebook_agents.errors import StepFailedError
from notebook_agents.faults import Fault
from notebook_agents.journal import Claim, Draft, Journal, Record
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import Codec, Decoder, pack, unpack
from notebook_agents.model import Kind, ModelUsage, Proof, RunStatus, Said, Usage
from notebook_agents.runtime import stopping
from notebook_agents.runtime.events import StepEvent, What, tell, watched
from notebook_agents.runtime.keeping import NO_OBJECTS, Keeper
from notebook_agents.runtime.leaving import Workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from notebook_agents.runtime.asked import Asked

_STEP_KINDS = (
    Kind.STEP_INTENDED,
    Kind.STEP_RETURNED,
    Kind.STEP_FAILED,
    Kind.STEP_SUSPENDED,
    Kind.ROUTED,
    Kind.DECISION,
)
_ANSWERS = (Said.ANSWERED, Said.ANSWERED_INSIDE)
_NO_REPLY = "NoReplyError: the step around this call ended without its reply"
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
        proof: What the newest attempt's error says of its effect.
        decision: What a person said last of the newest attempt, where it is in doubt.
        answers: How many of its questions people have answered.
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
    proof: Proof | None = None
    decision: Record | None = None
    answers: int = 0
    value: Any = None
    has_value: bool = False
    used: bool = False
    was: tuple[str, ...] = ()

    @property
    def in_doubt(self) -> bool:
        """Whether its newest attempt may or may not have happened."""
        if not self.attempts or self.returned or self.suspended:
            return False
        return self.failed is None or (self.proof is Proof.NONE and not self.went_on)


@dataclass(slots=True)
class Attempt:
    """A step that is running now."""

    step: StepState
    number: int
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    """How often each durable call was made inside it, by name and digest."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    taken: set[str] = field(default_factory=set)
    """The ids of the steps inside it that a model call already stands for."""
    unanswered: dict[tuple[str, str], list[Attempt]] = field(default_factory=dict)
    """Model calls inside it that have no reply yet, by name and digest."""
    under_way: set[Any] = field(default_factory=set)
    """Futures of the tool calls inside it that run on an event loop now."""
    raised: list[Exception] = field(default_factory=list)
    """What those raised, the first of them first."""
    counted: dict[int, object] = field(default_factory=dict)
    """Replies whose usage is recorded, by identity; held, so that no other object has it."""
    task: str | None = None
    """LangGraph's task, where this is a conditional edge's choice."""
    arguments: str | None = None  # a preview of what a durable call was given
    spent: Usage = field(default_factory=Usage)
    """What models took in it, without the calls inside it."""
    late: bool = False
    """It was given up, or a newer attempt began: what it returns is not used."""


class RunDriver:
    """Drives one run of one thread in this process.

    Args:
        journal: The journal.
        thread: The thread's name.
        scope: The scope whose key and chunks it uses.
        number: The run's number.
        claim: What the run's start was granted.
        codec: Serialises results.
        suspension: The errors by which a graph says that a step waits for a person.
        signal: The errors by which a graph says anything at all: no failure of a step.
        prices: US dollars for a million input and a million output tokens, by model.
        origins: The threads that this one was forked from.
        placed: Notes, in a block, the places that its code takes among what its node asks.
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
        suspension: tuple[type[BaseException], ...] = (),
        signal: tuple[type[BaseException], ...] = (),
        prices: dict[str, tuple[float, float]] | None = None,
        origins: tuple[str, ...] = (),
        placed: Callable[[list[str], set[str]], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.placed = placed or (lambda _used, _taken: nullcontext())
        self._suspension = suspension
        self._signal = signal
        self.journal = journal
        self.prices = prices or {}
        self.thread = thread
        self.scope = scope
        self.number = number
        self.claim = claim
        self.codec = codec
        self.cancelled = False
        self.stopped = False  # like a wish to stop, of this run alone
        self.under_way: dict[int, Attempt] = {}  # what runs in this process now
        self.workers = Workers(self)
        self.origins = origins
        self.objects: Keeper = NO_OBJECTS
        self._steps: dict[str, StepState] = {}
        self._children: dict[str | None, list[StepState]] = {}
        self._waiting: set[str] = set()
        self._quiet: dict[str, Attempt] = {}
        self._lock = threading.RLock()

    # -- what happened before -----------------------------------------------------------------

    def load(self) -> None:
        """Read what earlier processes did in this run."""
        said = tuple(Said)
        for record in self.journal.select(thread=self.thread, run=self.number, kinds=_STEP_KINDS):
            told = record.kind is not Kind.DECISION or record.name in said
            if record.step is not None and told:
                self._apply(record)

    def _apply(self, record: Record) -> None:
        step = self.step(
            record.step or "", name=record.name or "", parent=record.parent, ns=record.ns or ""
        )
        if record.kind is Kind.STEP_INTENDED:
            step.attempts = max(step.attempts, record.attempt or 1)
            step.failed, step.suspended, step.went_on = None, False, False
            step.proof = step.decision = None
            outer = self._steps.get(step.parent or "")
            over = outer is not None and outer.failed is not None  # a task that began too late
            for sibling in () if over else self._children.get(step.parent, ()):
                if sibling is not step and sibling.failed is not None:
                    sibling.went_on = True
        elif record.kind in (Kind.STEP_RETURNED, Kind.ROUTED):
            step.returned = step.returned or record
        elif record.name in _ANSWERS and record.kind is Kind.DECISION:
            step.answers += record.name == Said.ANSWERED
        elif record.attempt == step.attempts and record.kind is Kind.DECISION:
            step.decision = record
        elif record.attempt == step.attempts:
            step.failed = record if record.kind is Kind.STEP_FAILED else None
            step.suspended = record.kind is Kind.STEP_SUSPENDED
            step.proof = Proof(record.ref) if step.failed and record.ref else None
            step.answers -= step.proof is Proof.ANSWER_REFUSED
            for call in self._children.get(step.id, ()):
                # A step that ended with an error makes its calls again. One that asks a person has
                # gone past their errors, and may ask because of them.
                call.went_on = step.suspended and call.failed is not None

    def step(self, step_id: str, *, name: str, parent: str | None, ns: str) -> StepState:
        """Return the state of a step, new or known."""
        with self._lock:
            state = self._steps.get(step_id)
            if state is None:
                state = self._steps[step_id] = StepState(step_id, name, parent, ns)
                if parent is not None:
                    self._children.setdefault(parent, []).append(state)
            return state

    def known(self, step_id: str) -> StepState | None:
        """Return the state of a step, or None if this run has no such step."""
        return self._steps.get(step_id)

    @property
    def steps(self) -> list[StepState]:
        """Every step that is known, in the order in which they first began."""
        return list(self._steps.values())

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

    def known_node(self, task: str, name: str) -> StepState | None:
        """Return the step that a node was as LangGraph's `task`, or None if there is none."""
        names = (ids.node_step_id(thread, task, name) for thread in (self.thread, *self.origins))
        return next((self._steps[one] for one in names if one in self._steps), None)

    def route_step(self, task: str, place: str, *, name: str, ns: str) -> StepState:
        """Return what stands for a conditional edge at `place` of LangGraph's `task`."""
        own = ids.route_id(self.thread, task, place)
        was = tuple(ids.route_id(origin, task, place) for origin in self.origins)
        return self._kept(own, was, name=name, parent=None, ns=ns)

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
        return any(step.attempts for step in self._steps.values())

    def result(self, step: StepState) -> Any:
        """Return the recorded result of a step that returned.

        Raises:
            ValueNotKeptError: It cannot be rebuilt in this process.
        """
        value = self._value(step)
        self.objects.replayed(step)
        self.tell(step, "replayed")
        return value

    def returned_since(self, seq: int) -> list[Any]:
        """Return what the steps gave that returned behind a record."""
        behind = [
            step
            for step in self._steps.values()
            if step.returned is not None and step.returned.seq > seq
        ]
        return [self._value(step) for step in behind]

    def _value(self, step: StepState) -> Any:
        assert step.returned is not None
        return step.value if step.has_value else self.decode(step.returned)

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

    def suspends(self, error: BaseException) -> bool:
        """Whether an error says that a step waits for a person."""
        return isinstance(error, self._suspension)

    def is_failure(self, error: BaseException) -> bool:
        """Whether an error is a step's own, and no word of the graph's."""
        return not isinstance(error, self._signal)

    def decision(self, record: Record) -> tuple[Said, Any]:
        """Return what a person said in a decision, and with which value."""
        _, _, tree = unpack(self.journal.payload(record.seq))
        decoder = Decoder(self.codec, self.journal.parts)
        value = None if tree is None else decoder.decode(tree, record.refs)
        return Said(record.name or ""), value

    def unused(self, parent: str) -> list[str]:
        """Return the names of recorded calls that a step's newest attempt did not make again."""
        return [
            step.name for step in self._children.get(parent, ()) if step.returned and not step.used
        ]

    def taken(self, parent: str) -> set[str]:
        """Return the places inside a step that its calls which returned had taken."""
        return self.took(*self._children.get(parent, ()))

    @staticmethod
    def took(*steps: StepState) -> set[str]:
        """Return the places that steps which returned had taken among those of their task."""
        returned = [step.returned for step in steps if step.returned]
        return {place for record in returned for place in (record.ref or "").split(",") if place}

    # -- what happens now ---------------------------------------------------------------------

    def intend(self, step: StepState, arguments: str | None = None) -> tuple[Attempt, Draft]:
        """Begin an attempt; the draft must be appended durably before anything happens.

        Args:
            step: What begins.
            arguments: A preview of what a durable call is given.

        Raises:
            RunStopped: This process was asked to begin no further step.
        """
        self._check()
        faults.hit(Fault.INTENT_BEFORE)
        self.announce(step.parent)
        attempt = Attempt(step, step.attempts + 1, arguments=arguments)
        return attempt, self._begin(attempt)

    def _begin(self, attempt: Attempt) -> Draft:
        step = attempt.step
        with self._lock:
            doubtful = step.in_doubt
            attempt.number = step.attempts = step.attempts + 1
            step.failed, step.suspended = None, False
            step.proof = step.decision = None
            self._waiting.discard(step.id)
        if doubtful:
            self.tell(step, "in_doubt")
        draft = self._draft(Kind.STEP_INTENDED, attempt)
        draft.ref = attempt.task
        if attempt.arguments is not None:
            draft.plain = pack([attempt.arguments])
        return draft

    def intended(self, attempt: Attempt) -> None:
        """Note that the intent is on disk."""
        faults.hit(Fault.INTENT_AFTER)
        self.tell(attempt.step, "intended", arguments=attempt.arguments)

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
        step = attempt.step
        quiet = self.hush(attempt)
        draft = self._draft(Kind.ROUTED if quiet else Kind.STEP_RETURNED, attempt)
        draft.plain, draft.refs, draft.size = pack(tree), encoder.refs, encoder.size
        draft.ref = attempt.task if quiet else None
        with self._lock:
            # An attempt that was cut off can go on nevertheless, beside the next one.
            if not quiet and (attempt.number != step.attempts or step.returned is not None):
                attempt.late = True
            if attempt.late:
                draft.kind = Kind.STEP_LATE
            else:
                step.returned, step.value, step.has_value = draft, value, True
        kept = self.objects.kept(attempt)
        return [*encoder.new, *self._unanswered(attempt), *kept, draft]

    def reconciled(self, step: StepState, value: Any, *, codec: Codec | None = None) -> list[Draft]:
        """Return the drafts of a result that somebody else knew."""
        return self.returned(Attempt(step, step.attempts), value, codec=codec)

    def choose(self, step: StepState, task: str) -> Attempt:
        """Begin a conditional edge's choice. It is no step until something in it is one.

        Raises:
            RunStopped: This process was asked to begin nothing more.
        """
        self._check()
        attempt = self._quiet[step.id] = Attempt(step, step.attempts + 1, task=task)
        if step.attempts:
            self.announce(step.id)
        return attempt

    def announce(self, step_id: str | None) -> None:
        """Have a conditional edge that chooses now be a step: a call in it, or what it asks, is.

        Its intent becomes durable with the next one, which is that of the call.
        """
        with self._lock:
            attempt = self._quiet.pop(step_id or "", None)
            if attempt is not None:
                self.journal.stage([self._begin(attempt)])
                self.tell(attempt.step, "intended")

    def hush(self, attempt: Attempt) -> bool:
        """Whether an attempt is a conditional edge's choice and no step; nor will it be one."""
        return self._quiet.pop(attempt.step.id, None) is attempt

    def recorded(self, attempt: Attempt) -> None:
        """Note that the result is in the operating system's hands."""
        faults.hit(Fault.RESULT_AFTER)
        if not attempt.late:
            # A long run must not hold all that its steps returned: the journal has it.
            attempt.step.value, attempt.step.has_value = None, False
            self.tell(attempt.step, "returned", usage=attempt.spent)

    def failed(
        self, attempt: Attempt, error: Exception, *, proof: Proof | None = None
    ) -> list[Draft]:
        """Return the draft of a failure, and of what it proves."""
        self.objects.dropped(attempt)
        try:
            pickled = self.codec.dumps(error, "the error")
        except Exception:  # noqa: BLE001 - whatever a foreign error's reducer raises
            pickled = None  # its text is kept in any case
        draft = self._draft(Kind.STEP_FAILED, attempt)
        draft.plain, draft.ref = pack((describe(error), pickled)), proof
        if attempt.number == attempt.step.attempts:
            attempt.step.proof = proof
        self.tell(attempt.step, "failed", error=describe(error))
        return [*self._unanswered(attempt), draft]

    def suspended(self, attempt: Attempt, asked: Asked | None = None) -> list[Draft]:
        """Return the drafts of an attempt that waits for a person."""
        self.objects.dropped(attempt)
        attempt.step.suspended = attempt.number == attempt.step.attempts
        self._waiting.add(attempt.step.id)
        draft = self._draft(Kind.STEP_SUSPENDED, attempt)
        encoder = self.encoder()
        if asked is not None:
            what = f"what step {attempt.step.name!r} of thread {self.thread!r} asks"
            rows = [
                (one, own, encoder.placed(encoder.encode(value, what)))
                for one, own, value in asked.interrupts
            ]
            draft.plain, draft.ref = pack((asked.task, rows)), asked.checkpoint
            draft.refs, draft.size = encoder.refs, encoder.size
        self.tell(attempt.step, "suspended")
        return [*encoder.new, *self._unanswered(attempt), draft]

    def used(self, attempt: Attempt, spent: ModelUsage) -> Draft:
        """Return the draft of what one reply of a model took."""
        self.announce(attempt.step.id)
        attempt.spent = Usage.total([attempt.spent, Usage(models=(spent,))])
        draft = self._draft(Kind.USAGE, attempt)
        draft.name = spent.model
        draft.plain = pack(
            (spent.input_tokens, spent.output_tokens, spent.total_tokens, spent.cost)
        )
        return draft

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
        kept = self.objects.ended(self)
        self.journal.append([*encoder.new, *kept, draft], durable=True)
        self.journal.driving.discard(self.thread)
        faults.hit(Fault.RUN_END_AFTER)

    def _check(self) -> None:
        stopping.check()
        if self.cancelled or self.stopped:
            raise stopping.RunStopped

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

    def decode(self, record: Record | Draft) -> Any:
        """Return the value in a committed record's payload."""
        tree = unpack(self.journal.payload(record.seq))
        refs = [ref if isinstance(ref, int) else ref.seq for ref in record.refs]
        return Decoder(self.codec, self.journal.parts).decode(tree, refs)

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

    def tell(self, step: StepState, what: What, **more: Any) -> None:
        """Tell observers."""
        if watched():
            of = (self.thread, self.number, step.id, step.name, step.parent, step.attempts)
            tell(StepEvent(*of, what, **more))

    def _unanswered(self, attempt: Attempt) -> list[Draft]:
        """Return the ends of the model calls inside an attempt that ends now.

        Nobody says so when a call fails. Had it had a reply, that would be recorded.
        """
        with attempt.lock:
            calls = [call for calls in attempt.unanswered.values() for call in calls]
            attempt.unanswered.clear()
        drafts = []
        for call in calls:
            draft = self._draft(Kind.STEP_FAILED, call)
            draft.plain = pack((_NO_REPLY, None))
            self.tell(call.step, "failed", error=_NO_REPLY)
            drafts.append(draft)
        return drafts

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
    """Return `Type: message` of an error, without secrets of the environment."""
    text = hiding.hidden(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
