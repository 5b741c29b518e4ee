"""A journal as plain dictionaries, and operations that change both it and a real one.

The model knows LangGraph's rules and what ARCHITECTURE.md promises; it uses nothing of the code
under test.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key

import notebook_agents as na
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.journal.compact import compact
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN, DRIVEN = ("t", "u", "v"), ("a", "b", "c")
"""Threads that a plain graph writes, and an agent's."""
SPACES = ("", "sub:1")


class At(NamedTuple):
    """What names a checkpoint; sorts as LangGraph lists, by id first."""

    id: str
    ns: str
    thread: str


@dataclass
class Held:
    """A checkpoint.

    Attributes:
        order: Which put it was: 1 is the first.
        prior: The id of its parent.
        values: Its channels' values.
        versions: And their versions.
        metadata: Its metadata.
    """

    order: int
    prior: str | None
    values: dict[str, Any]
    versions: dict[str, int]
    metadata: dict[str, Any]


class Wrote(NamedTuple):
    """One pending write."""

    path: str
    task: str
    index: int
    channel: str
    value: Any


@dataclass
class Model:
    """What a journal should hold.

    Attributes:
        threads: The names of those that there are.
        held: The shown checkpoints.
        wrote: Their pending writes as they came, also of checkpoints that are not there yet.
        results: What the steps of agents' threads returned: by thread, run and step.
        answers: The values of their runs, by thread.
        count: How many checkpoints were ever put.
    """

    threads: set[str] = field(default_factory=set)
    held: dict[At, Held] = field(default_factory=dict)
    wrote: dict[At, list[Wrote]] = field(default_factory=dict)
    results: dict[str, dict[tuple[int, str], Any]] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0

    def copy(self) -> Model:
        """Return another one that is equal."""
        return copy.deepcopy(self)

    def of(self, thread: str, ns: str | None = None) -> list[At]:
        """Return a thread's checkpoints, of one namespace or of all, newest first."""
        return sorted(
            (at for at in self.held if at.thread == thread and ns in (None, at.ns)), reverse=True
        )

    def pending(self, at: At) -> list[tuple[str, str, Any]]:
        """Return a checkpoint's pending writes: a task's first counts, of special ones the last."""
        found: dict[tuple[str, int], Wrote] = {}
        for one in self.wrote.get(at, ()):
            if one.index < 0 or (one.task, one.index) not in found:
                found[one.task, one.index] = one
        rows = sorted(
            found.values(), key=lambda one: writes_sort_key(one.path, one.task, one.index)
        )
        return [(one.task, one.channel, one.value) for one in rows]

    def row(self, at: At) -> tuple[Any, ...]:
        """Return what a saver should tell of a checkpoint."""
        held = self.held[at]
        return (at, held.prior, held.values, held.versions, held.metadata, self.pending(at))

    def drop(self, gone: Callable[[At], bool]) -> None:
        """Forget checkpoints and their writes."""
        for table in (self.held, self.wrote):
            for at in [at for at in table if gone(at)]:
                del table[at]  # type: ignore[attr-defined]

    def seen(self) -> Seen:
        """Return what everybody who looks should see."""
        rows = {at: self.row(at) for at in sorted(self.held, reverse=True)}
        newest = {
            (thread, ns): rows[found[0]] if (found := self.of(thread, ns)) else None
            for thread in (*PLAIN, *DRIVEN)
            for ns in SPACES
        }
        two = {thread: [rows[at] for at in self.of(thread)[:2]] for thread in (*PLAIN, *DRIVEN)}
        return Seen(
            threads=self.threads,
            listed=list(rows.values()),
            newest=newest,
            two=two,
            named=rows,
            results=self.results,
            answers=self.answers,
        )


@dataclass
class Glance:
    """What somebody sees who looks at what is newest.

    Attributes:
        threads: The names of all threads.
        newest: The newest checkpoint by thread and namespace.
    """

    threads: set[str]
    newest: dict[tuple[str, str], Any]


