"""One thread's life over several deaths.

Each process of a trial is forked, opens the journal afresh, and either runs or resumes the thread.
All but the last are disturbed: killed from outside, or armed at a named fault point. The last one
must come to the answer of an undisturbed run, and the ledger must break no rule.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import duckdb
import langsmith.run_helpers
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.types import Command

import notebook_agents as na
from notebook_agents import faults, settings
from notebook_agents.errors import UnknownThreadError
from notebook_agents.ids import idempotency_key
from notebook_agents.journal import Draft
from notebook_agents.journal import compact as compaction
from notebook_agents.model import Kind, Outcome, RunStatus
from notebook_agents.runtime.events import StepEvent, observe
from notebook_agents.runtime.leaving import wait_for_all
from notebook_agents.runtime.view import run_view

from . import rules
from .ledger import Ledger, What, note, write_to
from .processes import Child, ChildHungError, fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from notebook_agents.faults import Fault

    from .ledger import Line
    from .shapes import Shape

_LOADED = (na.Agent, na.Journal, na.Run, na.resume, duckdb, langsmith.run_helpers, LangChainTracer)
"""What a child would otherwise import after its fork, again in each.

An interrupt in a module's first import can leave Python's import lock taken (ARCHITECTURE.md,
"Plain locks"); a process imports once, and these children would each time.
"""
SMALL_QUEUE = 8
"""Records after which a burst moves the queue to DuckDB in the trials that ingest."""

IMPATIENT_SECONDS = 3.0
"""After this a run that was interrupted is interrupted again."""


class Action(StrEnum):
    """What happens at an armed fault point."""

    KILL = "sigkill"
    TERMINATE = "sigterm"
    RAISE = "exception"


class InjectedError(RuntimeError):
    """Raised at a fault point that is armed with an exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    """A fault point and what happens there."""

    fault: Fault
    hit: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one process of a trial lives.

    Attributes:
        armed: Where it is disturbed from within, or None.
        delay: Seconds after which it is signalled from outside, or None.
        signal: With what: SIGKILL, or SIGINT as a notebook's stop button does.
        resume: Whether it calls `na.resume(thread)`; otherwise `agent.run` with the same input.
        audit: Whether it first looks into the journal for what has returned.
        ingest: Whether DuckDB takes the records over while the graph runs.
        compact: Whether it first compacts the journal, in which a thread was deleted.
        again: Whether it resumes in the same process, as a person would who runs the cell again,
            when the run ended with an exception. That counts as a life of its own.
        polite: Whether a SIGTERM raises in the main thread, as the command line lets it do, instead
            of ending the process.
        on_loop: Whether `agent.arun` drives it on an event loop.
        optional: Whether `armed` may stay unreached: for processes that resume, when nobody knows
            how much is left to do.
    """

    armed: Armed | None = None
    delay: float | None = None
    signal: int = signal.SIGKILL
    resume: bool = False
    audit: bool = True
    ingest: bool = False
    compact: bool = False
    again: bool = False
    polite: bool = False
    on_loop: bool = False
    optional: bool = False

    @property
    def disturbed(self) -> bool:
        """Whether something is done to it."""
        return self.armed is not None or self.delay is not None


@dataclass(slots=True)
class Tally:
    """What some trials came to.

    Attributes:
        trials: How many threads were driven to their end.
        killed: Processes that died of SIGKILL.
        instants: Signals that killed two or more processes of one journal at once.
        compactions: Compactions that were killed with them.
        terminated: Runs that a SIGTERM ended.
        interrupted: Runs that a SIGINT ended.
        pressed_again: Runs that needed a second SIGINT.
        raised: Runs that an injected exception ended or passed through.
        acknowledged: Steps that somebody was told have returned.
        lost: Those of them that a later look into the journal missed.
        repeated: Effects of returned steps that were fired again.
        violations: Every broken promise, with the trial that broke it.
    """

    trials: int = 0
    killed: int = 0
    instants: int = 0
    compactions: int = 0
    terminated: int = 0
    interrupted: int = 0
    pressed_again: int = 0
    raised: int = 0
    acknowledged: int = 0
    lost: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name in (each.name for each in fields(self) if each.name != "violations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.violations.extend(other.violations)


class Trial:
    """A thread, its ledger, and the processes that drive it one after the other.

    Args:
        name: How violations call it.
        shape: The graph.
        folder: Where its journal, its ledger and its logs go.
        thread: The thread's name.
        before: Called in each child before anything else: to break the runtime on purpose.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        folder: Path,
        *,
        thread: str = "t",
        before: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.thread = thread
        self.tally = Tally(trials=1)
        self._folder = folder
        self._before = before
        self._log = folder / f"{thread}.log"
        self._ledger = Ledger(folder / f"{thread}.ledger")
        self._lives = 0
        self._first = 1
        self._plan = Plan()
        self._child: Child | None = None
        self.ended = False

    # -- in the parent ------------------------------------------------------------------------

    def begin(self, plan: Plan, *, group: int | None = None) -> Child:
        """Fork the next process of the trial."""
        self._first = self._lives + 1
        self._lives += 2 if plan.again else 1
        self._plan = plan
        self._child = fork(self._body(plan, self._first), self._log, group=group)
        return self._child

    def end(self) -> bool:
        """Wait for the process to go; return whether it gave its caller the answer."""
        assert self._child is not None
        try:
            code = self._child.end()
        except ChildHungError as error:
            self._violate(f"life {self._lives} {error}")
            return False
        lines = [line for line in self._ledger.lines() if line.life >= self._first]
        said = {line.what for line in lines}
        self._count(code, said)
        if not self._may_raise(said):
            for line in lines:
                if line.what is What.RAISED:
                    self._violate(f"life {line.life} ended with {line.value}: {self._tail()}")
            if code not in (0, -signal.SIGKILL) and What.RAISED not in said:
                self._violate(f"life {self._lives} ended with exit code {code}: {self._tail()}")
        self.ended = What.DONE in said and code == 0
        return self.ended

    def _count(self, code: int, said: set[What]) -> None:
        """Count how a process was disturbed; what was armed must have been reached."""
        armed = self._plan.armed
        self.tally.killed += code == -signal.SIGKILL
        if self._plan.signal == signal.SIGINT:
            self.tally.interrupted += code != 0 or What.RAISED in said
        if armed is None:
            return
        if What.FIRED in said:
            self.tally.terminated += armed.action is Action.TERMINATE
            self.tally.raised += armed.action is Action.RAISE
        elif not self._plan.optional:
            self._violate(f"{armed.fault} was not reached {armed.hit} times; exit code {code}")

    def _may_raise(self, said: set[What]) -> bool:
        """Whether it was this process's plan to end with an exception."""
        armed = self._plan.armed
        fired = What.FIRED in said and armed is not None and armed.action is not Action.KILL
        return fired or self._plan.signal == signal.SIGINT

    def live(self, plan: Plan) -> bool:
        """Run one process from its birth to its end; return whether it gave the answer."""
        child = self.begin(plan)
        if plan.delay is not None and not child.ends_within(plan.delay):
            child.kill(plan.signal)
            # A SIGINT inside `threading.Condition.__enter__` leaves its lock taken for ever, and
            # LangGraph's executor then waits for a worker that needs it: one presses stop again.
            if plan.signal == signal.SIGINT and not child.ends_within(IMPATIENT_SECONDS):
                self.tally.pressed_again += 1
                child.kill(signal.SIGINT)
        return self.end()

    def play(self, plans: Iterable[Plan]) -> Tally:
        """Live through `plans` until one gives the answer, then ask once more and judge."""
        last = Plan()
        for plan in plans:
            last = plan
            if self.live(plan):
                break
        return self.judge(ingest=last.ingest)

    def judge(self, *, ingest: bool = False) -> Tally:
        """Drive the thread to its end undisturbed, ask for the stored answer, apply the rules."""
        for resume in (True, False):
            if not self.live(Plan(resume=resume, ingest=ingest)):
                self._violate(f"life {self._lives} gave no answer: {self._tail()}")
        lines = self._ledger.lines()
        self._ledger.close()
        answers = [line.value for line in lines if line.what is What.DONE]
        effects = [line.label for line in lines if line.what is What.EFFECT]
        for answer in answers[-1:]:
            for problem in self.shape.problems(answer, effects):
                self._violate(problem)
        if any(answer != answers[0] for answer in answers):
            self._violate(f"the answers differ: {answers}")
        for violation in rules.violations(lines):
            self._violate(violation)
        self.tally.acknowledged = len(rules.acknowledged(lines))
        self.tally.lost = len(rules.lost(lines))
        self.tally.repeated = len(rules.fired_again(lines))
        return self.tally

    def lines(self) -> list[Line]:
        """Return what stands in the ledger."""
        return self._ledger.lines()

    def _violate(self, what: str) -> None:
        self.tally.violations.append(f"{self.name}: {what} (see {self._folder})")

    def _tail(self) -> str:
        return " | ".join(self._log.read_text().strip().splitlines()[-3:])

    # -- in the child -------------------------------------------------------------------------

    def _body(self, plan: Plan, life: int) -> Callable[[], None]:
        def body() -> None:
            os.environ["JUPYTER_DATA_DIR"] = str(self._folder / "data")
            os.environ["LANGSMITH_TRACING"] = "false"
            write_to(self._ledger, life=life, thread=self.thread)
            if self._before is not None:
                self._before()
            if plan.polite:
                signal.signal(signal.SIGTERM, signal.default_int_handler)
            if plan.ingest:
                settings.INGEST_RECORDS = SMALL_QUEUE
            passed: Counter[str] = Counter()
            faults.arm(_trigger(plan.armed, passed))
            try:
                with na.Journal.open(self._folder / "journal") as journal, observe(_report):
                    if plan.compact:
                        compact(journal, f"gone in life {life}")
                    self._drive_stubbornly(journal, plan, life)
            except BaseException as error:
                note(What.RAISED, value=f"{type(error).__name__}: {error}")
                raise
            note(What.COUNTED, value=dict(passed))

        return body

    def _drive_stubbornly(self, journal: na.Journal, plan: Plan, life: int) -> None:
        try:
            self._drive(journal, plan)
        except (Exception, KeyboardInterrupt) as error:
            if not plan.again:
                raise
            note(What.RAISED, value=f"{type(error).__name__}: {error}")
            wait_for_all()  # what the steps do that it left behind belongs to this life
            write_to(self._ledger, life=life + 1, thread=self.thread)
            self._drive(journal, replace(plan, resume=True))

    def _drive(self, journal: na.Journal, plan: Plan) -> None:
        if plan.audit:
            _audit(journal, self.thread)
        # No agent is made before: an empty process has none, and rebuilds it from the journal.
        run = _resumed(journal, self.thread) if plan.resume else None
        if run is None:
            run = self._run(journal, self.shape.given(), plan)
        while run.status is RunStatus.WAITING:
            if self.shape.asks:
                run = self._run(journal, Command(resume="yes"), plan)
            else:
                run = na.resume(self.thread, journal=journal)
        note(What.DONE, value=self.shape.read(run.value))
        _audit(journal, self.thread)

    def _run(self, journal: na.Journal, given: Any, plan: Plan) -> na.Run:
        agent = na.Agent(self.shape.build(), name=self.shape.name, journal=journal)
        if plan.on_loop:
            return asyncio.run(agent.arun(given, thread=self.thread, key="trial"))
        return agent.run(given, thread=self.thread, key="trial")


