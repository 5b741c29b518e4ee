"""A run as the timeline's component takes it: plain JSON, version 1.

Whatever users, models and tools said is text in here, and the component shows it as text. The
whole state goes into the display's bundle and is cut to `STEPS`; while a run works, deltas carry
what changed.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from notebook_agents.model import Outcome
from notebook_agents.runtime import previews
from notebook_agents.runtime.advice import advice, undecided
from notebook_agents.runtime.timeline import clean, outcome_in, told, why_again

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from notebook_agents.model import Attempt, Decision, Driver, Interrupt, RunView, Step, Usage

VERSION = 1
STEPS = 2_000
"""Steps of a saved state."""
_LOUD = 1_000
"""Of these, at most so many that did not simply return; the others are the newest."""
_ERROR = 2_000
_WORDS = {outcome: outcome.value for outcome in Outcome}  # an enum's own `value` takes far longer
QUIET = (_WORDS[Outcome.RETURNED], _WORDS[Outcome.RUNNING])
"""How a step stands that is not loud, if it has one attempt."""
_ASKED = 64 * 1024
"""Characters of JSON up to which a question is shown as it was asked."""

State = dict[str, Any]
_NO_USAGE: State = {"tokens": None, "cost": None}


def run_state(
    view: RunView,
    *,
    arguments: Mapping[str, str] | None = None,
    results: Mapping[str, str] | None = None,
    driver: Driver | None = None,
    journal: str | None = None,
    limit: int | None = STEPS,
) -> State:
    """Return a run's whole state.

    Args:
        view: The run.
        arguments: Previews of what durable calls were given, by step.
        results: Previews of what steps returned, by step.
        driver: The process that drives it now, or None.
        journal: The journal's path, where it is not the one that a call without a path means.
        limit: How many steps it may have; None: all.
    """
    steps = view.steps if limit is None else _kept(view, limit)
    return {
        **head(view, driver=driver, journal=journal),
        "steps": steps_state(steps, view, arguments or {}, results or {}),
        "cut": len(view.steps) - len(steps),
    }


def head(view: RunView, *, driver: Driver | None = None, journal: str | None = None) -> State:
    """Return what is said of a run itself, without its steps."""
    todo = advice(view)
    return {
        "v": VERSION,
        "thread": view.thread,
        "run": view.number,
        "agent": view.agent,
        "status": str(view.status),
        "told": told(view),
        "error": None if view.error is None else _cut(view.error),
        "next": None if todo is None else {"what": todo[0], "call": todo[1]},
        "usage": usage_state(view.usage),
        "spared": _spared(view),
        "stored": view.stored,
        "started": moment(view.started),
        "ended": moment(view.ended),
        "processes": view.sessions,
        "driver": None if driver is None else {"pid": driver.pid, "host": driver.host},
        "journal": journal,
        "counts": counts(view),
        "interrupts": [_interrupt(interrupt) for interrupt in view.interrupts],
    }


def counts(view: RunView) -> dict[str, int]:
    """Return how many steps stand how."""
    found = {"steps": len(view.steps), "replayed": len([s for s in view.steps if s.replayed])}
    stand = Counter([outcome_in(step, view) for step in view.steps])
    found |= {word: stand[outcome] for outcome, word in _WORDS.items()}
    found["in_doubt"] = found.pop(_WORDS[Outcome.UNCERTAIN])
    return found


def steps_state(
    steps: Iterable[Step],
    view: RunView,
    arguments: Mapping[str, str],
    results: Mapping[str, str],
) -> list[State]:
    """Return the states of some steps of a run."""
    open_ = undecided(view)
    return [
        step_state(
            step,
            _WORDS[outcome_in(step, view)],
            arguments=arguments.get(step.id),
            result=results.get(step.id),
            undecided=step.id in open_,
        )
        for step in steps
    ]


def step_state(
    step: Step,
    outcome: str,
    *,
    arguments: str | None = None,
    result: str | None = None,
    undecided: bool = False,
) -> State:
    """Return the state of one step.

    Args:
        step: The step.
        outcome: How it stands.
        arguments: A preview of what it was given, if it is a durable call.
        result: A preview of what it returned.
        undecided: Somebody has to say whether it happened.
    """
    usage = usage_state(step.usage) or _NO_USAGE
    *before, newest = step.attempts
    attempts = [_attempt(attempt, why_again(attempt)) for attempt in before]
    attempts.append(_attempt(newest, None))
    return {
        "id": step.id,
        "parent": step.parent,
        "name": clean(step.name),
        "state": outcome,
        "replayed": step.replayed,
        "attempts": attempts,
        "started": attempts[0]["started"],
        "seconds": attempts[0]["seconds"] if len(attempts) == 1 else step.seconds,
        **usage,
        "args": arguments,
        "result": result,
        "key": step.key,
        "decisions": [*map(_decision, step.decisions)],
        "undecided": undecided,
    }


def usage_state(usage: Usage) -> State | None:
    """Return what models took, or None where none was asked."""
    return {"tokens": usage.total_tokens, "cost": usage.cost} if usage else None


def moment(at: datetime | None) -> str | None:
    """Return a moment in ISO 8601, in UTC."""
    if at is None:
        return None
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    return at.isoformat("T", "milliseconds")  # by its name, the second takes as long as the rest


def _attempt(attempt: Attempt, why: str | None) -> State:
    return {
        "number": attempt.number,
        "outcome": _WORDS[attempt.outcome],
        "started": moment(attempt.started),
        "seconds": attempt.seconds,
        "error": None if attempt.error is None else _cut(attempt.error),
        "why": why,
    }


def _decision(decision: Decision) -> State:
    return {
        "said": str(decision.said),
        "attempt": decision.attempt,
        "user": clean(decision.user),
        "host": clean(decision.host),
        "at": moment(decision.at),
    }


def _spared(view: RunView) -> State | None:
    """Return what a resume did not spend again."""
    if not view.replayed:
        return None
    used = usage_state(view.usage_saved) or {"tokens": 0, "cost": None}
    return {"steps": len(view.replayed), "seconds": view.seconds_saved, **used}


def _interrupt(interrupt: Interrupt) -> State:
    value, text = _json(interrupt.value)
    if interrupt.error is not None:
        text = f"what it asks cannot be shown here: {_cut(interrupt.error)}"
    return {
        "id": interrupt.id,
        "step": interrupt.step,
        "node": clean(interrupt.node),
        "value": value,
        "text": text,
        "kind": "review" if is_review(value) else "question",
    }


def is_review(value: Any) -> bool:
    """Whether LangChain's human-in-the-loop middleware asks: for a batch of calls, or for one."""
    if not isinstance(value, dict):
        return False
    if value.get("type") == "tool_approval":
        return isinstance(value.get("name"), str) and isinstance(value.get("args"), dict)
    requests, configs = value.get("action_requests"), value.get("review_configs")
    return isinstance(requests, list) and isinstance(configs, list) and bool(requests)


