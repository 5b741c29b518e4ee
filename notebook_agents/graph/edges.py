"""Conditional edges, journaled: what a route function chose is recorded before it counts.

A route is no step: nothing announces it, and one that a kill cut off runs again. A choice that
something rests on stands, or a graph could go left before a kill and right after it: LangGraph's
writes of the task hold it, and they are on disk with the first intent behind it. A choice that took
its time is recorded at once, as a result is, because more than a look at the state may be in it.
For a quick one that would nearly double what a step costs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable
from langgraph.errors import GraphInterrupt

from notebook_agents import faults
from notebook_agents.faults import Fault
from notebook_agents.graph.private import execution_info, with_path
from notebook_agents.runtime.steps import inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig

    from notebook_agents.graph.driver_saver import DriverSaver
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState


def durable_writers(
    writers: Sequence[Runnable[Any, Any]], *, node: str, driver: RunDriver, saver: DriverSaver
) -> list[Runnable[Any, Any]]:
    """Return a node's writers with its conditional edges journaled."""
    seen: dict[str, int] = {}
    made = []
    for writer in writers:

        def wrapped(path: Runnable[Any, Any]) -> DurablePath:
            name = path.get_name()
            ordinal = seen[name] = seen.get(name, -1) + 1
            return DurablePath(path, f"{node}\0{name}\0{ordinal}", driver=driver, saver=saver)

        made.append(with_path(writer, wrapped) or writer)
    return made


_QUICK_SECONDS = 0.005


class DurablePath(Runnable[Any, Any]):
    """A route function that does not choose twice.

    Args:
        inner: The function as a runnable.
        place: What tells it from other routes of the same task.
        driver: The run.
        saver: Where the checkpoints arrive that task ids hash.
    """

    def __init__(
        self, inner: Runnable[Any, Any], place: str, *, driver: RunDriver, saver: DriverSaver
    ) -> None:
        self.inner = inner
        self.place = place
        self.driver = driver
        self.saver = saver

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Choose, or give what was chosen."""
        step, checkpoint = self._step(config)
        if step.returned is not None:
            return self.driver.result(step)
        attempt = self.driver.choose(step)
        begun = time.monotonic()
        try:
            with inside(self.driver, attempt):
                chosen = self.inner.invoke(input, config, **kwargs)
            faults.hit(Fault.ROUTE_BEFORE)
        except GraphInterrupt:
            self.driver.asks(step)
            raise
        if time.monotonic() - begun > _QUICK_SECONDS:
            self.saver.barrier.wait(checkpoint)
            self._record(attempt, chosen)
        return chosen

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Choose without blocking the event loop, or give what was chosen."""
        step, checkpoint = self._step(config)
        if step.returned is not None:
            return self.driver.result(step)
        attempt = self.driver.choose(step)
        begun = time.monotonic()
        try:
            with inside(self.driver, attempt):
                chosen = await self.inner.ainvoke(input, config, **kwargs)
            faults.hit(Fault.ROUTE_BEFORE)
        except GraphInterrupt:
            self.driver.asks(step)
            raise
        if time.monotonic() - begun > _QUICK_SECONDS:
            await self.saver.barrier.wait_async(checkpoint)
            self._record(attempt, chosen)  # not awaited, as a node's result is not
        return chosen

    def _step(self, config: RunnableConfig | None) -> tuple[StepState, str]:
        info = execution_info(config)
        assert info is not None, "a route runs inside its graph"
        node, name, _ = self.place.split("\0")
        step = self.driver.route_step(
            info.task_id,
            self.place,
            name=f"{node} → {name}",
            ns=info.checkpoint_ns.rpartition("|")[0],
        )
        return step, info.checkpoint_id

    def _record(self, attempt: Attempt, chosen: Any) -> None:
        self.saver.settle()
        drafts = self.driver.chosen(attempt, chosen, codec=self.saver.result_codec)
        self.driver.journal.append(drafts, durable=False)
