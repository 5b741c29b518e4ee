"""What people say of steps: that one did or did not happen, or the answer to what it asked.

A decision is a record about one attempt. It stands beside what the steps recorded themselves and
never overrides it: the driver that takes the run up next acts on the newest one.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import DecisionError
from notebook_agents.journal import Claim
from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, RunStatus, Said
from notebook_agents.runtime.driver import RunDriver
from notebook_agents.runtime.reconciling import user

if TYPE_CHECKING:
    from notebook_agents.journal import Draft, Journal
    from notebook_agents.journal.values import Codec
    from notebook_agents.runtime.driver import StepState
    from notebook_agents.runtime.steps import Answer


def decide(journal: Journal, thread: str, step: str | None, answer: Answer, *, codec: Codec) -> int:
    """Record what happened to a step that is in doubt; return the run's number.

    Args:
        journal: The journal.
        thread: The thread's name.
        step: The step's id or the beginning of it; None for the only one that is in doubt.
        answer: What happened.
        codec: Serialises the result.

    Raises:
        UnknownThreadError: There is no such thread.
        ThreadBusyError: A living process drives it.
        DecisionError: There is no such step, or it is not in doubt.
        ValueNotKeptError: The result cannot be kept.
    """
    journal.thread(thread)
    head = journal.at_rest(thread, then="say it, unless it settled the doubt itself")
    assert head is not None
    driver = RunDriver(
        journal,
        thread=thread,
        scope=head.scope,
        number=head.run,
        # Under the token of the driver that is gone: whoever takes the thread in between wins.
        claim=Claim(
            agent=head.agent or "",
            run=head.run,
            session=head.session,
            notebook=None,
            token=head.token,
        ),
        codec=codec,
    )
    driver.load()
    chosen = _chosen(driver, step, finished=RunStatus(head.status).finished)
    said = Said.DID if answer.happened else Said.DID_NOT
    value = (answer.result,) if answer.happened else None
    journal.append(drafts(driver, chosen, said, value), durable=True)
    return driver.number


def drafts(
    driver: RunDriver,
    step: StepState,
    said: Said,
    value: tuple[Any] | None,
    *,
    interrupt: str | None = None,
) -> list[Draft]:
    """Return the drafts of a decision of this user about a step's newest attempt.

    Raises:
        ValueNotKeptError: The value cannot be kept.
    """
    encoder = driver.encoder()
    tree = None
    if value is not None:
        what = f"what was said of step {step.name!r} of thread {driver.thread!r}"
        tree = encoder.placed(encoder.encode(value[0], what))
    draft = driver.draft(
        Kind.DECISION,
        step=step.id,
        parent=step.parent,
        name=str(said),
        ns=step.ns or None,
        attempt=step.attempts,
        ref=interrupt,
    )
    draft.plain, draft.refs = pack((user(), socket.gethostname(), tree)), encoder.refs
    draft.size = encoder.size
    return [*encoder.new, draft]


def doubts(driver: RunDriver) -> list[StepState]:
    """Return the steps in doubt on which it depends how the run goes on."""
    steps = {step.id: step for step in driver.steps}

    def is_settled(step: StepState) -> bool:
        outer = steps.get(step.parent or "")
        return outer is not None and (outer.returned is not None or is_settled(outer))

    return [step for step in steps.values() if step.in_doubt and not is_settled(step)]


def _chosen(driver: RunDriver, wanted: str | None, *, finished: bool) -> StepState:
    where = f"run {driver.number} of thread {driver.thread!r}"
    see = f"`notebook-agents show {driver.thread}` shows its steps"
    if finished:
        raise DecisionError(f"{where} is finished and nothing of it is in doubt: {see}")
    open_ = doubts(driver)
    if wanted is None:
        # A node around a doubtful call is in doubt only because of it.
        around = {step.parent for step in open_}
        found = [step for step in open_ if step.id not in around]
        if len(found) == 1:
            return found[0]
        if not found:
            raise DecisionError(f"no step of {where} is in doubt: {see}")
        names = ", ".join(f"{step.name!r} ({step.id})" for step in found)
        raise DecisionError(f"{len(found)} steps of {where} are in doubt: say which, {names}")
    found = [step for step in driver.steps if wanted and step.id.startswith(wanted)]
    if len(found) != 1:
        many = "several steps whose ids begin" if found else "no step whose id begins"
        raise DecisionError(f"{where} has {many} with {wanted!r}: give a whole id; {see}")
    if found[0] not in open_:
        raise DecisionError(
            f"step {found[0].name!r} ({found[0].id}) of {where} is not in doubt, it "
            f"{_state(found[0])}: nothing has to be decided, {see}"
        )
    return found[0]


def _state(step: StepState) -> str:
    if step.returned is not None:
        return "returned"
    if step.suspended:
        return "waits for a person"
    return "failed" if step.failed is not None else "is part of a step that returned"