def _json(value: Any) -> tuple[Any, str | None]:
    """Return a value as JSON, or None and a preview where JSON would not say the same."""
    try:
        written = json.dumps(value, allow_nan=False)
        if len(written) <= _ASKED and json.loads(written) == value:
            return value, None
    except (TypeError, ValueError, RecursionError):
        pass
    return None, previews.of_value(value, limit=_ERROR)


def _kept(view: RunView, limit: int) -> Sequence[Step]:
    """Return the steps to keep: what did not simply return, and the newest of the others."""
    if len(view.steps) <= limit:
        return view.steps
    loud = [
        step.id
        for step in view.steps
        if len(step.attempts) > 1 or _WORDS[outcome_in(step, view)] not in QUIET
    ]
    kept = newest([step.id for step in view.steps], loud, limit)
    return [step for step in view.steps if step.id in kept]


def newest(steps: Sequence[str], loud: Sequence[str], limit: int = STEPS) -> set[str]:
    """Return the ids of the steps to keep: of those that are loud, then the newest of all."""
    kept = set(loud[-_LOUD:])
    for step in reversed(steps):
        if len(kept) >= limit:
            break
        kept.add(step)
    return kept


def _cut(text: str) -> str:
    said = text if len(text) <= _ERROR else f"{text[: _ERROR - 1]}…"
    return said.encode("utf-8", "replace").decode()
