"""Large journals, fast: records as runs leave them, appended by the thousand."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from notebook_agents import ids, settings
from notebook_agents.graph.codec import ResultCodec
from notebook_agents.graph.driver_saver import DriverSaver
from notebook_agents.journal import Claim, Draft, Journal
from notebook_agents.journal.sql import query
from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, RunStatus
from notebook_agents.settings import INGEST_RECORDS

from .texts import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from langchain_core.messages import AnyMessage

_BATCH = 5_000


class Bulk:
    """Appends records to a journal by the thousand; `with` it, so that the last ones are too."""

    def __init__(self, journal: Journal, *, ingest: bool = True) -> None:
        self.journal = journal
        self._ingest = ingest
        self._drafts: list[Draft] = []
        self._since = 0

    def add(self, drafts: Sequence[Draft]) -> None:
        """Take records; they are appended when there are enough of them."""
        self._drafts.extend(drafts)
        if len(self._drafts) >= _BATCH:
            self.flush()
        if self._ingest and self._since >= INGEST_RECORDS:
            self._since = 0
            self.journal.ingest()

    def flush(self) -> None:
        """Append what was taken."""
        self._since += len(self._drafts)
        self.journal.append(self._drafts, durable=True)
        self._drafts = []


@contextmanager
def bulk(home: Path, *, ingest: bool = True) -> Iterator[Bulk]:
    """Give a `Bulk` for the journal in a directory; no burst begins by itself meanwhile.

    Args:
        home: The journal's directory.
        ingest: Whether DuckDB takes the records over.
    """
    never = {"INGEST_RECORDS": 10**9, "INGEST_BYTES": 10**12}
    with patch.multiple(settings, **never), Journal.open(home) as journal:
        made = Bulk(journal, ingest=ingest)
        yield made
        made.flush()
        # Each driver gives its thread back when its run ends; in one statement, that is quicker.
        journal._writer.execute(query("queue.forget_drivers"), {})
        if ingest:
            journal.ingest()


class Writing:
    """A thread that is being written: one run of an agent, step after step.

    Args:
        into: Takes the records.
        thread: The thread's name.
    """

    def __init__(self, into: Bulk, thread: str) -> None:
        self._into = into
        self.thread = thread
        self._claim = Claim(agent="bulk", run=1, session=1, notebook=None)
        begun = self._draft(
            Kind.RUN_STARTED, name="bulk", attempt=1, digest=bytes(16), plain=pack({}), token=None
        )
        begun.claim = self._claim
        into.journal.append([begun], durable=False)
        token = self._claim.token
        self._saver = DriverSaver(into.journal, scope=thread, run=1, token=token)
        self._codec = ResultCodec(self._saver.serde)
        self._checkpoint = empty_checkpoint()
        self._config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        self._superstep = -1
        self._number = 0

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Add a checkpoint; what is new in `values` against the one before has a new version."""
        before = self._checkpoint
        versions = {
            channel: self._superstep + 2
            if value is not before["channel_values"].get(channel)
            else before["channel_versions"][channel]
            for channel, value in values.items()
        }
        self._checkpoint = {
            **empty_checkpoint(),
            "channel_values": values,
            "channel_versions": versions,
        }
        metadata: Any = {"source": "loop", "step": self._superstep, "parents": {}}
        self._into.add(self._saver._checkpoint_drafts(self._config, self._checkpoint, metadata))
        self._config = {
            "configurable": {
                **self._config["configurable"],
                "checkpoint_id": self._checkpoint["id"],
            }
        }
        self._superstep += 1

    def step(self, returned: dict[str, Any], *, tokens: bool = False) -> None:
        """Add a step that returned, and what LangGraph writes for it."""
        self._number += 1
        step = ids.node_step_id(self.thread, f"task{self._number}", "work")
        columns: dict[str, Any] = {"step": step, "name": "work", "ns": "", "attempt": 1}
        drafts = [self._draft(Kind.STEP_INTENDED, **columns)]
        if tokens:
            usage = {**columns, "name": "a-model"}
            drafts.append(self._draft(Kind.USAGE, plain=pack((10, 20, 30, None)), **usage))
        result = self._draft(Kind.STEP_RETURNED, **columns)
        encoder = self._saver._encoder(result)
        result.plain = pack(encoder.placed(encoder.encode(returned, "a result")))
        result.refs, result.size = encoder.refs, encoder.size
        self._into.add([*drafts, *encoder.new, result])
        task = f"task{self._number}"
        writes = tuple(returned.items())
        self._into.add(self._saver._writes_drafts(self._config, writes, task, ""))

    def end(self) -> None:
        """Add the run's end."""
        self._into.add(
            [
                self._draft(
                    Kind.RUN_FINISHED, name=str(RunStatus.SUCCEEDED), plain=pack((None, None))
                )
            ]
        )

    def _draft(self, kind: Kind, **columns: Any) -> Draft:
        every = {"token": self._claim.token or None, "run": 1, **columns}
        return Draft(kind=kind, thread=self.thread, scope=self.thread, **every)


def talk(into: Bulk, thread: str, messages: int, *, by: int = 8, seed: int = 0) -> list[AnyMessage]:
    """Write a thread whose state is a conversation that grows by `by` messages a step."""
    writing = Writing(into, thread)
    said: list[AnyMessage] = []
    writing.checkpoint({"n": 0})
    while len(said) < messages:
        n = len(said)
        new: list[AnyMessage] = [
            (AIMessage if i % 2 else HumanMessage)(
                say("random words", seed, n + i, 0), id=f"{thread}-{n + i}"
            )
            for i in range(by)
        ]
        writing.step({"n": n, "messages": new})
        said = [*said, *new]
        writing.checkpoint({"n": n, "messages": said})
    writing.end()
    return said


def count(into: Bulk, thread: str, steps: int) -> None:
    """Write a thread of small steps, four records each."""
    writing = Writing(into, thread)
    writing.checkpoint({"n": 0})
    for n in range(1, steps + 1):
        writing.step({"n": n})
        writing.checkpoint({"n": n})
    writing.end()


def notes(into: Bulk, thread: str, steps: int) -> None:
    """Write a thread of steps of ten records: five pieces of text are new in each."""
    writing = Writing(into, thread)
    writing.checkpoint({"n": 0})
    for n in range(1, steps + 1):
        kept = {f"note{i}": f"{n} {i} {thread} " * 40 for i in range(5)}
        writing.step({"n": n, "notes": kept}, tokens=True)
        writing.checkpoint({"n": n, "notes": kept})
    writing.end()
