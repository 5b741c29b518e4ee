"""Tool calls that a cancelled run leaves open: a model refuses a conversation that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.base import copy_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph.message import add_messages
from langgraph.types import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.runnables import RunnableConfig

    from notebook_agents.graph.saver import JournalSaver

CANCELLED = "cancelled"


def close_tool_calls(
    saver: JournalSaver,
    config: RunnableConfig,
    channels: frozenset[str],
    returned: Iterable[Any],
) -> None:
    """Answer the open tool calls of a thread's newest checkpoint, in a checkpoint behind it.

    Args:
        saver: Where the checkpoint is.
        config: Names the thread.
        channels: The channels that hold messages.
        returned: What the steps of the unfinished superstep gave: answers among it are kept.
    """
    newest = saver.get_tuple(config)
    if newest is None:
        return
    found = {message.tool_call_id: message for value in returned for message in _answers_in(value)}
    checkpoint = copy_checkpoint(newest.checkpoint)
    written: dict[str, Any] = {}
    for channel in sorted(channels & checkpoint["channel_values"].keys()):
        messages = checkpoint["channel_values"][channel]
        answers = _missing(messages, found)
        if answers:
            written[channel] = add_messages(messages, answers)
    if not written:
        return
    checkpoint["id"] = str(uuid6(clock_seq=-2))
    newest_version: Any = max(checkpoint["channel_versions"].values())
    version = saver.get_next_version(newest_version, None)
    checkpoint["channel_values"].update(written)
    checkpoint["channel_versions"].update(dict.fromkeys(written, version))
    step = newest.metadata.get("step", 0) + 1
    parents = newest.metadata.get("parents", {})
    saver.put(
        newest.config,
        checkpoint,
        {"source": "update", "step": step, "parents": parents},
        dict.fromkeys(written, version),
    )


def _answers_in(value: Any) -> list[ToolMessage]:
    """Return the tool messages in what a step gave."""
    if isinstance(value, ToolMessage):
        return [value]
    if isinstance(value, Command):
        return _answers_in(value.update)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [message for item in value for message in _answers_in(item)]
    return []


def _missing(messages: Any, returned: dict[str, ToolMessage]) -> list[Any]:
    """Return the tool messages that are missing behind the newest message with tool calls."""
    listed = messages if isinstance(messages, list) else []
    asking = next((m for m in reversed(listed) if isinstance(m, AIMessage) and m.tool_calls), None)
    if asking is None:
        return []
    there = {m.tool_call_id for m in listed if isinstance(m, ToolMessage)}
    return [
        returned.get(call["id"] or "")
        or ToolMessage(CANCELLED, name=call["name"], tool_call_id=call["id"] or "", status="error")
        for call in asking.tool_calls
        if call["id"] not in there
    ]
