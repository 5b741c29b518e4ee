"""LangGraph's `@task`: each call is a durable call of the node or entrypoint that makes it.

LangGraph knows a call by its place in the order of calls alone: calls that come in another order
after a kill would get each other's results. Here a call is known by its function, its arguments,
and how many equal calls came before it.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphInterrupt

from notebook_agents.errors import ValueNotKeptError
from notebook_agents.graph import people
from notebook_agents.graph.private import execution_info, replace_call
from notebook_agents.runtime.steps import placed

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.runtime.driver import Asked, StepState


class DurableCall:
    """Stands where LangGraph's runner put what schedules a `@task`.

    Args:
        inner: LangGraph's own.
    """

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner = inner.inner if isinstance(inner, DurableCall) else inner
        self._count = 0

    @property
    def inner(self) -> Callable[..., Any]:
        """LangGraph's own."""
        return self._inner

    def __call__(
        self,
        func: Callable[..., Any],
        input: tuple[tuple[Any, ...], dict[str, Any]],  # noqa: A002 - LangGraph's name
        **options: Any,
    ) -> Any:
        """Schedule a call of `func` that is journaled."""
        args, kwargs = input
        self._count += 1
        try:
            durable = placed(func, args, kwargs, asked=_asked)
        except ValueNotKeptError:  # arguments without a digest: then its place in the order counts
            place = f"call {self._count}"
            durable = placed(func, args, kwargs, key=lambda *_, **__: place, asked=_asked)

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def task(*_: Any, **__: Any) -> Any:
                replace_call(var_child_runnable_config.get(), DurableCall)
                return await durable.run_async(args, kwargs)
        else:

            @functools.wraps(func)
            def task(*_: Any, **__: Any) -> Any:
                replace_call(var_child_runnable_config.get(), DurableCall)
                return durable.run(args, kwargs)

        return self._inner(task, input, **options)


def _asked(error: Exception, step: StepState) -> Asked | None:
    """Return what a `@task` asks; it runs in its own task's context."""
    info = execution_info(var_child_runnable_config.get())
    if info is None or not isinstance(error, GraphInterrupt):
        return None
    return people.asked(error, info, step.answers)