@dataclass
class Seen(Glance):
    """What somebody sees who looks at everything.

    Attributes:
        listed: All checkpoints with their pending writes, in LangGraph's order.
        two: The two newest of each thread.
        named: Each checkpoint, asked for by its id.
        results: What steps returned, by thread, run and step.
        answers: What each run of a thread gave.
    """

    listed: list[Any]
    two: dict[str, list[Any]]
    named: dict[At, Any]
    results: dict[str, dict[tuple[int, str], Any]]
    answers: dict[str, list[Any]]


def config(thread: str, ns: str | None, checkpoint: str | None = None) -> Any:
    """Return LangGraph's config that names a thread, a namespace, a checkpoint."""
    found = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint}
    return {"configurable": {name: said for name, said in found.items() if said is not None}}


class Desk:
    """A process's open journal and its saver, which remembers."""

    def __init__(self, home: Any) -> None:
        self.journal = na.Journal.open(home)
        self.saver = na.JournalSaver(self.journal)

    def do(self, what: Operation) -> None:
        """Do something."""
        what.do(self)

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def glance(self) -> Glance:
        """Look at what is newest, out of this process's memory where it has it."""
        with self.journal.reading():
            return Glance(
                threads={info.thread for info in self.journal.threads()},
                newest={
                    (thread, ns): _row(self.saver.get_tuple(config(thread, ns)))
                    for thread in (*PLAIN, *DRIVEN)
                    for ns in SPACES
                },
            )

    def look(self) -> Seen:
        """Look at everything."""
        saver = self.saver
        with self.journal.reading():
            there = self.glance()
            listed = [_row(found) for found in saver.list(None)]
            two = {
                thread: [_row(found) for found in saver.list(config(thread, None), limit=2)]
                for thread in (*PLAIN, *DRIVEN)
            }
            named = {
                row[0]: _row(saver.get_tuple(config(row[0].thread, row[0].ns, row[0].id)))
                for row in listed
            }
            driven = [thread for thread in DRIVEN if thread in there.threads]
            return Seen(
                threads=there.threads,
                newest=there.newest,
                listed=listed,
                two=two,
                named=named,
                results={thread: self.results(thread) for thread in driven},
                answers={thread: self.answers(thread) for thread in driven},
            )

    def results(self, thread: str) -> dict[tuple[int, str], Any]:
        """Return what a thread's steps returned."""
        decoder = Decoder(ResultCodec(strict_serializer()), self.journal.parts)
        return {
            (record.run or 0, record.step or ""): decoder.decode(
                unpack(self.journal.payload(record.seq)), record.refs
            )
            for record in self.journal.select(thread=thread, kinds=[Kind.STEP_RETURNED])
        }

    def answers(self, thread: str) -> list[Any]:
        """Return what a thread's finished runs gave."""
        ends = self.journal.select(thread=thread, kinds=[Kind.RUN_FINISHED])
        runs = sorted({record.run or 0 for record in ends if record.name == "succeeded"})
        return [na.Run(self.journal, thread, run).value for run in runs]


def _row(found: Any) -> Any:
    if found is None:
        return None
    said = found.config["configurable"]
    at = At(said["checkpoint_id"], said["checkpoint_ns"], said["thread_id"])
    prior = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
    held = found.checkpoint
    values, versions = held["channel_values"], held["channel_versions"]
    return (at, prior, values, versions, found.metadata, found.pending_writes)


# -- operations ------------------------------------------------------------------------------------


class Operation(Protocol):
    """Something that is done to a journal, and what it means.

    All of it or nothing is there after a crash.
    """

    def do(self, desk: Desk) -> None:
        """Do it."""

    def tell(self, model: Model) -> None:
        """Say what should be so afterwards."""


@dataclass
class Put:
    """Store a checkpoint."""

    at: At
    prior: str | None
    values: dict[str, Any]
    versions: dict[str, int]
    metadata: dict[str, Any]

    def do(self, desk: Desk) -> None:
        checkpoint: Any = {
            "v": 4,
            "ts": "",
            "id": self.at.id,
            "versions_seen": {},
            "channel_values": self.values,
            "channel_versions": self.versions,
        }
        metadata: Any = self.metadata
        given = config(self.at.thread, self.at.ns, self.prior)
        desk.saver.put(given, checkpoint, metadata, {})

    def tell(self, model: Model) -> None:
        model.count += 1
        held = (model.count, self.prior, self.values, self.versions, self.metadata)
        model.held[self.at] = Held(*copy.deepcopy(held))
        model.threads.add(self.at.thread)


