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

from notebook_agents.errors import ValueNotKeptError
from notebook_agents.graph import people
from notebook_agents.graph.private import replace_call
from notebook_agents.runtime.steps import placed

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver


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
            durable = placed(func, args, kwargs, ended=_ended)
        except ValueNotKeptError:  # arguments without a digest: then its place in the order counts
            place = f"call {self._count}"
            durable = placed(func, args, kwargs, key=lambda *_, **__: place, ended=_ended)

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


def _ended(driver: RunDriver, attempt: Attempt, error: Exception) -> list[Draft]:
    """Return the drafts of a `@task` that raised; it runs in its own task's context."""
    return people.ended(driver, attempt, error, var_child_runnable_config.get())
