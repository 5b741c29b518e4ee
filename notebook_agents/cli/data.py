"""What `--json` writes: plain dictionaries with stable keys, times in ISO 8601 UTC."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notebook_agents.model import Attempt, RunView, Step, ThreadInfo

THREAD_KEYS = """\
thread, agent, status, run, returned, intended, created, updated, notebook, records,
driver {pid, host, since} or null"""
RUN_KEYS = """\
thread, run, agent, status, stored, sessions, started, ended, error, steps_replayed,
seconds_saved, steps [{id, name, parent, namespace, outcome, replayed, was_in_doubt, seconds,
key, attempts [{number, session, started, ended, outcome, error}]}]"""


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


def run_data(view: RunView) -> dict[str, Any]:
    """Return a run as data."""
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
        "steps_replayed": len(view.replayed),
        "seconds_saved": round(view.seconds_saved, 6),
        "steps": [_step_data(step) for step in view.steps],
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
        "seconds": step.seconds,
        "key": step.key,
        "attempts": [_attempt_data(attempt) for attempt in step.attempts],
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
    """Return `value` as indented JSON; what JSON has no form for becomes its `repr`."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """Give JSON a form of an object: a pydantic model's (LangChain's messages are), or its repr."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    return repr(value)
