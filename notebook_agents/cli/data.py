"""What `--json` writes: plain dictionaries with stable keys, times in ISO 8601 UTC."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import NotebookAgentsError, UnknownThreadError
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from datetime import datetime

    from notebook_agents.cli.doctor import Check
    from notebook_agents.journal import Journal
    from notebook_agents.model import (
        Attempt,
        Decision,
        Interrupt,
        RunView,
        Step,
        ThreadInfo,
        Usage,
    )
    from notebook_agents.notebook.headless import NotebookResult


def thread_data(info: ThreadInfo) -> dict[str, Any]:
    """Return one line of `list` as data."""
    driver = info.driver
    return {
        "thread": info.thread,
        "agent": info.agent,
        "status": str(info.status),
        "run": info.run,
        "returned": info.returned,
        "intended": info.intended,
        "created": iso(info.created),
        "updated": iso(info.updated),
        "notebook": info.notebook,
        "records": info.records,
        "driver": None
        if driver is None
        else {"pid": driver.pid, "host": driver.host, "since": iso(driver.since)},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """What a run returned, if it did and as far as this process can tell.

    Attributes:
        held: The value; None where there is none.
        error: Why it cannot be shown although there is one, else None.
    """

    held: Any = None
    error: str | None = None


def newest(journal: Journal) -> str:
    """Return the thread that was at work last.

    Raises:
        UnknownThreadError: No agent and no notebook has run here.
    """
    for info in journal.threads():
        if info.agent is not None:
            return info.thread
    raise UnknownThreadError(f"nothing has run yet in {journal.home}: there is nothing to show")


def read_view(journal: Journal, thread: str, number: int | None) -> RunView:
    """Return a run as its records tell it, with what it asks people.

    Raises:
        UnknownThreadError: There is no such thread, or no such run in it.
    """
    from notebook_agents.runtime.view import run_view

    view = run_view(journal, thread, number)
    if view.status.finished:
        return view
    from notebook_agents.graph.run import Run

    return Run(journal, thread, view.number).view


def read_value(journal: Journal, view: RunView) -> Value:
    """Return the value of a run; it is rebuilt, so its types have to be importable here."""
    if view.status is not RunStatus.SUCCEEDED:
        return Value()
    from notebook_agents.graph.run import Run

    try:
        return Value(held=Run(journal, view.thread, view.number).value)
    except NotebookAgentsError as error:
        return Value(error=str(error))


def run_data(view: RunView, value: Value) -> dict[str, Any]:
    """Return a run as data."""
    saved = view.replayed
    return {
        "thread": view.thread,
        "run": view.number,
        "agent": view.agent,
        "status": str(view.status),
        "stored": view.stored,
        "sessions": view.sessions,
        "started": iso(view.started),
        "ended": iso(view.ended),
        "error": view.error,
        "steps_replayed": len(saved),
        "seconds_saved": round(sum(step.seconds or 0.0 for step in saved), 6),
        "usage": _usage_data(view.usage),
        "usage_saved": _usage_data(view.usage_saved),
        "value": plain(value.held),
        "value_error": value.error,
        "closed": view.closed,
        "interrupts": [_interrupt_data(interrupt) for interrupt in view.interrupts],
        "steps": [_step_data(step) for step in view.steps],
    }


def check_data(check: Check) -> dict[str, Any]:
    """Return one check of `doctor` as data."""
    return {
        "name": check.name,
        "level": str(check.level),
        "found": check.found,
        "remedy": check.remedy,
    }


def notebook_data(result: NotebookResult) -> dict[str, Any]:
    """Return a notebook that ran as data."""
    return {
        "path": str(result.path),
        "kernel": result.kernel,
        "cells": result.cells,
        "seconds": round(result.seconds, 3),
        "thread": result.thread,
        "skipped": result.skipped,
        "restarts": result.restarts,
        "notes": list(result.notes),
    }


def _step_data(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "name": step.name,
        "parent": step.parent,
        "namespace": step.namespace,
        "outcome": str(step.outcome),
        "replayed": step.replayed,
        "was_in_doubt": step.was_in_doubt,
        "in_doubt": step.in_doubt,
        "seconds": step.seconds,
        "key": step.key,
        "usage": _usage_data(step.usage),
        "attempts": [_attempt_data(attempt) for attempt in step.attempts],
        "decisions": [_decision_data(decision) for decision in step.decisions],
    }


def _decision_data(decision: Decision) -> dict[str, Any]:
    return {
        "said": str(decision.said),
        "attempt": decision.attempt,
        "user": decision.user,
        "host": decision.host,
        "at": iso(decision.at),
        "interrupt": decision.interrupt,
    }


def _interrupt_data(interrupt: Interrupt) -> dict[str, Any]:
    return {
        "id": interrupt.id,
        "value": plain(interrupt.value),
        "value_error": interrupt.error,
        "step": interrupt.step,
        "node": interrupt.node,
        "namespace": interrupt.namespace,
    }


def _usage_data(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cost": usage.cost,
        "models": {
            model.model: {
                "replies": model.replies,
                "input_tokens": model.input_tokens,
                "output_tokens": model.output_tokens,
                "total_tokens": model.total_tokens,
                "cost": model.cost,
            }
            for model in usage.models
        },
    }


def _attempt_data(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "session": attempt.session,
        "started": iso(attempt.started),
        "ended": iso(attempt.ended),
        "outcome": str(attempt.outcome),
        "error": attempt.error,
    }


def iso(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, such as 2026-11-20T14:02:11.000000Z."""
    if moment is None:
        return None
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def dumps(value: Any) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Return a form of `value` that JSON has: a model's fields, or what `repr` says of it."""
    try:
        return json.loads(json.dumps(value, default=_form, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _form(value: Any) -> Any:
    """Return the fields of a pydantic model (LangChain's messages are), or the `repr`."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else repr(value)
