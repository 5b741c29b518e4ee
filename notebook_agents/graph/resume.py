"""Going on with a run in a process that knows nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.errors import DefinitionError, UnknownThreadError, ValueNotKeptError
from notebook_agents.graph import definition
from notebook_agents.graph.agent import Agent, default_journal, live_agent, read_parts
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime.origin import here

if TYPE_CHECKING:
    from notebook_agents.graph.run import Run
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
    return [info for info in journal.threads() if info.agent and info.status in _RESUMABLE]


def resume(thread: str | None = None, *, journal: Journal | None = None) -> Run:
    """Go on with a run, also in an empty process: its graph is rebuilt from the journal.

    Steps that returned are not run again. An agent of the same name that this process has is used
    instead of the recorded one, so that mended code counts.

    Args:
        thread: Whose newest run. None: this notebook's newest run that can be resumed, or, where
            no notebook is known, the newest of all.
        journal: Which; None for the journal of this folder.

    Returns:
        The run; a finished one is returned as it is.

    Raises:
        NoJournalError: There is no journal here.
        UnknownThreadError: There is no such thread, or nothing to resume.
        DefinitionError: The graph cannot be rebuilt here; the message says what is missing.
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
    live = live_agent(info.agent)
    agent = live.on(journal) if live is not None else _rebuilt(journal, info)
    return agent.resume(name)


def _newest(journal: Journal) -> str:
    found = unfinished(journal)
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
    shell.__init__(graph, info.agent, journal, allow=allow)  # type: ignore[misc]  # filled after it was referred to
    return shell
