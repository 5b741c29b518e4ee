"""Durable nodes: a compiled graph, copied with a journaling wrapper around each node.

The user's graph is compiled and validated by LangGraph first and never changed; compiling its
builder again would lose what was set on the compiled graph (interrupts, store, cache, name,
config).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from langgraph.channels.delta import DeltaChannel
from langgraph.constants import START
from langgraph.errors import (
    GraphRecursionError,
    ParentCommand,
)
from langgraph.graph.message import add_messages
from langgraph.pregel import Pregel
from langgraph.types import Command

from notebook_agents.errors import (
    InputError,
    NotDurableError,
)
from notebook_agents.graph import people
from notebook_agents.graph.edges import durable_writers
from notebook_agents.graph.models import journal_model_calls
from notebook_agents.graph.private import (
    execution_info,
    keep_off,
    path_of,
    replace_call,
    superstep,
    threaded,
)
from notebook_agents.graph.tasks import DurableCall
from notebook_agents.graph.unhandled import Unhandled, past_handlers
from notebook_agents.graph.updates import Updates
from notebook_agents.graph.usage import with_usage
from notebook_agents.runtime.steps import current, decided, inside, warn_of_other_calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel._read import PregelNode

    from notebook_agents.graph.driver_saver import DriverSaver
    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState

Graph = Pregel[Any, Any, Any, Any]


def durable(
    graph: Graph, driver: RunDriver, saver: DriverSaver, last_superstep: int | None
) -> Graph:
    """Return a copy of a compiled graph whose nodes are journaled by `driver`.

    Its own nodes refuse to run in a superstep behind `last_superstep`.
    """
    nodes = _durable_nodes(graph, driver, saver)
    for node in nodes.values():
        if isinstance(node.bound, DurableNode):
            node.bound.last_superstep = last_superstep
    config = with_usage(graph.config, driver)
    return graph.copy({"nodes": nodes, "checkpointer": saver, "config": config})


def message_channels(graph: Graph) -> frozenset[str]:
    """Return the channels in which LangGraph gives new messages an id."""
    return frozenset(
        name
        for name, channel in graph.channels.items()
        if getattr(channel, "operator", None) is add_messages or isinstance(channel, DeltaChannel)
    )


def _durable_nodes(graph: Graph, driver: RunDriver, saver: DriverSaver) -> dict[str, PregelNode]:
    from notebook_agents.graph.tools import durable_tools  # it needs this module

    messages = message_channels(graph)
    updates = Updates(graph)
    nodes = dict(graph.nodes)
    for name, node in graph.nodes.items():
        bound = node.bound
        routed = any(path_of(writer) is not None for writer in node.writers)
        writers = durable_writers(node.writers, node=name, driver=driver, saver=saver)
        if name == START:
            nodes[name] = node.copy({"writers": writers})
            continue
        if isinstance(bound, Pregel) and bound.checkpointer is not False:
            # Its steps are the steps: it has checkpoints of its own, so their ids are stable. It
            # keeps its own setting of the checkpointer, which is mostly that of the graph around.
            inner = bound.copy({"nodes": _durable_nodes(bound, driver, saver)})
            nodes[name] = node.copy({"bound": inner, "subgraphs": [inner], "writers": writers})
        else:
            bound = durable_tools(bound, messages)
            wrapped = DurableNode(
                bound, name=name, driver=driver, saver=saver, messages=messages, updates=updates
            )
            wrapped.routed = routed
            nodes[name] = node.copy({"bound": wrapped, "writers": writers})
    return nodes


class DurableNode(Runnable[Any, Any]):
    """A node whose intent is on disk before it runs and whose result is recorded before it counts.

    Args:
        inner: The node's own runnable.
        name: The node's name.
        driver: The run.
        saver: Where the checkpoints arrive that its intents rest on.
        messages: The graph's channels in which new messages get an id.
        updates: What the graph's nodes may return.
    """

    def __init__(
        self,
        inner: Runnable[Any, Any],
        *,
        name: str,
        driver: RunDriver,
        saver: DriverSaver,
        messages: frozenset[str],
        updates: Updates,
    ) -> None:
        self._updates = updates
        self.inner = inner
        self.name: str = name
        self.driver = driver
        self.saver = saver
        self.messages = messages
        self.last_superstep: int | None = None
        self.routed = False
        function = getattr(inner, "func", None) or getattr(inner, "afunc", None) or inner
        # LangGraph's CachePolicy makes its keys of these; without them two graphs' nodes of one
        # name would share cached results.
        for attribute in ("__module__", "__qualname__"):
            value = getattr(function, attribute, None) or getattr(type(function), attribute)
            setattr(self, attribute, value)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Run the node, or give its recorded result.

        Raises:
            Unhandled: What no retry policy and no error handler may take for the node's failure.
        """
        with past_handlers():
            return self._invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Do as `invoke` without blocking the event loop."""
        with past_handlers():
            return await self._ainvoke(input, config, **kwargs)

    def _invoke(self, input: Any, config: RunnableConfig | None, **kwargs: Any) -> Any:  # noqa: A002
        step, checkpoint = self._place(config)
        self._heed(step, config)
        if step.returned is not None:
            return _given(self.driver.result(step))
        replace_call(config, DurableCall)
        used, taken = self._places(step, config)
        self.saver.barrier.wait(checkpoint)
        self.saver.settle_checkpoints()
        attempt, intent = self.driver.intend(step)
        self.driver.journal.append([intent], durable=True)
        self.driver.intended(attempt)
        journal_model_calls()
        ending = _Ending(self, attempt, config, used, taken)
        try:
            with inside(self.driver, attempt):
                value = self.inner.invoke(input, config, **kwargs)
            ending.returned(value)
        except Exception as error:
            self.driver.journal.append(ending.raised(error), durable=False)
            raise
        return value

    async def _ainvoke(self, input: Any, config: RunnableConfig | None, **kwargs: Any) -> Any:  # noqa: A002
        step, checkpoint = self._place(config)
        self._heed(step, config)
        if step.returned is not None:
            return _given(self.driver.result(step))
        replace_call(config, DurableCall)
        used, taken = self._places(step, config)
        await self.saver.barrier.wait_async(checkpoint)
        self.saver.settle_checkpoints()
        attempt, intent = self.driver.intend(step)
        await self.driver.journal.append_async([intent], durable=True)
        self.driver.intended(attempt)
        journal_model_calls()
        ending = _Ending(self, attempt, config, used, taken)
        work = partial(self.driver.workers.run, ending.work)
        try:
            with inside(self.driver, attempt):
                inner = threaded(self.inner, input, work) or self.inner
                value = await inner.ainvoke(input, config, **kwargs)
            # Not awaited: it costs no fsync, and a cancellation would lose a result that exists.
            ending.returned(value)
        except Exception as error:
            await self.driver.journal.append_async(ending.raised(error), durable=False)
            raise
        return value

    def _place(self, config: RunnableConfig | None) -> tuple[StepState, str]:
        """Return the step that this execution is, and its checkpoint's id."""
        info = execution_info(config)
        if info is None:
            raise NotDurableError(
                f"node {self.name!r} was called outside its graph: run the agent, not the node"
            )
        if self.last_superstep is not None and superstep(config) > self.last_superstep:
            raise GraphRecursionError(
                f"thread {self.driver.thread!r} has taken as many supersteps as its recursion "
                "limit allows, counted over all processes that drove it: give it a larger one in "
                "`config`"
            )
        outer = current()
        step = self.driver.node_step(
            info.task_id,
            name=self.name,
            parent=outer[1].step.id if outer and outer[0] is self.driver else None,
            ns=info.checkpoint_ns.rpartition("|")[0],
        )
        return step, info.checkpoint_id

    def _places(self, step: StepState, config: RunnableConfig | None) -> tuple[list[str], set[str]]:
        """Return where the places are noted that this attempt takes, and those that are taken.

        The conditional edges behind the node are parts of its task, and what they ask comes in the
        places behind these, also when the node is replayed.
        """
        used: list[str] = []
        taken = self.driver.taken(step.id)
        if taken or self.routed:
            keep_off(config, used, taken)
        return used, taken

    def _heed(self, step: StepState, config: RunnableConfig | None) -> None:
        """Record what a person said that this step returned, if it is in doubt and one did.

        Raises:
            Unhandled: The graph could not take it from this node: an InputError says why.
        """
        answer = None if step.returned is not None else decided(self.driver, step)
        if answer is None or not answer.happened:
            return
        if (problem := self._updates.problem(answer.result, config)) is not None:
            refused = InputError(
                f"what was said to be the result of node {self.name!r} ({step.id}) of thread "
                f"{self.driver.thread!r} {problem}"
            )
            raise Unhandled(refused) from refused  # no failure of the node's: it is in doubt
        value = with_message_ids(answer.result, self.messages)
        drafts = self.driver.reconciled(step, value, codec=self.saver.result_codec)
        drafts[-1].ref = ",".join(f"interrupt{number}" for number in range(step.answers)) or None
        self.driver.journal.append(drafts, durable=True)

    def ended(
        self, attempt: Attempt, error: Exception, config: RunnableConfig | None
    ) -> list[Draft]:
        """Return the drafts of an attempt that raised."""
        if isinstance(error, ParentCommand):  # a result for the graph around this one
            return self.driver.returned(attempt, _ForParent(error.args[0]))
        return people.ended(self.driver, attempt, error, config)


