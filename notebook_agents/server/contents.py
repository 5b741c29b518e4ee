"""What a step was given, returned and changed: bounded, and without loading a pickle."""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from notebook_agents import hiding
from notebook_agents.errors import JournalError, KeyMissingError, NotebookAgentsError
from notebook_agents.graph.checkpoints import Reader
from notebook_agents.graph.inert import InertCodec, Pickled
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Kind
from notebook_agents.runtime.timeline import outcome_in
from notebook_agents.server.answers import read_run
from notebook_agents.server.refusals import RefusedError
from notebook_agents.ui import details
from notebook_agents.ui.state import steps_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from notebook_agents.journal import Journal, Record
    from notebook_agents.model import RunView, Step

LARGEST = 16 * 1024 * 1024
"""Bytes of a result or a state up to which it is read."""
LONG = 20_000
"""Characters of a value that are shown."""
CHANNELS = 100
"""Channels of a state that are shown."""
_ITEMS, _NODES, _DEPTH = 1_000, 20_000, 40
_BATCH = 64
_NOTHING = {"text": None, "size": None, "cut": False, "kind": "none"}


class _TooLargeError(NotebookAgentsError):
    pass


class _Bounded:
    """Reads a journal's payloads up to a number of bytes.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._left = LARGEST
        self.reading = journal.reading
        self.opened = journal.opened

    def parts(self, seqs: Sequence[int]) -> dict[int, tuple[Sequence[int], bytes]]:
        """Return references and opened payload of the numbered records, some at a time."""
        found: dict[int, tuple[Sequence[int], bytes]] = {}
        for first in range(0, len(seqs), _BATCH):
            some = self._journal.parts(seqs[first : first + _BATCH])
            self._left -= sum(len(payload) for _, payload in some.values())
            if self._left < 0:
                raise _TooLargeError(f"it is larger than {LARGEST / 1e6:.0f} MB: read it in Python")
            found |= some
        return found


def step_detail(journal: Journal, thread: str, run: int | None, step: str) -> dict[str, Any]:
    """Return a step as the API's `StepDetail`.

    Raises:
        UnknownThreadError: There is no such thread.
        RefusedError: It has no such run, or the run no such step.
    """
    with journal.reading():
        view = read_run(journal, thread, run)
        found = next((one for one in view.steps if one.id == step), None)
        if found is None:
            raise RefusedError(
                "unknown_step",
                f"run {view.number} of thread {thread!r} has no step {step!r}: load the run again",
            )
        arguments = details.arguments(journal, thread, view.number, {step})
        (state,) = steps_state([found], view, arguments, {})
        result = _result(journal, view, step)
        before, after, problem = _states(journal, view, found)
    errors = [attempt.error for attempt in found.attempts if attempt.error is not None]
    return {
        "step": {**state, "result": result["text"]},
        "run": view.number,
        "namespace": found.namespace,
        "args": _NOTHING if step not in arguments else _text(arguments[step], kind="text"),
        "result": result,
        "error": None if not errors else _shown(errors[-1])[0],
        "before": before,
        "after": after,
        "state_error": problem,
    }


def _result(journal: Journal, view: RunView, step: str) -> dict[str, Any]:
    """Return what a step returned."""
    kinds = [Kind.STEP_RETURNED]
    records = journal.select(thread=view.thread, run=view.number, kinds=kinds, steps=[step])
    if not records:
        return _NOTHING
    record = records[-1]
    if record.size > LARGEST:
        told = f"it is too large to be shown: {record.size / 1e6:,.0f} MB"
        return _text(told, kind="text", size=record.size)
    try:
        tree = unpack(journal.payload(record.seq))
        parts = _Bounded(journal).parts
        value = Decoder(InertCodec(), parts).decode(tree, record.refs)
    except KeyMissingError as error:
        return _text(str(error), kind="text", size=record.size)
    except Exception as error:  # noqa: BLE001 - whatever is recorded there
        return _text(_cannot(error), kind="text", size=record.size)
    return value_text(value, size=record.size)


def _states(
    journal: Journal, view: RunView, step: Step
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str | None]:
    """Return the graph's state before and behind a step, and why one of them cannot be shown."""
    if view.closed is not None:
        return None, None, view.closed
    try:
        before, after = _around(journal, view, step)
        reader = Reader(_Bounded(journal), InertCodec())  # type: ignore[arg-type]  # all it needs
        return (
            None if before is None else _state(reader, before),
            None if after is None else _state(reader, after),
            None,
        )
    except Exception as error:  # noqa: BLE001 - whatever is recorded there
        return None, None, _cannot(error)


