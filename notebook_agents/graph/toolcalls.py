"""Tool calls that a cancelled run leaves open: a model refuses a conversation that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.base import copy_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph.message import add_messages

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from notebook_agents.graph.saver import JournalSaver

CANCELLED = "cancelled"


def close_tool_calls(
    saver: JournalSaver, config: RunnableConfig, channels: frozenset[str]
) -> list[str]:
    """Answer the open tool calls of a thread's newest checkpoint, in a checkpoint behind it.

    What tools of the unfinished superstep returned is kept as their answer.

    Args:
        saver: Where the checkpoint is.
        config: Names the thread.
        channels: The channels that hold messages.

    Returns:
        The ids of the calls that were answered with `cancelled`.
    """
    newest = saver.get_tuple(config)
    if newest is None:
        return []
    checkpoint = copy_checkpoint(newest.checkpoint)
    closed: list[str] = []
    written: dict[str, Any] = {}
    for channel in sorted(channels & checkpoint["channel_values"].keys()):
        messages = checkpoint["channel_values"][channel]
        pending = [value for _, name, value in newest.pending_writes or () if name == channel]
        answers = _answers(messages, pending, closed)
        if answers:
            written[channel] = add_messages(messages, answers)
    if not written:
        return []
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
    return closed


def _answers(messages: Any, pending: list[Any], closed: list[str]) -> list[Any]:
    """Return the tool messages that are missing behind the newest message with tool calls."""
    listed = messages if isinstance(messages, list) else []
    asking = next((m for m in reversed(listed) if isinstance(m, AIMessage) and m.tool_calls), None)
    if asking is None:
        return []
    there = {m.tool_call_id for m in listed if isinstance(m, ToolMessage)}
    returned = {
        m.tool_call_id: m
        for value in pending
        for m in (value if isinstance(value, list) else [value])
        if isinstance(m, ToolMessage)
    }
    answers = []
    for call in asking.tool_calls:
        name = call["id"] or ""
        if name in there:
            continue
        if name not in returned:
            closed.append(name)
        answers.append(
            returned.get(name)
            or ToolMessage(CANCELLED, name=call["name"], tool_call_id=name, status="error")
        )
    return answers
