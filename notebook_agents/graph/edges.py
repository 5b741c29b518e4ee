"""Conditional edges, journaled: what a route function chose is recorded before it counts.

A route is no step: nothing announces it, and one that a kill cut off runs again. A choice that
something rests on stands, or a graph could go left before a kill and right after it: LangGraph's
writes of the task hold it, and they are on disk with the first intent behind it. A choice that took
its time is recorded at once, as a result is, because more than a look at the state may be in it.
For a quick one that would nearly double what a step costs.

A route in which more happens is a step after all: from its first durable call, its first question,
or the first reply of a model that is not journaled by itself. Its intent goes out with that.

A route runs in its node's task, in which LangGraph counts questions and subgraphs. So it keeps off
the places that the node took, and the routes before it, where they are not run again.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable
from langgraph.errors import GraphInterrupt

from notebook_agents import faults
from notebook_agents.faults import Fault
from notebook_agents.graph import people
from notebook_agents.graph.models import journal_model_calls
from notebook_agents.graph.private import execution_info, keeping_off, with_path
from notebook_agents.graph.unhandled import past_handlers
from notebook_agents.model import Kind
from notebook_agents.runtime.steps import decided, inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import ExecutionInfo

    from notebook_agents.graph.driver_saver import DriverSaver
    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState


def durable_writers(
    writers: Sequence[Runnable[Any, Any]], *, node: str, driver: RunDriver, saver: DriverSaver
) -> list[Runnable[Any, Any]]:
    """Return a node's writers with its conditional edges journaled."""
    seen: dict[str, int] = {}
    paths: list[DurablePath] = []

    def wrapped(path: Runnable[Any, Any]) -> DurablePath:
        name = path.get_name()  # part of what is recorded: the same for all lambdas
        ordinal = seen[name] = seen.get(name, -1) + 1
        place = f"{node}\0{name}\0{ordinal}"
        made = DurablePath(path, place, driver=driver, saver=saver, before=tuple(paths))
        paths.append(made)
        return made

    return [with_path(writer, wrapped) or writer for writer in writers]


_QUICK_SECONDS = 0.005


class DurablePath(Runnable[Any, Any]):
    """A route function that does not choose twice.

    Args:
        inner: The function as a runnable.
        place: What tells it from other routes of the same task.
        driver: The run.
        saver: Where the checkpoints arrive that task ids hash.
        before: The routes that run before it in the same task.
    """

    def __init__(
        self,
        inner: Runnable[Any, Any],
        place: str,
        *,
        driver: RunDriver,
        saver: DriverSaver,
        before: tuple[DurablePath, ...],
    ) -> None:
        self.inner = inner
        self.place = place
        self.driver = driver
        self.saver = saver
        self.before = before

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Choose, or give what was chosen.

        Raises:
            Unhandled: What no retry policy and no error handler may take for the node's failure.
        """
        with past_handlers():
            step, info = self._step(config)
            if step.returned is not None:
                return self.driver.result(step)
            self.saver.barrier.wait(info.checkpoint_id)
            attempt, within, used = self._begin(step, info, config)
            begun = time.monotonic()
            try:
                with inside(self.driver, attempt):
                    chosen = self.inner.invoke(input, within, **kwargs)
                faults.hit(Fault.ROUTE_BEFORE)
                drafts = self._chosen(attempt, chosen, used, begun)
            except Exception as error:
                self._record(self._ended(attempt, error, within))
                raise
            self._record(drafts)
            return chosen

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Choose without blocking the event loop, or give what was chosen."""
        with past_handlers():
            step, info = self._step(config)
            if step.returned is not None:
                return self.driver.result(step)
            await self.saver.barrier.wait_async(info.checkpoint_id)
            attempt, within, used = self._begin(step, info, config)
            begun = time.monotonic()
            try:
                with inside(self.driver, attempt):
                    chosen = await self.inner.ainvoke(input, within, **kwargs)
                faults.hit(Fault.ROUTE_BEFORE)
                drafts = self._chosen(attempt, chosen, used, begun)
            except Exception as error:
                self._record(self._ended(attempt, error, within))
                raise
            self._record(drafts)  # not awaited, as a node's result is not
            return chosen

    def step_of(self, info: ExecutionInfo) -> StepState:
        """Return what stands for this route in a task."""
        node = self.place.partition("\0")[0]
        return self.driver.route_step(
            info.task_id,
            self.place,
            name=f"{node} → {_shown(self.inner)}",
            ns=info.checkpoint_ns.rpartition("|")[0],
        )

    def _step(self, config: RunnableConfig | None) -> tuple[StepState, ExecutionInfo]:
        info = execution_info(config)
        assert info is not None, "a route runs inside its graph"
        step = self.step_of(info)
        answer = None if step.returned is not None else decided(self.driver, step)
        if answer is not None and answer.happened:
            drafts = self.driver.reconciled(step, answer.result, codec=self.saver.result_codec)
            self.driver.journal.append(drafts, durable=True)
        return step, info

    def _begin(
        self, step: StepState, info: ExecutionInfo, config: RunnableConfig | None
    ) -> tuple[Attempt, RunnableConfig | None, list[str]]:
        """Return the attempt, the config that it runs with, and where its places are noted."""
        self.saver.settle()
        journal_model_calls()
        node = self.driver.known_node(info.task_id, self.place.partition("\0")[0])
        steps = [] if node is None else [node]
        steps += [path.step_of(info) for path in self.before]
        taken = self.driver.took(*steps) | self.driver.taken(step.id)
        taken = taken.union(*(self.driver.taken(one.id) for one in steps))
        used: list[str] = []
        within = keeping_off(config or {}, used, taken)
        return self.driver.choose(step, info.task_id), within or config, used

    def _chosen(self, attempt: Attempt, chosen: Any, used: list[str], begun: float) -> list[Draft]:
        """Return the drafts of a choice; none where it is left to what rests on it."""
        if time.monotonic() - begun < _QUICK_SECONDS and self.driver.hush(attempt):
            return []
        if used:  # the routes behind it keep off them
            self.driver.announce(attempt.step.id)
        drafts = self.driver.returned(attempt, chosen, codec=self.saver.result_codec)
        if drafts[-1].kind is Kind.STEP_RETURNED:
            drafts[-1].ref = ",".join(sorted({*used, *self.driver.taken(attempt.step.id)})) or None
        return drafts

    def _ended(
        self, attempt: Attempt, error: Exception, config: RunnableConfig | None
    ) -> list[Draft]:
        """Return the drafts of a route that raised; none where nothing happened in it."""
        if isinstance(error, GraphInterrupt):
            self.driver.announce(attempt.step.id)
        elif self.driver.hush(attempt):
            return []
        return people.ended(self.driver, attempt, error, config)

    def _record(self, drafts: list[Draft]) -> None:
        if drafts:
            self.driver.journal.append(drafts, durable=False)


def _shown(path: Runnable[Any, Any]) -> str:
    """Return the name that people know a route function by: `<lambda>` where it has none."""
    if getattr(path, "name", None):
        return path.get_name()
    function = getattr(path, "func", None) or getattr(path, "afunc", None) or path
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
