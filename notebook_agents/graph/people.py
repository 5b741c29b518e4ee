"""People: what a run asks them (LangGraph's `interrupt()`), and their answers.

An answer is written for the task that asked, as LangGraph would write it once the task has taken it
in, in the very transaction in which its session takes the thread. So it is on disk before anything
else of that session is, and no kill can lose it. A task finds its answers again by itself, in the
order of its questions: it is never asked one twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.errors import GraphInterrupt, is_invalid_resume
from langgraph.types import Command

from notebook_agents.errors import InputError, NotebookAgentsError, ValueNotKeptError
from notebook_agents.graph.checkpoints import encode_writes
from notebook_agents.graph.codec import StateCodec
from notebook_agents.graph.private import NULL_TASK_ID, RESUME, execution_info, own_interrupts
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Interrupt, Kind, Proof, Said
from notebook_agents.runtime import decisions
from notebook_agents.runtime.asked import Asked
from notebook_agents.runtime.driver import StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_core.runnables import RunnableConfig

    from notebook_agents.journal import Draft, Journal, Record
    from notebook_agents.runtime.driver import Attempt, RunDriver

NO_ANSWER: Any = ...
"""Stands for an answer that was not given: None is one."""

_KINDS = (
    Kind.STEP_INTENDED,
    Kind.STEP_RETURNED,
    Kind.STEP_FAILED,
    Kind.STEP_SUSPENDED,
    Kind.DECISION,
)


def asked(error: GraphInterrupt, config: RunnableConfig | None) -> Asked | None:
    """Return what a task asks, as its step's record keeps it; None if nothing.

    Args:
        error: What the task raised.
        config: The config that it runs with.
    """
    info = execution_info(config)
    if info is None or config is None or not (error.args or ((),))[0]:
        return None
    # An interrupt out of a graph that the node's function called belongs to a task of that graph.
    task, own = own_interrupts(config)
    rows = tuple((one.id, one.id in own, one.value) for one in error.args[0])
    return Asked(checkpoint=info.checkpoint_id, task=task, interrupts=rows)


def ended(
    driver: RunDriver, attempt: Attempt, error: Exception, config: RunnableConfig | None
) -> list[Draft]:
    """Return the drafts of an attempt that raised: what it asks, or its failure."""
    if not isinstance(error, GraphInterrupt):
        refused = is_invalid_resume(error)
        return driver.failed(attempt, error, proof=Proof.ANSWER_REFUSED if refused else None)
    try:
        return driver.suspended(attempt, asked(error, config))
    except ValueNotKeptError:  # the saver has to keep it too, and will say so
        return driver.suspended(attempt)


@dataclass(kw_only=True)
class Asking:
    """A step whose newest attempt waits for a person.

    Attributes:
        record: That it waits.
        attempts: How many attempts it made.
        answers: The answers that its task got and took, oldest first: a node's and those of the
            conditional edges behind it are one task's.
        newest: The newest answer that it, or a graph which its function called, got.
        refused: Its newest answer did not fit, and is not among them.
        waits: Whether the newest attempt waits, in this moment of the records.
        task: LangGraph's id of the task.
        open: Of what it asks and nobody answered: whether the task itself asks, by interrupt.
    """

    record: Record
    attempts: int = 0
    answers: list[Record] = field(default_factory=list)
    newest: Record | None = None
    refused: bool = False
    waits: bool = False
    task: str = ""
    open: dict[str, tuple[bool, Any]] = field(default_factory=dict)

    @property
    def step(self) -> StepState:
        """The step as a decision about it needs it."""
        record = self.record
        return StepState(
            record.step or "",
            record.name or "",
            record.parent,
            record.ns or "",
            attempts=self.attempts,
        )


def asking(journal: Journal, thread: str, number: int) -> list[Asking]:
    """Return the steps of a run that wait for an answer, in the order in which they asked."""
    steps: dict[str, Asking] = {}
    given: set[str] = set()
    for record in journal.select(thread=thread, kinds=_KINDS):
        if record.run != number:
            continue
        step = steps.setdefault(record.step or "", Asking(record=record))
        match record.kind:
            case Kind.STEP_INTENDED:
                step.attempts, step.waits = record.attempt or 1, False
            case Kind.STEP_SUSPENDED if record.attempt == step.attempts and record.ref:
                step.record, step.waits, step.refused = record, True, False
            case Kind.DECISION if record.name == Said.ANSWERED:
                step.answers.append(record)
                step.newest, step.refused = record, False
                given.add(record.ref or "")
            case Kind.DECISION if record.name == Said.ANSWERED_INSIDE:
                step.newest = record
                given.add(record.ref or "")
            case Kind.STEP_FAILED if record.ref == Proof.ANSWER_REFUSED:
                step.waits = step.record.kind is Kind.STEP_SUSPENDED
                if step.newest is not None:
                    given.discard(step.newest.ref or "")
                    if step.newest in step.answers:
                        step.answers.remove(step.newest)
                        step.refused = True
                    step.newest = None
            case _:
                step.waits = step.waits and record.kind is Kind.DECISION
    if not any(step.waits for step in steps.values()):
        return []
    asked_once = [step for step in steps.values() if step.record.kind is Kind.STEP_SUSPENDED]
    payloads = journal.payloads([step.record.seq for step in asked_once])
    rows: dict[int, list[tuple[str, bool, Any]]] = {}
    answers: dict[str, list[Record]] = {}
    for step in asked_once:
        step.task, rows[step.record.seq] = unpack(payloads[step.record.seq])
        answers.setdefault(step.task, []).extend(step.answers)
    is_void = _void(journal, thread)
    found = []
    seen: set[str] = set()
    for step in sorted((s for s in asked_once if s.waits), key=lambda step: step.record.seq):
        step.answers = sorted(answers[step.task], key=lambda record: record.seq)
        # A node around a graph that asks repeats what that graph's own step has recorded before.
        step.open = {
            one: (own, tree)
            for one, own, tree in rows[step.record.seq]
            if one not in given and one not in seen
        }
        seen.update(step.open)
        if step.open and not is_void(step.record):
            found.append(step)
    return found


def _void(journal: Journal, thread: str) -> Callable[[Record], bool]:
    """Return what tells whether a question was left behind: its graph, or one around it, went on.

    `update_state` makes a checkpoint behind which other tasks run.
    """
    newest = {
        record.ns or "": record for record in journal.select(thread=thread, kinds=[Kind.CHECKPOINT])
    }

    def is_void(question: Record) -> bool:
        parts = question.ns.split("|") if question.ns else []
        graphs = [newest.get("|".join(parts[:depth])) for depth in range(len(parts) + 1)]
        return any(
            one is not None and one.seq > question.seq and one.ref != question.ref for one in graphs
        )

    return is_void


def interrupts(
    journal: Journal, thread: str, number: int, *, codec: StateCodec
) -> tuple[Interrupt, ...]:
    """Return what a run asks people and nobody has answered yet."""
    decoder = Decoder(codec, journal.parts)
    found = []
    for step in asking(journal, thread, number):
        for one, (_, tree) in step.open.items():
            value, error = None, None
            try:
                value = decoder.decode(tree, step.record.refs)
            except (NotebookAgentsError, ImportError, AttributeError) as problem:
                error = f"{type(problem).__name__}: {problem}"
            found.append(
                Interrupt(
                    id=one,
                    value=value,
                    step=step.record.step or "",
                    node=step.record.name or "",
                    namespace=step.record.ns or "",
                    error=error,
                )
            )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """The answers that a session starts with.

    Attributes:
        given: The interrupts that are answered, each with its step and the answer.
        waiting: All steps that wait for an answer.
    """

    given: tuple[tuple[Asking, str, Any], ...] = ()
    waiting: tuple[Asking, ...] = ()

    @property
    def _alone(self) -> bool:
        return sum(len(step.open) for step in self.waiting) == 1

    @property
    def mapped(self) -> dict[str, Any]:
        """The answers that only LangGraph can bring to where they belong, by interrupt.

        They are for several tasks of graphs that a node's function calls, of which the journal
        knows nothing. They are kept from when LangGraph has taken them in.
        """
        return (
            {one: value for step, one, value in self.given if not step.open[one][0]}
            if not self._alone
            else {}
        )

    def drafts(self, driver: RunDriver, serializer: Any) -> list[Draft]:
        """Return the records that keep the answers, to be appended with the session's start.

        Raises:
            ValueNotKeptError: An answer cannot be kept.
        """
        found: list[Draft] = []
        codec = StateCodec(serializer)
        answered: dict[int, tuple[Asking, list[Any]]] = {}
        for step in self.waiting:
            if step.refused:  # its state still has the answer that did not fit
                answered[id(step)] = (step, self._before(driver, step))
        hush = any(not own for step in self.waiting for own, _ in step.open.values())
        for step, one, value in self.given:
            if one in self.mapped:
                continue
            said = Said.ANSWERED if step.open[one][0] else Said.ANSWERED_INSIDE
            found += decisions.drafts(driver, step.step, said, (value,), interrupt=one)
            if step.open[one][0]:
                _, values = answered.setdefault(id(step), (step, self._before(driver, step)))
                values.append(value)
            else:
                hush = False
                found += _resume_writes(driver, codec, value)
        for step, values in answered.values():
            found += _resume_writes(driver, codec, values, step)
        if hush:  # an earlier answer of this kind must not answer the next question too
            found += _resume_writes(driver, codec, None)
        for draft in found:
            draft.token = None  # the session's own is given at the commit
        return found

    @staticmethod
    def _before(driver: RunDriver, step: Asking) -> list[Any]:
        return [driver.decision(record)[1] for record in step.answers]


def replies(
    journal: Journal,
    thread: str,
    number: int,
    *,
    answer: Any = NO_ANSWER,
    answers: Mapping[str, Any] | None = None,
) -> Replies:
    """Return what a session has to start with.

    Args:
        journal: The journal.
        thread: The thread's name.
        number: The run's number.
        answer: The answer to the only open interrupt.
        answers: Answers by interrupt id.

    Raises:
        InputError: Nobody asked for this answer, or it is not said to what it is one.
    """
    head = journal.head(thread)
    finished = head is not None and head.run == number and head.info().status.finished
    waiting = [] if finished else asking(journal, thread, number)
    open_ = {one: step for step in waiting for one in step.open}
    where = f"run {number} of thread {thread!r}"
    if answer is not NO_ANSWER:
        if answers is not None:
            raise InputError(f"{where} was given `answer` and `answers`: give one of them")
        if not open_:
            raise InputError(f"{where} asks nothing now: resume it without an answer")
        if len(open_) > 1:
            raise InputError(
                f"{where} asks {len(open_)} things, so an answer has to say which it is for: give "
                f"`answers` with these ids, {_named(open_)}"
            )
        answers = {next(iter(open_)): answer}
    for one in answers or {}:
        if one not in open_:
            asks = f"it asks {_named(open_)}" if open_ else "it asks nothing now"
            raise InputError(
                f"{where} does not ask {one!r}, or it was answered before: {asks}; resume it "
                "without that answer"
            )
    given = tuple((open_[one], one, value) for one, value in (answers or {}).items())
    if any(value is None and not step.open[one][0] for step, one, value in given):
        raise InputError(
            f"{where} asks from a graph that a node's function called, where LangGraph cannot tell "
            "None from no answer: answer with something else"
        )
    return Replies(given=given, waiting=tuple(waiting))


def of_command(command: Command[Any]) -> tuple[Any, dict[str, Any] | None]:
    """Return a command's answer, or its answers by interrupt id."""
    resume = command.resume
    if isinstance(resume, dict) and resume and all(_is_id(key) for key in resume):
        return NO_ANSWER, resume
    return resume, None


def rest_of(command: Command[Any]) -> Command[Any] | None:
    """Return a command without its answer; None where nothing is left."""
    if not (command.update or command.goto):
        return None
    return Command(graph=command.graph, update=command.update, goto=command.goto)


def _named(open_: Mapping[str, Asking]) -> str:
    return ", ".join(f"{one} ({step.record.name!r})" for one, step in open_.items())


def _is_id(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch("[0-9a-f]{32}", key) is not None


def _resume_writes(
    driver: RunDriver, codec: StateCodec, value: Any, step: Asking | None = None
) -> list[Draft]:
    """Return the drafts of a task's answers, or of one for whichever task asks (no `step`)."""
    draft = driver.draft(Kind.WRITES, name="")
    if step is None:
        checkpoints = driver.journal.select(thread=driver.thread, kinds=[Kind.CHECKPOINT], ns="")
        draft.ns, draft.parent = "", NULL_TASK_ID
        draft.ref = max(record.ref or "" for record in checkpoints)
    else:
        draft.ns, draft.parent = step.record.ns or "", step.task
        draft.ref = step.record.ref
    encoder = driver.encoder(codec)
    encode_writes(encoder, draft, [(RESUME, value)])
    return [*encoder.new, draft]
