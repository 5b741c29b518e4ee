"""Going on with a run in a process that knows nothing of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import (
    DecisionError,
    DefinitionError,
    UnknownThreadError,
    ValueNotKeptError,
)
from notebook_agents.graph import definition
from notebook_agents.graph.agent import Agent, live_agent
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.graph.folder import default_journal
from notebook_agents.graph.people import NO_ANSWER
from notebook_agents.graph.plan import read_parts
from notebook_agents.graph.run import Run
from notebook_agents.model import NOTEBOOK, VARIABLES, Kind, RunStatus
from notebook_agents.runtime.decisions import decide
from notebook_agents.runtime.leaving import was_left
from notebook_agents.runtime.origin import here
from notebook_agents.runtime.steps import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from notebook_agents.journal import Journal
    from notebook_agents.model import ThreadInfo

_RESUMABLE = (
    RunStatus.PENDING,
    RunStatus.ORPHANED,
    RunStatus.FAILED,
    RunStatus.WAITING,
    RunStatus.IN_DOUBT,
)


def unfinished(journal: Journal | None = None) -> list[ThreadInfo]:
    """Return the threads whose newest run can be resumed, the newest first.

    Args:
        journal: Which; None for the journal of this folder.

    Raises:
        NoJournalError: There is none here.
    """
    journal = journal or default_journal(create=False)
    return [info for info in _agents(journal) if info.status in _RESUMABLE]


def resume(
    thread: str | None = None,
    *,
    answer: Any = NO_ANSWER,
    answers: Mapping[str, Any] | None = None,
    journal: Journal | None = None,
) -> Run:
    """Go on with a run, also in an empty process: its graph is rebuilt from the journal.

    Steps that returned are not run again. An agent of the same name that this process has is used
    instead of the recorded one, so that mended code counts.

    Args:
        thread: Whose newest run. None: this notebook's newest run that can be resumed, or, where
            no notebook is known, the newest of all.
        answer: The answer to the only interrupt that is open. It is on disk before the run goes on.
        answers: Answers to some or all open interrupts, by their ids (`run.interrupts`).
        journal: Which; None for the journal of this folder.

    Returns:
        The run; a finished one is returned as it is.

    Raises:
        NoJournalError: There is no journal here.
        UnknownThreadError: There is no such thread, or nothing to resume.
        DefinitionError: The graph cannot be rebuilt here; the message says what is missing.
        InputError: Nobody asked for this answer, or it is not said to what it is one.
        ThreadBusyError: Another process drives the thread.
        Exception: What a node raised.
    """
    journal = journal or default_journal(create=False)
    name = thread if thread is not None else _newest(journal)
    info = journal.thread(name)
    if info.agent is None:
        raise UnknownThreadError(
            f"thread {name!r} was written by a plain LangGraph graph and no agent: run that graph "
            "with a JournalSaver to go on"
        )
    return agent_of(journal, info).resume(name, answer=answer, answers=answers)


def agent_of(journal: Journal, info: ThreadInfo) -> Agent:
    """Return this process's agent for a thread, or the one that its record defines.

    Raises:
        DefinitionError: It is no agent's, or the graph cannot be rebuilt here; the message says
            what is missing.
    """
    if info.agent == NOTEBOOK:
        raise DefinitionError(
            f"thread {info.thread!r} is a notebook and no agent: go on with it by the command that "
            f"began it, `notebook-agents run {shlex.quote(info.notebook or '')}`"
        )
    if info.agent == VARIABLES:
        raise DefinitionError(
            f"thread {info.thread!r} has a notebook's variables and no run: na.restore() brings "
            "them back in a kernel of that notebook"
        )
    live = live_agent(info.agent or "")
    return live.on(journal) if live is not None else _rebuilt(journal, info)


def resolve(
    thread: str,
    step: str | None = None,
    answer: Answer | None = None,
    *,
    journal: Journal | None = None,
) -> Run:
    """Say what happened to a step that is in doubt, so that its run can go on.

    It is recorded with the name of this user and host. The next resume acts on it: what happened is
    not run again, what did not runs again under the same idempotency key. Said twice of an attempt,
    the newest counts; a result that was recorded stands.

    Args:
        thread: Whose newest run.
        step: The step's id, or the beginning of it. None: the only step that is in doubt.
        answer: `did(result)` with what it returned (for a node: what the node would have returned),
            or `did_not()`.
        journal: Which; None for the journal of this folder.

    Returns:
        The run; it shows what to do next: resume it.

    Raises:
        NoJournalError: There is no journal here.
        UnknownThreadError: There is no such thread.
        ThreadBusyError: A living process drives it.
        DecisionError: There is no such step, it is not in doubt, or no answer was given.
        ValueNotKeptError: The result cannot be kept.
    """
    if not isinstance(answer, Answer):
        raise DecisionError(
            f"nothing was said of thread {thread!r}: give answer=na.did(result) or na.did_not()"
        )
    journal = journal or default_journal(create=False)
    codec = ResultCodec(strict_serializer())
    return Run(journal, thread, decide(journal, thread, step, answer, codec=codec))


def _agents(journal: Journal) -> list[ThreadInfo]:
    """Return the threads that agents made, the newest first."""
    return [info for info in journal.threads() if info.agent and info.agent != NOTEBOOK]


def _newest(journal: Journal) -> str:
    found = [
        info
        for info in _agents(journal)
        if info.status in _RESUMABLE or was_left(journal.id, info.thread)
    ]
    notebook = here().notebook
    if notebook is not None:
        found = [info for info in found if info.notebook == notebook] or [
            info for info in found if info.notebook is None
        ]
    if not found:
        where = f"of {notebook} " if notebook else ""
        raise UnknownThreadError(
            f"no run {where}in {journal.home} is waiting to be resumed: `notebook-agents list` "
            "shows all threads"
        )
    return found[0].thread


def _rebuilt(journal: Journal, info: ThreadInfo) -> Agent:
    """Return the agent of a thread's newest run, made from its recorded definition."""
    head = journal.head(info.thread)
    assert head is not None and info.agent is not None
    shell = Agent.__new__(Agent)

    def reference(token: str) -> object:
        kind, _, name = token.partition(":")
        if kind == "journal":
            return journal
        other = shell if name == info.agent else live_agent(name)
        if other is None:
            raise ValueNotKeptError(f"it uses agent {name!r}: make that agent first")
        return other

    first = next(
        record
        for record in journal.select(thread=info.thread, kinds=[Kind.RUN_STARTED])
        if record.run == head.run and record.digest
    )
    kept = read_parts(journal, first, ("definition",))["definition"]
    try:
        graph, allow = definition.rebuild(kept, agent=info.agent, reference=reference)
    except DefinitionError as error:
        raise DefinitionError(f"thread {info.thread!r} cannot go on here: {error}") from error
    # Filled after it was referred to.
    shell.__init__(graph, info.agent, journal, allow=allow, auto_resume=0)  # type: ignore[misc]
    return shell
