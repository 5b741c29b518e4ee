"""Model calls inside a node: asked once, journaled without the node's code changing.

The model is OpenAI's own client on an HTTP server in this process, which counts what was asked of
it where no kill reaches.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig  # noqa: TC002 - read at run time
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from support.openai_server import ModelServer
from support.running import Ledger, named

import notebook_agents as na
from notebook_agents.graph.models import JournalCache, journal_model_calls
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel

SECRET = "sk-planted-0f6a3d1c"
MODEL = "gpt-scripted-1"


class State(TypedDict, total=False):
    said: list[Any]


def graph(node: Callable[..., Any], **options: Any) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of one node."""
    builder = StateGraph(State)
    builder.add_node("node", node, **options)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Run a model server."""
    with ModelServer() as running:
        yield running


@pytest.fixture(autouse=True)
def without_cache() -> Iterator[None]:
    """Start and end without a global cache."""
    set_llm_cache(None)
    yield
    set_llm_cache(None)


def openai(server: ModelServer, **options: Any) -> ChatOpenAI:
    """Return OpenAI's client for the server."""
    return ChatOpenAI(
        model=MODEL, base_url=f"{server.url}/v1", api_key=SECRET, max_retries=0, **options
    )


def asked(server: ModelServer) -> Counter[str]:
    """Return how often the server was asked for what."""
    return Counter(call.body["messages"][-1]["content"] for call in server.model_calls)


def drive(home: Path, node: Callable[..., Any], **options: Any) -> na.Run:
    """Run, or go on with, a graph of one node, sync or async."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(graph(node, **options), "asking", journal)
        done = agent.run({"said": []}, thread="t")
        assert done.view
        if done.status is RunStatus.SUCCEEDED:
            assert done.value is not None
        return done


def sync_node(model: BaseChatModel, between: Callable[[], None]) -> Callable[..., Any]:
    """Return a node that asks twice in the same words and once in others."""

    def node(state: State) -> State:
        first = model.invoke("same")
        second = model.invoke([*[("user", "same")]])
        third = model.invoke([("user", "same"), first, ("user", "other")])
        between()
        return {"said": [first, second, third, model.invoke("last")]}

    return node


def async_node(model: BaseChatModel, between: Callable[[], None]) -> Callable[..., Any]:
    """Do as `sync_node` on an event loop."""

    async def node(state: State) -> State:
        first = await model.ainvoke("same")
        second = await model.ainvoke("same")
        third = await model.ainvoke([("user", "same"), first, ("user", "other")])
        between()
        return {"said": [first, second, third, await model.ainvoke("last")]}

    return node


NODES = pytest.mark.parametrize("make", [sync_node, async_node])


@pytest.mark.crash
@NODES
@pytest.mark.parametrize("streaming", [False, True])
def test_a_kill_between_two_calls_asks_for_no_reply_twice(
    home: Path,
    server: ModelServer,
    make: Callable[..., Any],
    streaming: bool,
    trips: Callable[..., None],
    dies: Callable[..., None],
) -> None:
    """What a model replied before the kill is given again: same messages, same ids, unasked."""
    model = openai(server, streaming=streaming)
    dies(lambda: drive(home, make(model, trips)))
    assert asked(server) == {"same": 2, "other": 1}

    done = drive(home, make(model, trips))

    assert asked(server) == {"same": 2, "other": 1, "last": 1}
    undisturbed = drive(home.with_name("other"), make(model, lambda: None))
    for got, expected in zip(done.value["said"], undisturbed.value["said"], strict=True):
        assert type(got) is AIMessage
        assert (got.content, got.usage_metadata) == (expected.content, expected.usage_metadata)
    assert len({message.id for message in done.value["said"]}) == 4
    node, *calls = done.steps
    assert [call.name for call in calls] == [MODEL] * 4
    assert {call.parent for call in calls} == {node.id}
    assert [call.replayed for call in calls] == [True, True, True, False]
