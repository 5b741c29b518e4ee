"""Cancelling a run: no further step begins, its history stays one that a model accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_agents.graph.drive import going
from notebook_agents.graph.folder import default_journal
from notebook_agents.graph.requests import cancel_elsewhere
from notebook_agents.graph.resume import agent_of
from notebook_agents.graph.run import Run
from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.values import pack
from notebook_agents.model import NOTEBOOK, Kind, RunStatus

if TYPE_CHECKING:
    from notebook_agents.journal import Journal
    from notebook_agents.model import ThreadInfo


def cancel(thread: str, *, journal: Journal | None = None) -> Run:
    """Cancel a thread's newest run: it is finished, and the next input starts another.

    A run that is driven, by this process or another one, begins no further step; what runs now is
    cancelled where it is async, and let finish where it is not: such steps are named on stderr. It
    is marked when it has come to its end, also where that was its last superstep: nobody gets its
    answer, and its state keeps what its steps returned. A run that nobody drives is marked at once.
    A finished run stays as it is.

    A notebook that runs without a browser is interrupted; the runs of its agents stay as they are.

    A model refuses a conversation in which a tool call has no answer. So where the state holds
    messages, each open tool call gets a tool message that says `cancelled`.

    Args:
        thread: Whose newest run.
        journal: Which; None for the journal of this folder.

    Returns:
        The run: finished, or still coming to its end.

    Raises:
        UnknownThreadError: There is no such thread.
        DefinitionError: The graph cannot be rebuilt here; the message says what is missing.
        ThreadBusyError: The process that drives the thread takes no note: it may be stopped.
    """
    journal = journal or default_journal(create=False)
    info = journal.thread(thread)
    drive = going(journal, thread)
    if drive is not None:
        drive.cancel()
    elif info.status is RunStatus.RUNNING and cancel_elsewhere(journal, thread):
        pass  # it comes to its end there
    elif not info.status.finished and info.agent == NOTEBOOK:
        _end(journal, info)
    elif not info.status.finished:
        agent_of(journal, info).take(thread).finish_cancelled()
    return Run(journal, thread, info.run)


def _end(journal: Journal, info: ThreadInfo) -> None:
    """Mark the run of a notebook that nobody runs now.

    Raises:
        ThreadBusyError: Somebody has just taken it up.
    """
    head = journal.head(info.thread)
    assert head is not None
    claim = Claim(agent=NOTEBOOK, run=head.run, session=head.session + 1, notebook=info.notebook)
    place: dict[str, Any] = {"thread": info.thread, "scope": head.scope, "run": head.run}
    taken = Draft(
        kind=Kind.RUN_STARTED,
        name=NOTEBOOK,
        attempt=claim.session,
        claim=claim,
        plain=pack({}),
        **place,
    )
    journal.append([taken], durable=False)
    ended = Draft(
        kind=Kind.RUN_FINISHED,
        name=str(RunStatus.CANCELLED),
        attempt=claim.session,
        plain=pack((None, None)),
        token=claim.token,
        **place,
    )
    journal.append([ended], durable=True)
    journal.driving.discard(info.thread)
