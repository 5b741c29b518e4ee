"""Model calls inside a node: asked once, journaled without the node's code changing.

The model is OpenAI's own client on an HTTP server in this process, which counts what was asked of
it where no kill reaches.
"""

from __future__ import annotations

import asyncio
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
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from support.openai_server import ModelServer

import notebook_agents as na
from notebook_agents.graph.models import JournalCache, journal_model_calls
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel
    from support.running import Ledger

SECRET = "sk-planted-0f6a3d1c"
MODEL = "gpt-scripted-1"

_loops: set[int] = set()


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


@pytest.mark.crash
def test_parallel_equal_calls_each_keep_a_reply(
    home: Path, server: ModelServer, trips: Callable[..., None], dies: Callable[..., None]
) -> None:
    """Equal prompts side by side, in coroutines and in worker threads, are told apart."""
    model = openai(server)

    async def node(state: State) -> State:
        together = await asyncio.gather(*(model.ainvoke("same") for _ in range(4)))
        batched = await asyncio.to_thread(model.batch, ["same"] * 4)
        trips()
        return {"said": [*together, *batched]}

    dies(lambda: drive(home, node))
    assert asked(server) == {"same": 8}
    done = drive(home, node)
    assert asked(server) == {"same": 8}
    assert len({message.id for message in done.value["said"]}) == 8


