"""What the agents in a notebook do, told while its kernel runs: the journal is read as it grows."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from notebook_agents.errors import JournalError
from notebook_agents.model import NOTEBOOK, Kind
from notebook_agents.runtime.events import StepEvent, What

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notebook_agents.journal import Journal, Record

_WHAT: dict[Kind, What] = {
    Kind.STEP_INTENDED: "intended",
    Kind.STEP_RETURNED: "returned",
    Kind.STEP_FAILED: "failed",
    Kind.STEP_SUSPENDED: "suspended",
}
_SECONDS = 0.2
_logger = logging.getLogger("notebook_agents.notebook")


@contextmanager
def watching(
    journal: Journal, notebook: str, tell: Callable[[StepEvent], None] | None
) -> Iterator[None]:
    """Tell of the steps that agents in a notebook record while the block runs.

    Args:
        journal: The journal.
        notebook: The notebook's path, as its kernel was told.
        tell: Called in a thread of its own; None watches nothing.
    """
    if tell is None:
        yield
        return
    over = threading.Event()
    since = journal.newest()

    def work() -> None:
        nonlocal since
        ours: dict[str, bool] = {}
        last = False
        while not last:
            last = over.is_set()  # what came until then is told
            for record in journal.follow(since, seconds=0.0 if last else _SECONDS):
                since = record.seq
                what = _WHAT.get(record.kind)
                if what is None or record.step is None:
                    continue
                if record.thread not in ours:
                    head = journal.head(record.thread)
                    ours[record.thread] = (
                        head is not None and head.notebook == notebook and head.agent != NOTEBOOK
                    )
                if ours[record.thread]:
                    tell(_event(record, what))

    def watch() -> None:
        try:
            work()
        except JournalError as error:  # the notebook runs all the same
            _logger.warning("the steps of %s are not shown any more: %s", notebook, error)

    worker = threading.Thread(target=watch, name="notebook-agents-steps", daemon=True)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def _event(record: Record, what: What) -> StepEvent:
    return StepEvent(
        thread=record.thread,
        run=record.run or 0,
        step=record.step or "",
        name=record.name or "",
        parent=record.parent,
        attempt=record.attempt or 1,
        what=what,
    )
