"""What steps were given and what they returned, read from the journal for people to look at."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from notebook_agents import pickling
from notebook_agents.errors import KeyMissingError, NotebookAgentsError
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Kind, Outcome
from notebook_agents.runtime import previews
from notebook_agents.runtime.driver import describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from notebook_agents.journal import Journal, Record
    from notebook_agents.journal.values import Codec
    from notebook_agents.model import RunView

RESULTS = 20
"""Results, the newest, whose previews a finished run's state has without being asked."""
_SMALL = 64 * 1024
_LARGE = 16 * 1024 * 1024
"""Bytes of a result up to which it is read for its preview: by itself, and when asked for."""
_EMPTY = (b"", b"\x00")
LONG = 4_000
"""Characters of a preview that was asked for."""


def arguments(journal: Journal, thread: str, run: int, steps: Collection[str]) -> dict[str, str]:
    """Return previews of what durable calls were given, by step; nodes have none."""
    if not steps:
        return {}
    kinds = [Kind.STEP_INTENDED]
    records = journal.select(thread=thread, run=run, kinds=kinds)
    seqs = {record.seq: record.step or "" for record in records if record.step in steps}
    try:
        payloads = journal.payloads(list(seqs))
    except KeyMissingError:  # the view says so
        return {}
    found = {}
    for seq, payload in payloads.items():
        said = unpack(payload) if payload not in _EMPTY else None
        if isinstance(said, list):  # a cell's says which kernel ran it
            found[seqs[seq]] = str(said[0])
    return found


def results(
    journal: Journal, view: RunView, *, newest: int = RESULTS, codec: Codec | None = None
) -> dict[str, str]:
    """Return previews of the newest results of a run that are small, by step.

    Args:
        journal: Where it is recorded.
        view: The run.
        newest: Of how many.
        codec: Reads them; None: one that rebuilds what needs no module to be imported.
    """
    backwards = (step.id for step in reversed(view.steps) if step.outcome is Outcome.RETURNED)
    returned = list(islice(backwards, newest))
    if not returned:
        return {}
    records = _returned(journal, view.thread, view.number, returned)
    small = [record for record in records if record.size <= _SMALL]
    try:
        known = journal.payloads([record.seq for record in small])
    except Exception:  # noqa: BLE001 - each says for itself why it cannot be shown
        known = {}
    return {
        record.step or "": _preview(journal, record, previews.LIMIT, codec, known.get(record.seq))
        for record in small
    }


def detail(journal: Journal, thread: str, run: int, step: str) -> dict[str, Any]:
    """Return what one step was given and returned, as long as anybody reads it: for an open row."""
    given = arguments(journal, thread, run, {step}).get(step)
    records = _returned(journal, thread, run, [step])
    result = _preview(journal, records[-1], LONG) if records else None
    return {"step": step, "args": given, "result": result}


def _returned(journal: Journal, thread: str, run: int, steps: Collection[str]) -> list[Record]:
    """Return the ends of steps that returned; where the queue has them all, DuckDB stays closed."""
    first, _ = journal.queue.bounds()
    for since in (first - 1, 0):
        records = journal.select(
            thread=thread, run=run, kinds=[Kind.STEP_RETURNED], steps=list(steps), since=since
        )
        if since <= 0 or len({record.step for record in records}) == len(steps):
            break
    return records


def _preview(
    journal: Journal,
    record: Record,
    limit: int,
    codec: Codec | None = None,
    payload: bytes | None = None,
) -> str:
    if record.size > _LARGE:
        return f"it is too large to be shown: {record.size / 1e6:,.0f} MB"
    try:
        tree = unpack(journal.payload(record.seq) if payload is None else payload)
        codec = codec or _KnownClasses(strict_serializer())
        value = Decoder(codec, journal.parts).decode(tree, record.refs)
    except NotebookAgentsError as error:
        return f"it cannot be shown here: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a foreign class raises on being rebuilt
        return f"it cannot be shown here: {describe(error)}"
    return previews.of_value(value, limit=limit)


class _KnownClasses(ResultCodec):
    """Rebuilds only what needs no module to be imported: looking at a result runs no new code."""

    def loads(self, tag: str, data: bytes) -> Any:
        return pickling.loads(data, imports=False) if tag == "p" else super().loads(tag, data)