@pytest.mark.crash
def test_create_agents_model_is_not_asked_again_for_a_reply_that_came(
    home: Path, server: ModelServer, trips: Callable[..., None], dies: Callable[..., None]
) -> None:
    """A kill between the reply and the node's return loses nothing that was paid for."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import wrap_model_call
    from langchain_core.tools import tool

    @tool
    def lookup(item: str) -> str:
        """Look an item up."""
        return f"{item} is {item.upper()}"

    @wrap_model_call
    def dying(request: Any, handler: Any) -> Any:
        reply = handler(request)
        trips()
        return reply

    def run() -> na.Run:
        agent = create_agent(openai(server), [lookup], middleware=[dying])
        with na.Journal.open(home) as journal:
            given = {"messages": [("user", "What are they?")]}
            done = na.Agent(agent, "research", journal).run(given, thread="t")
            assert done.view
            assert done.value["messages"][-1].content == server.answer
            return done

    dies(run)
    assert len(server.model_calls) == 1
    done = run()
    assert len(server.model_calls) == len(server.items) + 1
    model, reply, tools, *_ = done.steps
    assert (model.name, reply.name, tools.name) == ("model", MODEL, "tools")
    assert (reply.parent, tools.parent) == (model.id, None)
    assert not any(step.parent == tools.id for step in done.steps)
    # A reply is stored once: as the call's result, the node's and the state's.
    with na.Journal.open(home) as journal:
        results = [r for r in journal.select(thread="t") if r.kind == "step_returned"]
    by_step = {record.step: record for record in results}
    assert set(by_step[reply.id].refs) <= set(by_step[model.id].refs)


@pytest.mark.crash
def test_a_plain_model_is_journaled_too(
    home: Path, trips: Callable[..., None], dies: Callable[..., None], ledger: Ledger
) -> None:
    """Text in, text out: a batch with equal prompts gets its replies back in their order."""

    class Counting(FakeListLLM):
        def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
            return f"{prompt} {ledger.note(prompt)}"

    model = Counting(responses=["unused"])

    def node(state: State) -> State:
        said = model.batch(["a", "b", "a"])
        trips()
        return {"said": said}

    dies(lambda: drive(home, node))
    assert len(ledger.lines()) == 3
    done = drive(home, node)
    assert len(ledger.lines()) == 3
    assert [text[0] for text in done.value["said"]] == ["a", "b", "a"]
    assert {text[2] for text in done.value["said"]} == {"1", "2", "3"}


class Flaky(GenericFakeChatModel):
    """A model that fails as often as it is told to; every call is a line in a ledger."""

    ledger: Any
    failures: int

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.ledger.note("asked") <= self.failures:
            raise ConnectionError("no answer")
        return super()._generate(*args, **kwargs)


def test_a_call_that_failed_is_not_left_in_doubt(journal: na.Journal, ledger: Ledger) -> None:
    """A failed call ends, failed, with the step around it, whether the step went on or not."""
    model = Flaky(messages=iter([AIMessage("at last")]), ledger=ledger, failures=2)

    def node(state: State) -> State:
        try:
            model.invoke("caught")
        except ConnectionError:
            return {"said": [model.invoke("p")]}
        return {}

    agent = na.Agent(graph(node), "flaky", journal)
    with pytest.raises(ConnectionError):
        agent.run({"said": []}, thread="t")
    failed = na.Run(journal, "t", 1)
    assert [step.outcome for step in failed.steps] == [Outcome.FAILED] * 3
    done = agent.run({"said": []}, thread="t")
    assert done.status is RunStatus.SUCCEEDED
    assert not any(step.was_in_doubt for step in done.steps)


@pytest.mark.crash
def test_a_retry_in_the_same_words_is_found_again(
    home: Path, trips: Callable[..., None], dies: Callable[..., None], ledger: Ledger
) -> None:
    """After a call that failed and one that did not, a resume asks neither again."""
    model = Flaky(messages=iter([AIMessage("yes")] * 9), ledger=ledger, failures=1)

    def node(state: State) -> State:
        reply = model.with_retry(
            retry_if_exception_type=(ConnectionError,), wait_exponential_jitter=False
        ).invoke("p")
        trips()
        return {"said": [reply]}

    dies(lambda: drive(home, node))
    done = drive(home, node)
    assert len(ledger.lines()) == 2
    assert done.status is RunStatus.SUCCEEDED
    outcomes = sorted(step.outcome for step in done.steps)
    assert outcomes == [Outcome.FAILED, Outcome.RETURNED, Outcome.RETURNED]


def test_a_second_attempt_in_one_process_asks_for_no_reply_twice(
    journal: na.Journal, server: ModelServer, ledger: Ledger
) -> None:
    """LangGraph's own retry of a node gets the replies that the first attempt had."""
    model = openai(server)

    def node(state: State) -> State:
        said = [model.invoke("a"), model.invoke("a")]
        if ledger.note("tried") == 1:
            raise ConnectionError("later")
        return {"said": said}

    retried = graph(node, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    done = na.Agent(retried, "retrying", journal).run({"said": []}, thread="t")
    assert asked(server) == {"a": 2}
    assert len({message.id for message in done.value["said"]}) == 2


def test_the_users_own_cache_is_asked_and_told(journal: na.Journal, server: ModelServer) -> None:
    """A cache of the user's is behind ours, also one set later, and works as ever outside a run."""
    model = openai(server)
    own = InMemoryCache()
    set_llm_cache(own)
    agent = na.Agent(graph(lambda state: {"said": [model.invoke("p")]}), "caching", journal)
    first = agent.run({"said": []}, thread="1").value["said"][0]
    second = agent.run({"said": []}, thread="2").value["said"][0]
    assert asked(server) == {"p": 1}
    assert second.content == first.content
    assert second.usage_metadata == {**first.usage_metadata, "total_cost": 0}  # as LangChain says
    model.invoke("p")
    assert asked(server) == {"p": 1}

    later = InMemoryCache()
    set_llm_cache(later)
    agent.run({"said": []}, thread="3")
    agent.run({"said": []}, thread="4")
    assert asked(server) == {"p": 2}
    assert later._cache
    cache = get_llm_cache()
    assert isinstance(cache, JournalCache)
    cache.clear()
    assert not later._cache


@pytest.mark.crash
def test_what_the_users_cache_gave_is_given_again(
    home: Path, server: ModelServer, trips: Callable[..., None], dies: Callable[..., None]
) -> None:
    """A reply out of a cache that died with its process is in the journal, marked as it was."""
    model = openai(server)

    def first() -> None:
        set_llm_cache(InMemoryCache())
        model.invoke("p")
        drive(home, node)

    def node(state: State) -> State:
        said = [model.invoke("p")]
        trips()
        return {"said": said}

    dies(first)
    done = drive(home, node)
    assert asked(server) == {"p": 1}
    assert done.value["said"][0].usage_metadata["total_cost"] == 0
    assert not done.view.usage


def test_a_cache_around_ours_does_not_go_in_circles(
    journal: na.Journal, server: ModelServer
) -> None:
    """A user's cache that hands on to the one it found, which is ours, journals a call once."""

    class Around(InMemoryCache):
        def __init__(self, found: Any) -> None:
            super().__init__()
            self.found = found

        def lookup(self, prompt: str, llm_string: str) -> Any:
            return self.found.lookup(prompt, llm_string)

    journal_model_calls()
    set_llm_cache(Around(get_llm_cache()))
    model = openai(server)
    agent = na.Agent(graph(lambda state: {"said": [model.invoke("p")]}), "around", journal)
    done = agent.run({"said": []}, thread="t")
    assert len(done.steps) == 2
    assert asked(server) == {"p": 1}


def test_outside_a_run_the_cache_does_nothing(journal: na.Journal, server: ModelServer) -> None:
    """Once a run put the cache in, calls elsewhere go to the model each time, unjournaled."""
    model = openai(server)
    na.Agent(graph(lambda state: {"said": [model.invoke("p")]}), "a", journal).run(
        {"said": []}, thread="t"
    )
    before = len(journal.select())
    model.invoke("p")
    asyncio.run(model.ainvoke("p"))
    assert asked(server) == {"p": 3}
    assert len(journal.select()) == before


def test_calls_that_ask_no_global_cache_are_left_alone(
    journal: na.Journal, server: ModelServer
) -> None:
    """`.stream()`, `cache=False` and a cache of the model's own work as they do without us."""
    own = InMemoryCache()

    models = [openai(server), openai(server, cache=False), openai(server, cache=own)]

    def node(state: State) -> State:
        streaming, uncached, cached = models
        chunks = list(streaming.stream("p"))
        return {"said": [len(chunks), uncached.invoke("p"), cached.invoke("p")]}

    done = na.Agent(graph(node), "apart", journal).run({"said": []}, thread="t")
    assert len(done.steps) == 1
    assert asked(server) == {"p": 3}
    assert own._cache


def test_no_secret_is_in_a_readable_column(home: Path, server: ModelServer) -> None:
    """What a prompt or a model's parameters hold is sealed; of the call only its name is seen."""
    secret = "hunter2-planted"
    model = openai(server, model_kwargs={"user": secret})
    drive(home, lambda state: {"said": [model.invoke(f"the password is {secret}")]})
    assert any(secret in str(call.body) for call in server.model_calls)
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert any(MODEL.encode() in content for content in files)
    for planted in (secret, SECRET):
        assert not any(planted.encode() in content for content in files)


def test_the_loop_does_not_wait_for_the_disk(
    home: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An async call's intent is synced in another thread than that of the event loop."""
    from notebook_agents.journal.log import Log

    model = openai(server)
    sync = Log.sync
    on_the_loop: list[bool] = []

    def noted(self: Log, commit: int) -> None:
        if _loops:
            on_the_loop.append(threading.get_ident() in _loops)
        sync(self, commit)

    async def node(state: State) -> State:
        _loops.add(threading.get_ident())
        said = [await model.ainvoke("p")]
        _loops.clear()
        return {"said": said}

    monkeypatch.setattr(Log, "sync", noted)
    drive(home, node)
    assert on_the_loop == [False]


PROGRAM = """
import os
import signal
from typing import Any, TypedDict

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph

import notebook_agents as na


class State(TypedDict, total=False):
    said: list[Any]


@tool
def lookup(item: str) -> str:
    '''Look an item up.'''
    return item


model = ChatOpenAI(model="gpt-scripted-1", base_url=os.environ["MODEL"] + "/v1", max_retries=0)
bound = model.bind_tools([lookup], tool_choice=None)


def node(state):
    said = [model.invoke("a"), bound.invoke("b")]
    if "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"said": said}


graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
na.Agent(graph, "asking").run({"said": []}, thread="t")
"""


@pytest.mark.crash
def test_an_empty_process_finds_the_replies(
    server: ModelServer, python: Callable[..., Any]
) -> None:
    """A client and its bound tools, rebuilt from the journal, ask in words that are recognised."""
    env = {"MODEL": server.url, "OPENAI_API_KEY": SECRET}
    assert python(PROGRAM, script=True, DIES="1", **env).code == -signal.SIGKILL
    assert asked(server) == {"a": 1, "b": 1}
    resumed = python("import notebook_agents as na; print(na.resume('t').value)", **env)
    assert resumed.code == 0, resumed.err
    assert asked(server) == {"a": 1, "b": 1}


@pytest.mark.crash
def test_calls_in_tasks_and_in_durable_calls_are_found_again(
    home: Path,
    server: ModelServer,
    call: Callable[..., na.Run],
    trips: Callable[..., None],
    dies: Callable[..., None],
) -> None:
    """In a `@task` of an `@entrypoint`, and in a `@step`, a reply that came is not asked for."""
    model = openai(server)

    @task
    def in_task(text: str) -> str:
        return str(model.invoke(text).id)

    @na.step
    def in_step(text: str) -> str:
        reply = model.invoke(text)
        trips()
        return str(reply.id)

    @entrypoint()
    def flow(text: str) -> list[str]:
        futures = [in_task(text), in_task(text)]
        return [*(future.result() for future in futures), in_step(text)]

    def run() -> na.Run:
        with na.Journal.open(home) as journal:
            done = call(na.Agent(flow, "flow", journal), "p", thread="t")
            assert len(set(done.value)) == 3
            return done

    dies(run)
    assert asked(server) == {"p": 3}
    run()
    assert asked(server) == {"p": 3}
