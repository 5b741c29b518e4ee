"""What to do next about an unfinished run: a phrase, and the call or command that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from notebook_agents.model import RunView


def advice(
    view: RunView, *, resume: str | None = None, resolve: str | None = None
) -> tuple[str, str] | None:
    """Return what to do next about a run that is not finished, and the call that does it.

    Args:
        view: The run.
        resume: The command line that resumes it; None: the call of `na.resume`.
        resolve: The command line that decides a doubt; None: the call of `na.resolve`.

    Returns:
        A phrase and a line of code, or None where nothing is to do.
    """
    thread = repr(view.thread)
    in_shell = resume is not None
    resume = resume or f"na.resume({thread})"
    match view.status:
        case RunStatus.FAILED:
            return (
                "fix the cause, then run it again with the same input or resume it (what returned "
                "is not run again)"
            ), resume
        case RunStatus.WAITING:
            return _answering(view, thread, resume if in_shell else None) or (
                "it stopped before or after a node, as its graph was compiled to; go on",
                resume,
            )
        case RunStatus.IN_DOUBT:
            open_ = [step.id for step in view.steps if step.id in undecided(view)]
            if not open_:
                return "what happened has been said; resume it", resume
            call = (
                f"{resolve} {open_[0]} --did --result JSON   (or --did-not)"
                if resolve is not None
                else f"na.resolve({thread}, '{open_[0]}', na.did(result))  # or na.did_not()"
            )
            return (
                "find out at the other side whether the step in doubt happened, say it (or give it "
                "a reconcile function that finds out), then resume"
            ), call
        case RunStatus.PENDING:
            return "nobody has gone on with it yet", resume
        case RunStatus.ORPHANED:
            return "nobody drives it any more; go on behind what returned", resume
    return None


def _answering(view: RunView, thread: str, resume: str | None) -> tuple[str, str] | None:
    """Return how a run's questions are answered; None if it asks nothing."""
    ids = [interrupt.id for interrupt in view.interrupts]
    if not ids:
        return None
    if len(ids) == 1:
        call = f"na.resume({thread}, answer=…)" if resume is None else f"{resume} --answer JSON"
        return "answer what it asks", call
    if resume is None:
        call = f"na.resume({thread}, answers={{{', '.join(f'{one!r}: …' for one in ids)}}})"
    else:
        call = " ".join([resume, *(f"--answer {one}=JSON" for one in ids)])
    return "answer some or all of what it asks", call


def undecided(view: RunView) -> set[str]:
    """Return the ids of the steps of which somebody has to find out whether they happened.

    An at-most-once step that raised is one of them: an error does not prove that nothing happened.
    """
    if view.status is not RunStatus.IN_DOUBT:
        return set()
    # Nobody drives a run in doubt, so a step without an end does not run.
    open_ = [s for s in view.steps if s.in_doubt or s.outcome is Outcome.RUNNING]
    around = {step.parent for step in open_}
    return {step.id for step in open_ if step.decided is None and step.id not in around}