def compact(journal: na.Journal, gone: str) -> None:
    """Compact a journal, after a thread of that name was made and deleted."""
    draft = Draft(kind=Kind.CHUNK, thread=gone, scope=gone, digest=b"d" * 16, plain=b"b\0x")
    journal.append([draft], durable=True)
    journal.delete_thread(gone)
    compaction.compact(journal)


def _resumed(journal: na.Journal, thread: str) -> na.Run | None:
    """Resume the thread; None if its start was never recorded, or its end already is."""
    try:
        return na.resume(thread, journal=journal)
    except UnknownThreadError:
        return None


def _audit(journal: na.Journal, thread: str) -> None:
    """Note the keys of the steps that the journal says have returned."""
    note(What.LOOKS)
    try:
        steps = run_view(journal, thread).steps
    except UnknownThreadError:
        steps = ()
    returned = [step.key for step in steps if step.outcome is Outcome.RETURNED]
    note(What.AUDIT, value=returned)


def _report(event: StepEvent) -> None:
    if event.what == "returned":
        note(What.REPORTED, key=idempotency_key(event.step))


def _trigger(armed: Armed | None, passed: Counter[str]) -> Callable[[Fault], None]:
    """Return what counts every fault point and acts at the armed one."""
    lock = threading.Lock()

    def reach(fault: Fault) -> None:
        with lock:
            passed[fault] += 1
            due = armed is not None and armed.fault is fault and armed.hit == passed[fault]
        if due:
            assert armed is not None
            note(What.FIRED, value=[fault, armed.hit, armed.action])
            _act(armed.action)

    return reach


def _act(action: Action) -> None:
    if action is Action.RAISE:
        raise InjectedError("injected at a fault point")
    os.kill(os.getpid(), signal.SIGKILL if action is Action.KILL else signal.SIGTERM)
