"""A thread's handle: what its state was, is and shall be."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from notebook_agents import clock
from notebook_agents.errors import NotDurableError, UsageError
from notebook_agents.graph import fork as forks
from notebook_agents.graph.driver_saver import DriverSaver
from notebook_agents.graph.objects import Objects
from notebook_agents.graph.private import is_asked_outside, schema_types
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.graph.stream import leave
from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.copying import copy_records, hidden
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime.origin import here
from notebook_agents.runtime.view import run_view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from langchain_core.runnables import RunnableConfig
    from langgraph.types import StateSnapshot

    from notebook_agents.graph.agent import Agent
    from notebook_agents.graph.run import Run
    from notebook_agents.journal import Record
    from notebook_agents.journal.queue import Head
    from notebook_agents.model import Step

UPDATE = "update"
"""The name of the decision that a thread's state shall be another."""

_KINDS = (Kind.CHECKPOINT, Kind.STEP_INTENDED, Kind.DELETION)
"""What a history is made of."""


class Thread:
    """A thread of an agent. `Agent.thread` makes it.

    Attributes:
        name: The thread's name.
    """

    def __init__(self, agent: Agent, name: str) -> None:
        self.name = name
        self._agent = agent
        self._journal = agent.journal

    def history(self) -> list[Moment]:
        """Return the thread's checkpoints, subgraphs' too, the newest first."""
        with self._journal.reading():
            records = self._shown()
            runs = {record.run for record in records if record.kind is Kind.STEP_INTENDED}
            steps = {
                step.id: step
                for run in sorted(run for run in runs if run is not None)
                for step in run_view(self._journal, self.name, run).steps
            }
        moments: dict[str, Moment] = {}
        newest: dict[str, Moment] = {}
        seen = set[str]()
        for record in records:
            ns = record.ns or ""
            if record.kind is Kind.CHECKPOINT:
                moment = Moment(self, record)
                newest[ns] = moments[record.ref or ""] = moment
            elif record.step not in seen and record.step in steps:
                seen.add(record.step or "")
                where = newest.get(ns) or newest.get(_bare(ns))
                if where is not None:
                    where.steps = (*where.steps, steps[record.step or ""])
        return list(reversed(moments.values()))

    def state(self) -> StateSnapshot:
        """Return the thread's state as LangGraph's `get_state(subgraphs=True)` does."""
        found: StateSnapshot = self._graph.get_state(self._config(), subgraphs=True)
        return found

    def update_state(self, values: Any, as_node: str | None = None, at: str | None = None) -> None:
        """Change the thread's state, as LangGraph's `update_state` does: a checkpoint is added.

        Tasks behind that checkpoint are new ones: none of them gets a result, or an idempotency
        key, of a task that saw the old state. A run that is not finished goes on from there with
        `resume`, and so does a finished one, if a node follows on `as_node`.

        Args:
            values: What a node could return.
            as_node: Which node is taken to have returned it; None: the one that ran last.
            at: The checkpoint to go on from, or a step that rests on it, also in a subgraph that
                has not ended; None: the newest of the outermost graph.

        Raises:
            ThreadBusyError: Somebody drives the thread.
            UnknownThreadError: There is no such checkpoint or step in it.
            UsageError: A conditional edge behind `as_node` asks a person or makes a durable call.
            Exception: What LangGraph says of an update that it cannot make; nothing is changed.
        """
        leave(self._journal, self.name)
        head = self._head()
        claim = Claim(
            agent=self._agent.name, run=head.run, session=head.session, notebook=here().notebook
        )
        decided = Draft(
            kind=Kind.DECISION, thread=self.name, scope=head.scope, run=head.run, name=UPDATE
        )
        config = self._config(at)
        decided.claim = claim
        self._journal.append([decided], durable=False)
        try:
            before = self._last_end(head)
            saver = DriverSaver(
                self._journal,
                scope=head.scope,
                run=head.run,
                token=claim.token,
                allow=self._types,
            )
            graph: Any = self._agent.graph.copy({"checkpointer": saver})
            try:
                with _routes_named(self.name):
                    graph.update_state(config, values, as_node)
                saver.settle()
                more = bool(graph.get_state(self._config()).next)
            except Exception:
                self._put_back(before, claim)
                raise
            ended = RunStatus(head.status).finished
            if ended and not more:
                self._put_back(before, claim)
            else:
                end = forks.pending(self.name, head.scope, head.run, head.session, claim.token)
                self._journal.append([end], durable=True)
        finally:
            self._journal.release(self.name, claim.token)

    def fork(self, at: str | None = None, name: str | None = None) -> Thread:
        """Make a thread that has this one's past up to a point, and goes on from there.

        The new thread's run is to be resumed: `resume()`, `na.resume(name)`, or `Agent.run` with
        the input that the run had. What had returned before the point does not run again and its
        effects are not repeated. This thread is only read, and stays as it is.

        Args:
            at: A step's id: it, and what followed from it, runs (again) in the fork, under new
                idempotency keys. Its siblings of the same superstep keep what they returned. For a
                durable call inside a node, the node runs again and gets the results of the calls
                that it made before this one. A checkpoint's id: everything behind it runs. None:
                nothing is undone: a waiting run waits for an answer of its own, a finished one can
                be given the next input, and a step that had begun and not returned is the same
                step in both threads, under the same idempotency key.
            name: The new thread's name; None makes one.

        Raises:
            UnknownThreadError: There is no such step or checkpoint in this thread.
            UsageError: There is a thread `name` already.
        """
        made = forks.fork(self._journal, self.name, at=at, name=name)
        return Thread(self._agent, made)

    @property
    def objects(self) -> Objects:
        """The Python objects that belong to the thread, by name."""
        return Objects(self._journal, self.name)

    def resume(self) -> Run:
        """Go on with the thread's newest run; see `Agent.resume`."""
        return self._agent.resume(self.name)

    def __repr__(self) -> str:
        return f"<Thread {self.name!r} of {self._agent.name!r}>"

    # -- helpers ----------------------------------------------------------------------------------

    @cached_property
    def _types(self) -> set[Any]:
        return {*schema_types(self._agent.graph), *self._agent.allow}

    @property
    def _graph(self) -> Any:
        saver = JournalSaver(self._journal, allow=self._types)
        return self._agent.graph.copy({"checkpointer": saver})

    def snapshot(self, ns: str, checkpoint_id: str) -> StateSnapshot:
        """Return the state that a checkpoint holds, as LangGraph does."""
        found: StateSnapshot = self._graph.get_state(_config(self.name, ns, checkpoint_id))
        return found

    def _head(self) -> Head:
        self._journal.thread(self.name)
        head = self._journal.head(self.name)
        assert head is not None
        return head

    def _shown(self) -> list[Record]:
        """Return the checkpoints that were not pruned, and the steps' intents."""
        records = self._journal.select(thread=self.name, kinds=_KINDS)
        gone = hidden(records)
        return [r for r in records if r.kind is not Kind.DELETION and r.seq not in gone]

    def _config(self, at: str | None = None) -> RunnableConfig:
        if at is None:
            return {"configurable": {"thread_id": self.name}}
        records = self._journal.select(thread=self.name, kinds=_KINDS)
        checkpoint = forks.Point(self.name, records, at, hidden(records)).checkpoint
        return _config(self.name, checkpoint.ns or "", checkpoint.ref or "")

    def _last_end(self, head: Head) -> Record | None:
        """Return the record of how the newest run was put down, if that is its last word."""
        if head.status == RunStatus.RUNNING:
            return None
        ends = self._journal.select(thread=self.name, kinds=[Kind.RUN_FINISHED])
        return next((record for record in reversed(ends) if record.run == head.run), None)

    def _put_back(self, end: Record | None, claim: Claim) -> None:
        """Have the run stand as it did."""
        if end is not None:
            again = copy_records(self._journal, [end], self.name, token=claim.token)
            self._journal.append(again, durable=True)


