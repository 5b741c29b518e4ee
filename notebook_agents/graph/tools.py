"""Each tool call of a `ToolNode` is a step of its own, without the node's code changing.

A call is known by its id, which the model gave it. What is recorded is what the `ToolNode` makes of
it, error handling and the user's own wrapper included. A task that is one tool call, as those of
`create_agent` are, is a step already: its call is not journaled a second time.

Only a node that is a `ToolNode` is seen; one that a function calls is part of that function's step.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langchain_core.runnables.config import run_in_executor
from langgraph.errors import GraphInterrupt

from notebook_agents.graph.handover import leave_tools
from notebook_agents.graph.private import is_tool_node, tools_module, with_tool_calls
from notebook_agents.graph.wrap import with_message_ids
from notebook_agents.runtime import previews
from notebook_agents.runtime.digests import digest
from notebook_agents.runtime.steps import current, inside, warn_of_other_calls

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from notebook_agents.graph.private import Execute
    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState


def durable_tools(bound: Runnable[Any, Any], messages: frozenset[str]) -> Runnable[Any, Any]:
    """Return a copy of a `ToolNode` that journals each call; anything else as it is.

    Args:
        bound: A node's runnable.
        messages: The graph's channels that LangGraph's `add_messages` reduces.
    """
    if not is_tool_node(bound):
        return bound
    leave_tools(tools_module())
    calls = _ToolCalls(messages)
    made: Runnable[Any, Any] = with_tool_calls(bound, calls.run, calls.arun)
    return made


class _ToolCalls:
    """The tool calls of one node."""

    def __init__(self, messages: frozenset[str]) -> None:
        self._messages = messages

    def run(self, call: dict[str, Any], key: str, execute: Execute) -> Any:
        """Execute a call, or give its recorded result."""
        used: list[str] = []
        if (place := _place(call)) is None:
            return execute(used, set())
        driver, step, taken = place
        if step.returned is not None:
            return driver.result(step)
        attempt, intent = driver.intend(step, previews.of_value(call["args"]))
        driver.journal.append([intent], durable=True)
        driver.intended(attempt)
        return self._work(driver, attempt, execute, used, taken, key)

    def _work(
        self,
        driver: RunDriver,
        attempt: Attempt,
        execute: Execute,
        used: list[str],
        taken: set[str],
        key: str,
    ) -> Any:
        try:
            with inside(driver, attempt):
                value = self._with_ids(execute(used, taken), key)
            drafts = driver.returned(attempt, value)
            drafts[-1].ref = ",".join(used) or None
        except Exception as error:
            driver.journal.append(_ended(driver, attempt, error), durable=False)
            raise
        driver.journal.append(drafts, durable=False)
        driver.recorded(attempt)
        warn_of_other_calls(driver, attempt)
        return value

    async def arun(
        self, call: dict[str, Any], key: str, execute: Execute, threaded: Execute | None
    ) -> Any:
        """Do as `run` without blocking the event loop.

        A call that raises or asks ends its `ToolNode`, which would leave its neighbours behind in
        the middle of what they do: they are let come to their end first. Whichever then is the
        first to go on, the `ToolNode` gets what was raised first: of several questions that is the
        one whose answer LangGraph will take for the next.
        """
        within = current()
        if within is None:
            return await execute([], set())
        under_way = within[1].under_way
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        under_way.add(ended)
        try:
            return await self._arun(call, key, execute, threaded)
        except Exception as error:
            raised = within[1].raised
            raised.append(error)
            under_way.discard(ended)
            ended.set_result(None)  # another that raises waits for this one
            if under_way:
                await asyncio.wait(set(under_way))
            if raised[0] is not error:
                raise raised[0] from None
            raise
        finally:
            under_way.discard(ended)
            if not ended.done():
                ended.set_result(None)

    async def _arun(
        self, call: dict[str, Any], key: str, execute: Execute, threaded: Execute | None
    ) -> Any:
        used: list[str] = []
        if (place := _place(call)) is None:
            return await execute(used, set())
        driver, step, taken = place
        if step.returned is not None:
            return driver.result(step)
        attempt, intent = driver.intend(step, previews.of_value(call["args"]))
        await driver.journal.append_async([intent], durable=True)
        driver.intended(attempt)
        if threaded is not None:  # recorded where it runs: this coroutine can be cancelled
            run, rest = driver.workers.run, (threaded, used, taken, key)
            return await run_in_executor(None, run, self._work, driver, attempt, *rest)
        try:
            with inside(driver, attempt):
                value = self._with_ids(await execute(used, taken), key)
            drafts = driver.returned(attempt, value)
            drafts[-1].ref = ",".join(used) or None
        except Exception as error:
            await driver.journal.append_async(_ended(driver, attempt, error), durable=False)
            raise
        # Not awaited: it costs no fsync, and a cancellation here would lose a result that exists.
        driver.journal.append(drafts, durable=False)
        driver.recorded(attempt)
        warn_of_other_calls(driver, attempt)
        return value

    def _with_ids(self, value: Any, key: str) -> Any:
        """Give new messages the ids that the state would give them: they are stored once."""
        for item in value if isinstance(value, list) else [value]:
            with_message_ids(item, self._messages)
            with_message_ids({key: item}, self._messages)
        return value


def _place(call: dict[str, Any]) -> tuple[RunDriver, StepState, set[str]] | None:
    """Return the step that a tool call is, and the places that others have in its node.

    Takes the call's ordinal. None outside a run.
    """
    within = current()
    if within is None:
        return None
    driver, outer = within
    name = str(call["name"])
    stands_for = call.get("id") or digest(
        call["args"], f"tool call {name!r}: args", instead="give the call an id"
    )
    with outer.lock:
        ordinal = outer.calls.get((name, stands_for), 0)
        outer.calls[(name, stands_for)] = ordinal + 1
    step = driver.call_step(outer.step, name, stands_for, ordinal)
    step.used = True
    return driver, step, driver.taken(outer.step.id)


def _ended(driver: RunDriver, attempt: Attempt, error: Exception) -> list[Draft]:
    if isinstance(error, GraphInterrupt):
        return driver.suspended(attempt)
    return driver.failed(attempt, error)
