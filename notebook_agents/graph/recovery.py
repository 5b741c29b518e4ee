"""Resuming all that is unfinished, also by itself; a run that kills its process is parked."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from notebook_agents import settings
from notebook_agents.errors import NoJournalError
from notebook_agents.graph.folder import default_journal
from notebook_agents.graph.resume import resume, unfinished
from notebook_agents.graph.run import Run
from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, RunStatus
from notebook_agents.saying import say

if TYPE_CHECKING:
    from notebook_agents.graph.agent import Agent
    from notebook_agents.journal import Journal
    from notebook_agents.journal.queue import Head

RECOVERING, PARKED = "recovering", "parked"
"""Names of decisions: a run is about to be resumed by itself; it is not any more."""
_IN_ALL = 10
_COUNTED = (Kind.DECISION, Kind.STEP_INTENDED, Kind.STEP_RETURNED, Kind.RUN_FINISHED)
_logger = logging.getLogger("notebook_agents.graph")


def resume_all(
    journal: Journal | None = None, *, recoveries: int | None = None
) -> list[tuple[str, Run | Exception]]:
    """Resume every run that can go on without a person, one after the other, the newest first.

    One that fails does not keep the others from going on.

    Args:
        journal: Which; None for the journal of this folder.
        recoveries: None: all that are unfinished, but those that wait for an answer. A number: only
            those whose process died, each at most this often with no step returned in between, and
            ten times as often in all. What still kills its process is then parked: it is failed,
            its error says why, and it is resumed by hand, which begins the count anew.

    Returns:
        Each thread with its run, or with what its resume raised.

    Raises:
        NoJournalError: There is no journal here.
    """
    return _resume(journal or default_journal(create=False), None, recoveries)


def begin(agent: Agent, recoveries: int | None) -> threading.Thread | None:
    """Resume an agent's runs whose process died, in a worker thread; None: the setting counts.

    Returns:
        The thread, or None where nothing is to be resumed.
    """
    allowed = settings.auto_resume() if recoveries is None else recoveries
    if not allowed:
        return None
    try:
        journal = agent._journal or default_journal(create=False)
    except NoJournalError:
        return None
    if not any(_died(head) and head.agent == agent.name for head in journal.heads()):
        return None

    def work() -> None:
        for thread, run in _resume(journal, agent.name, allowed):
            told = run.status if isinstance(run, Run) else f"{type(run).__name__}: {run}"
            say(f"thread {thread} went on by itself: {told}")

    worker = threading.Thread(target=work, name="notebook-agents-recovery", daemon=True)
    worker.start()
    return worker


def _resume(
    journal: Journal, agent: str | None, recoveries: int | None
) -> list[tuple[str, Run | Exception]]:
    found: list[tuple[str, Run | Exception]] = []
    for info in unfinished(journal):
        head = journal.head(info.thread)
        if head is None or (agent is not None and head.agent != agent):
            continue
        if recoveries is not None:
            if _died(head):
                found.append((head.thread, _recover(journal, head, recoveries)))
        elif info.status is not RunStatus.WAITING:
            found.append((head.thread, _resume_one(journal, head.thread)))
    return found


def _resume_one(journal: Journal, thread: str) -> Run | Exception:
    try:
        return resume(thread, journal=journal)
    except Exception as error:  # noqa: BLE001 - returned: the others go on
        return error


def _died(head: Head) -> bool:
    """Whether a run's driver is gone without having put it down, as Ctrl-C does."""
    return head.driver is not None and not head.driven and head.info().status is RunStatus.ORPHANED


def _recover(journal: Journal, head: Head, allowed: int) -> Run | Exception:
    """Resume a run whose process died, or park it.

    The attempt is on disk before anything of the run is touched, its definition included: what
    kills the process while it is rebuilt counts too. It takes the thread, so of several processes
    that recover at the same time one does and is counted.
    """
    since, in_all, last = _counts(journal, head)
    parked = since >= allowed or in_all >= _IN_ALL * allowed
    claim = Claim(
        agent=head.agent or "", run=head.run, session=head.session, notebook=head.notebook
    )
    attempt = Draft(
        kind=Kind.DECISION,
        thread=head.thread,
        scope=head.scope,
        run=head.run,
        name=PARKED if parked else RECOVERING,
        claim=claim,
    )
    drafts = [attempt]
    if parked:
        where = f" at step {last!r}" if last else ""
        reason = (
            f"the process died{where} in each of {since if since >= allowed else in_all} attempts "
            f"to go on with run {head.run} of thread {head.thread!r}: it is not resumed by itself "
            f'any more; look for what ends the process, then na.resume("{head.thread}")'
        )
        drafts.append(
            Draft(
                kind=Kind.RUN_FINISHED,
                thread=head.thread,
                scope=head.scope,
                run=head.run,
                name=str(RunStatus.FAILED),
                attempt=head.session,
                plain=pack((None, reason)),
            )
        )
    try:
        journal.append(drafts, durable=True)
    except Exception as error:  # noqa: BLE001 - returned: the others go on
        return error
    if parked:
        journal.release(head.thread, claim.token)
        return Run(journal, head.thread, head.run)
    journal.driving.discard(head.thread)  # it is this process that takes it up again
    try:
        return _resume_one(journal, head.thread)
    finally:
        journal.release(head.thread, claim.token)  # only if the run did not begin


def _counts(journal: Journal, head: Head) -> tuple[int, int, str | None]:
    """Return how often a run was recovered since a step returned, and in all; its last step."""
    since = in_all = 0
    last = None
    for record in journal.select(thread=head.thread, kinds=_COUNTED):
        if record.run != head.run:
            continue
        if record.kind is Kind.STEP_INTENDED:
            last = record.name
        elif record.kind is Kind.STEP_RETURNED:
            since = 0
        elif record.kind is Kind.RUN_FINISHED:
            since = in_all = 0
        elif record.name == RECOVERING:
            since, in_all = since + 1, in_all + 1
    return since, in_all, last