def _around(journal: Journal, view: RunView, step: Step) -> tuple[Record | None, Record | None]:
    """Return the checkpoint that a step rests on, and the one behind its superstep."""
    kinds = [Kind.STEP_INTENDED]
    intents = journal.select(thread=view.thread, run=view.number, kinds=kinds, step=step.id)
    first = intents[0]
    ns = first.ns or ""
    bare = "|".join(part.partition(":")[0] for part in ns.split("|"))
    records = journal.select(thread=view.thread, kinds=[Kind.CHECKPOINT])
    earlier = [one for one in records if one.seq < first.seq and (one.ns or "") in (ns, bare)]
    if not earlier:
        return None, None
    before = earlier[-1]
    later = (
        one
        for one in records
        if one.seq > first.seq and one.ns == before.ns and one.prior == before.ref
    )
    done = outcome_in(step, view) == "returned"
    return before, next(later, None) if done else None


def _state(reader: Reader, record: Record) -> dict[str, Any]:
    """Return a checkpoint as the API's `State`."""
    [found] = reader.checkpoint_tuples([(record, [])])
    values = {
        name: value
        for name, value in found.checkpoint["channel_values"].items()
        if not name.startswith(("branch:", "__pregel"))
    }
    return {
        "checkpoint": record.ref or "",
        "superstep": record.attempt,
        "channels": {name: value_text(values[name]) for name in islice(sorted(values), CHANNELS)},
        "cut": max(0, len(values) - CHANNELS),
    }


def value_text(value: Any, *, size: int | None = None) -> dict[str, Any]:
    """Return a value as the API's `Text`: indented JSON, or what it is."""
    if isinstance(value, Pickled):
        return _text(str(value), kind="pickle", size=value.size)
    plain = _Plain()
    text = json.dumps(plain.of(value), indent=1, ensure_ascii=False)
    shown = _text(text, kind="json", size=size)
    shown["cut"] = shown["cut"] or plain.cut
    return shown


def _text(text: str, *, kind: str, size: int | None = None) -> dict[str, Any]:
    shown, cut = _shown(text)
    length = len(text.encode("utf-8", "replace")) if size is None else size
    return {"text": shown, "size": length, "cut": cut, "kind": kind}


def _shown(text: str) -> tuple[str, bool]:
    """Return as much of a text as is shown, without the secrets of the environment."""
    said = hiding.hidden(text[: LONG + 1_000]).encode("utf-8", "replace").decode()
    return (said, False) if len(said) <= LONG else (f"{said[:LONG]}…", True)


def _cannot(error: Exception) -> str:
    said = str(error) if isinstance(error, NotebookAgentsError) else type(error).__name__
    end = "" if isinstance(error, JournalError | _TooLargeError) else ": look at it in Python"
    return f"it cannot be shown here: {said}{end}"


class _Plain:
    """Makes JSON of plain data: not too much, not too deep.

    Attributes:
        cut: Whether something was left out.
    """

    def __init__(self) -> None:
        self.cut = False
        self._left = _NODES

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return what JSON has for a value."""
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            self.cut = True
            return "…"
        if isinstance(value, str):
            return self._string(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if value.bit_length() < 64 else str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, dict):
            return {self._key(key): self.of(one, depth + 1) for key, one in self._some(value)}
        if isinstance(value, list | tuple):
            return [self.of(one, depth + 1) for one in self._first(value)]
        if isinstance(value, bytes):
            return f"<{len(value):,} bytes>"
        return self._string(str(value) if isinstance(value, Pickled) else f"<{type(value)}>")

    def _string(self, value: str) -> str:
        if len(value) > LONG:
            self.cut = True
            return f"{value[:LONG]}…"
        return value

    def _key(self, key: Any) -> str:
        return self._string(key if isinstance(key, str) else json.dumps(self.of(key)))

    def _some(self, value: dict[Any, Any]) -> list[tuple[Any, Any]]:
        self.cut = self.cut or len(value) > _ITEMS
        return list(islice(value.items(), _ITEMS))

    def _first(self, value: Sequence[Any]) -> Sequence[Any]:
        self.cut = self.cut or len(value) > _ITEMS
        return value[:_ITEMS]