class _Ending:
    """How an attempt of a node ends, recorded once.

    On an event loop a sync function runs in a worker thread, and its end is recorded there: the
    node that awaits it can be cancelled, and would not see it.
    """

    def __init__(
        self,
        node: DurableNode,
        attempt: Attempt,
        config: RunnableConfig | None,
        used: list[str],
        taken: set[str],
    ) -> None:
        self._node = node
        self._attempt = attempt
        self._config = config
        self._used, self._taken = used, taken
        self._told = False

    def returned(self, value: Any) -> None:
        """Record a result."""
        if self._told:
            return
        node, driver, attempt = self._node, self._node.driver, self._attempt
        value = with_message_ids(value, node.messages)
        drafts = driver.returned(attempt, value, codec=node.saver.result_codec)
        drafts[-1].ref = ",".join(sorted(self._taken.union(self._used))) or None
        self._told = True
        driver.journal.append(drafts, durable=False)
        driver.recorded(attempt)
        warn_of_other_calls(driver, attempt)

    def raised(self, error: Exception) -> list[Draft]:
        """Return the drafts of an error; none where the end is recorded."""
        told, self._told = self._told, True
        return [] if told else self._node.ended(self._attempt, error, self._config)

    def work(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the node's function in a worker thread, and record how it ends."""
        driver = self._node.driver
        driver.under_way[id(self)] = self._attempt
        try:
            value = function(*args, **kwargs)
            if not isinstance(value, Runnable):  # LangGraph invokes that in the node's stead
                self.returned(value)
        except Exception as error:
            driver.journal.append(self.raised(error), durable=False)
            raise
        finally:
            driver.under_way.pop(id(self), None)
        return value


def with_message_ids(value: Any, channels: frozenset[str]) -> Any:
    """Give new messages the ids that LangGraph would give them a moment later.

    So the recorded result is what the state will hold, a replay brings the same ids, and a message
    is stored once and not once with its id and once without.
    """
    if isinstance(value, Command):
        with_message_ids(value.update, channels)
    elif isinstance(value, dict):
        for name in channels & value.keys():
            given = value[name]
            for message in given if isinstance(given, list) else [given]:
                if isinstance(message, BaseMessage) and message.id is None:
                    message.id = str(uuid4())
    elif isinstance(value, list):
        for item in value:
            with_message_ids(item, channels)
    return value


class _ForParent:
    """A node's command to the graph around its own, as it is recorded."""

    def __init__(self, command: Any) -> None:
        self.command = command


def _given(value: Any) -> Any:
    """Return a recorded result the way the node gave it."""
    if isinstance(value, _ForParent):
        raise ParentCommand(value.command)
    return value