class Moment:
    """A checkpoint of a thread: its state between two supersteps.

    Attributes:
        checkpoint: The checkpoint's id.
        parent: The id of the one before it, or None.
        run: The number of the run that made it.
        superstep: LangGraph's counter; -1 is a run's input.
        namespace: LangGraph's checkpoint namespace ("" outside subgraphs).
        when: When it was stored.
        steps: The nodes and durable calls that ran behind it, in the order in which they began.
    """

    def __init__(self, thread: Thread, record: Record) -> None:
        self._thread = thread
        self.checkpoint = record.ref or ""
        self.parent = record.prior
        self.run = record.run
        self.superstep = record.attempt
        self.namespace = record.ns or ""
        self.when: datetime = clock.from_us(record.ts)
        self.steps: tuple[Step, ...] = ()

    @cached_property
    def _state(self) -> StateSnapshot:
        return self._thread.snapshot(self.namespace, self.checkpoint)

    @property
    def values(self) -> Any:
        """The state's values; read when this is first asked for."""
        return self._state.values

    @property
    def next(self) -> tuple[str, ...]:
        """The names of the nodes that come next; read when this is first asked for."""
        return self._state.next

    def __repr__(self) -> str:
        ran = ", ".join(step.name for step in self.steps)
        return f"<Moment {self.checkpoint} superstep {self.superstep}: {ran}>"


def _config(thread: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint_id,
        }
    }


@contextmanager
def _routes_named(thread: str) -> Iterator[None]:
    """Say so if a conditional edge needs a run: LangGraph's `update_state` calls it without one."""
    try:
        yield
    except (NotDurableError, KeyError) as error:
        if isinstance(error, KeyError) and not is_asked_outside(error):
            raise
        raise UsageError(
            f"the state of thread {thread!r} was not changed, because a conditional edge behind "
            "the node that it was to be changed for asks a person or makes a durable call, which "
            "only a run can: name another node by `as_node`"
        ) from error


def _bare(ns: str) -> str:
    """Return the namespace of a subgraph that has one history for all its calls."""
    return "|".join(part.partition(":")[0] for part in ns.split("|"))