@dataclass
class PutWrites:
    """Store what a task writes."""

    at: At
    task: str
    path: str
    writes: list[tuple[str, Any]]

    def do(self, desk: Desk) -> None:
        given = config(self.at.thread, self.at.ns, self.at.id)
        desk.saver.put_writes(given, self.writes, self.task, self.path)

    def tell(self, model: Model) -> None:
        rows = model.wrote.setdefault(self.at, [])
        for place, (channel, value) in enumerate(self.writes):
            index = WRITES_IDX_MAP.get(channel, place)
            rows.append(Wrote(self.path, self.task, index, channel, copy.deepcopy(value)))
        model.threads.add(self.at.thread)


@dataclass
class Copy:
    """Copy a thread's conversation."""

    source: str
    target: str

    def do(self, desk: Desk) -> None:
        desk.saver.copy_thread(self.source, self.target)

    def tell(self, model: Model) -> None:
        for table in (model.held, model.wrote):
            for at in [at for at in table if at.thread == self.source]:
                table[at._replace(thread=self.target)] = copy.deepcopy(table[at])  # type: ignore
                model.threads.add(self.target)


@dataclass
class Delete:
    """Delete a thread."""

    thread: str

    def do(self, desk: Desk) -> None:
        desk.saver.delete_thread(self.thread)

    def tell(self, model: Model) -> None:
        model.threads.discard(self.thread)
        model.drop(lambda at: at.thread == self.thread)
        model.results.pop(self.thread, None)
        model.answers.pop(self.thread, None)


@dataclass
class Latest:
    """Keep of threads only the newest checkpoint of each namespace, as LangGraph asks for it."""

    threads: list[str]

    def do(self, desk: Desk) -> None:
        desk.saver.prune(self.threads)

    def tell(self, model: Model) -> None:
        for thread in self.threads:
            for ns in SPACES:
                for newest in model.of(thread, ns)[:1]:
                    model.drop(lambda at, newest=newest: at[1:] == newest[1:] and at.id < newest.id)


@dataclass
class Keep:
    """Keep the newest so many checkpoints of a thread and its subgraphs."""

    thread: str
    last: int

    def do(self, desk: Desk) -> None:
        na.prune(self.thread, keep_last=self.last, journal=desk.journal)

    def tell(self, model: Model) -> None:
        stay = {ns: model.of(self.thread, ns)[: self.last] for ns in SPACES}
        roots = stay[""]
        for ns in SPACES:
            every = model.of(self.thread, ns)
            if not every:
                continue
            if ns and roots and self._ended(model, every, roots):
                model.drop(lambda at, ns=ns: (at.thread, at.ns) == (self.thread, ns))
                continue
            kept = set(stay[ns])
            model.drop(
                lambda at, every=every, kept=kept: (
                    at[1:] == every[0][1:] and at.id < every[0].id and at not in kept
                )
            )

    @staticmethod
    def _ended(model: Model, every: list[At], roots: list[At]) -> bool:
        """Whether a subgraph was done before the oldest checkpoint that stays."""
        put = min(model.held[at].order for at in roots)
        return all(at.id < roots[-1].id and model.held[at].order < put for at in every)


@dataclass
class WithoutRuns:
    """Delete the checkpoints of LangGraph's runs."""

    runs: list[str]

    def do(self, desk: Desk) -> None:
        desk.saver.delete_for_runs(self.runs)

    def tell(self, model: Model) -> None:
        gone = {at for at, held in model.held.items() if held.metadata.get("run_id") in self.runs}
        model.drop(gone.__contains__)


@dataclass
class Ingest:
    """Have DuckDB take what is in the queue."""

    def do(self, desk: Desk) -> None:
        desk.journal.ingest()

    def tell(self, model: Model) -> None:
        """Nothing changes."""


@dataclass
class Compact:
    """Rewrite the files without what is gone."""

    def do(self, desk: Desk) -> None:
        compact(desk.journal)

    def tell(self, model: Model) -> None:
        """Nothing changes."""
