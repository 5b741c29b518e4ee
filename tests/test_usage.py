"""What models took: counted once for each reply that came, whatever is killed or replayed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from support.openai_server import COMPLETION_TOKENS, PROMPT_TOKENS, ModelServer
from support.running import named

import notebook_agents as na
from notebook_agents.model import ModelUsage, RunStatus, Usage
from notebook_agents.runtime.timeline import money, summary, to_html, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_core.outputs import LLMResult

MODEL = "gpt-scripted-1"
REPLY = PROMPT_TOKENS + COMPLETION_TOKENS
PRICES = {MODEL: (2.0, 8.0)}
COST = (PROMPT_TOKENS * 2.0 + COMPLETION_TOKENS * 8.0) / 1_000_000


class State(TypedDict, total=False):
    said: list[Any]


def graph(*nodes: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph that runs one node after the other."""
    builder = StateGraph(State)
    builder.add_sequence([(node.__name__, node) for node in nodes])
    builder.add_edge(START, nodes[0].__name__)
    builder.add_edge(nodes[-1].__name__, END)
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
    options = {"stream_usage": True, **options}
    return ChatOpenAI(
        model=MODEL, base_url=f"{server.url}/v1", api_key="sk-x", max_retries=0, **options
    )


def replies(usage: Usage) -> int:
    """Return how many replies a usage is of, having checked that its tokens are theirs."""
    count = sum(model.replies for model in usage.models)
    assert {model.model for model in usage.models} <= {MODEL}
    assert usage.input_tokens == count * PROMPT_TOKENS
    assert usage.output_tokens == count * COMPLETION_TOKENS
    assert usage.total_tokens == count * REPLY
    return count


def ask_each_way(server: ModelServer) -> Callable[[State], State]:
    """Return a node that asks by each of the ways that LangChain has: six replies."""
    plain, uncached, own = (
        openai(server),
        openai(server, cache=False),
        openai(server, cache=InMemoryCache()),
    )
    streaming = openai(server, streaming=True)

    def each_way(state: State) -> State:
        list(plain.stream("streamed"))
        return {
            "said": [
                plain.invoke("a"),
                *plain.batch(["b", "b"]),
                uncached.invoke("a"),
                streaming.invoke("c"),
                own.invoke("d"),
                own.invoke("d"),  # out of its cache
            ]
        }

    return each_way


def ask_each_way_async(server: ModelServer) -> Callable[[State], Any]:
    """Do as `ask_each_way` on an event loop."""
    plain, uncached, own = (
        openai(server),
        openai(server, cache=False),
        openai(server, cache=InMemoryCache()),
    )
    streaming = openai(server, streaming=True)

    async def each_way(state: State) -> State:
        async for _ in plain.astream("streamed"):
            pass
        return {
            "said": [
                await plain.ainvoke("a"),
                *await plain.abatch(["b", "b"]),
                await uncached.ainvoke("a"),
                await streaming.ainvoke("c"),
                await own.ainvoke("d"),
                await own.ainvoke("d"),
            ]
        }

    return each_way


@pytest.mark.parametrize("make", [ask_each_way, ask_each_way_async])
def test_every_reply_is_counted_once_whichever_way_it_was_asked_for(
    journal: na.Journal, server: ModelServer, make: Callable[..., Any]
) -> None:
    """Journaled calls, streams, models without a cache or with their own: the server's count."""
    done = na.Agent(graph(make(server)), "asking", journal).run({"said": []}, thread="t")
    assert len(server.model_calls) == 7
    node, *calls = done.steps
    assert replies(node.usage) == 7
    assert [replies(call.usage) for call in calls] == [1] * 4
    assert done.view.usage == node.usage
    assert done.view.usage.cost is None


@pytest.mark.crash
@pytest.mark.parametrize("streamed", [False, True])
def test_a_reply_is_counted_once_over_a_kill(
    home: Path,
    server: ModelServer,
    streamed: bool,
    trips: Callable[..., None],
    dies: Callable[..., None],
) -> None:
    """A replayed reply took nothing again; one that had to be asked for again counts twice."""
    model = openai(server)

    def node(state: State) -> State:
        said = list(model.stream("p"))[-1] if streamed else model.invoke("p")
        trips()
        return {"said": [said.content]}

    def last(state: State) -> State:
        trips("second")
        return {}

    def run() -> na.Run:
        with na.Journal.open(home) as journal:
            agent = na.Agent(graph(node, last), "asking", journal, prices=PRICES)
            done = agent.run({"said": []}, thread="t")
            assert done.view
            return done

    dies(run)
    dies(run)
    done = run()
    spent = 2 if streamed else 1
    assert len(server.model_calls) == spent
    assert replies(done.view.usage) == replies(named(done)["node"].usage) == spent
    assert done.view.usage.cost == pytest.approx(spent * COST)
    # The attempt that was killed is not what the replay saved.
    assert replies(done.view.usage_saved) == 1
    assert summary(done.view).startswith(f"1 step replayed: {REPLY} tokens, {money(COST)}, ")
    assert summary(done.view).endswith(" not spent again")


@pytest.mark.crash
def test_prices_are_kept_for_a_resume(
    home: Path, server: ModelServer, trips: Callable[..., None], dies: Callable[..., None]
) -> None:
    """Whoever goes on with a run counts with the prices that it was started with."""
    model = openai(server)

    def node(state: State) -> State:
        trips()
        return {"said": [model.invoke("p")]}

    def start() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(graph(node), "priced", journal, prices=PRICES).run({"said": []}, thread="t")

    dies(start)
    with na.Journal.open(home) as journal:
        done = na.Agent(graph(node), "priced", journal).run({"said": []}, thread="t")
        assert done.view.usage.cost == pytest.approx(COST)


def test_a_providers_own_cost_comes_first(journal: na.Journal) -> None:
    """A cost that is reported with the reply is taken, whatever price the agent was given."""
    told = {"token_usage": {"cost": 0.25}, "model_name": "m"}
    message = AIMessage(
        "hi",
        response_metadata=told,
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
    )
    other = message.model_copy(update={"response_metadata": {"model_name": "free"}})
    model = GenericFakeChatModel(messages=iter([message, other]))

    def node(state: State) -> State:
        return {"said": [model.invoke("p"), model.invoke("q")]}

    agent = na.Agent(graph(node), "costly", journal, prices={"m": (1e6, 1e6), "free": (0, 0)})
    usage = agent.run({"said": []}).view.usage
    assert usage.cost == 0.25
    assert usage.models == (
        ModelUsage(model="m", input_tokens=3, output_tokens=2, total_tokens=5, cost=0.25),
        ModelUsage(model="free", input_tokens=3, output_tokens=2, total_tokens=5, cost=0.0),
    )


def test_a_plain_models_tokens_are_counted(journal: na.Journal) -> None:
    """What a text model tells beside its reply is counted too, once for a batch."""

    class Telling(FakeListLLM):
        def _generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
            made = super()._generate(prompts, *args, **kwargs)
            used = {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}
            made.llm_output = {"token_usage": used, "model_name": "text-1"}
            return made

    model = Telling(responses=["x", "y"])

    def node(state: State) -> State:
        return {"said": model.batch(["a", "b"])}

    done = na.Agent(graph(node), "texts", journal).run({"said": []})
    (spent,) = done.view.usage.models
    assert (spent.model, spent.total_tokens, spent.replies) == ("text-1", 5, 1)


def test_a_timeline_shows_tokens_and_cost(
    home: Path, server: ModelServer, cli: Callable[..., Any]
) -> None:
    """Text, HTML and `show --json` say what each step took, its inner calls included."""
    model = openai(server)

    def node(state: State) -> State:
        return {"said": [model.invoke("a"), model.invoke("b")]}

    def idle(state: State) -> State:
        return {}

    with na.Journal.open(home) as journal:
        agent = na.Agent(graph(node, idle), "shown", journal, prices={MODEL: (2000.0, 8000.0)})
        view = agent.run({"said": []}, thread="t").view
    assert view.status is RunStatus.SUCCEEDED
    text = to_text(view)
    assert f"{2 * REPLY} tokens · $0.16" in text.splitlines()[1]
    cells = [line.split() for line in text.splitlines() if line.startswith("✓")]
    assert [row[-3] for row in cells[:3]] == [str(2 * REPLY), str(REPLY), str(REPLY)]
    assert "<th>tokens</th>" in to_html(view)
    assert f'<td class="na-number">{2 * REPLY}</td>' in to_html(view)

    shown = json.loads(cli("show", "t", "--json", "--journal", str(home)).out)
    assert shown["usage"]["total_tokens"] == 2 * REPLY
    assert shown["usage"]["models"][MODEL]["replies"] == 2
    assert shown["usage"]["cost"] == pytest.approx(0.156)
    assert [step["usage"]["total_tokens"] for step in shown["steps"]] == [36, 18, 18, 0]


def test_a_run_without_models_shows_no_tokens(done: na.Run) -> None:
    """Where no model was asked, no column and no word is about tokens."""
    assert not done.view.usage
    assert "token" not in to_text(done.view)
    assert "token" not in to_html(done.view)


class Listener(BaseCallbackHandler):
    """Hears of replies."""

    def __init__(self) -> None:
        self.heard: list[LLMResult] = []

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.heard.append(response)


def test_the_users_callbacks_are_called_as_ever(journal: na.Journal, server: ModelServer) -> None:
    """A list of callbacks and a manager, of the run and of the graph, all stay."""
    model = openai(server)

    def node(state: State) -> State:
        return {"said": [model.invoke("a")]}

    heard = [Listener() for _ in range(3)]
    for inner in ([heard[1]], CallbackManager(handlers=[], inheritable_handlers=[heard[2]])):
        bound = graph(node).compile().with_config(callbacks=inner)
        agent = na.Agent(bound, "heard", journal)
        done = agent.run({"said": []}, config={"callbacks": [heard[0]]}, new=True)
        assert replies(done.view.usage) == 1
    assert [len(listener.heard) for listener in heard] == [2, 1, 1]


@pytest.mark.parametrize(
    ("dollars", "said"), [(0.37, "$0.37"), (1234.5, "$1,234.50"), (0, "$0.00"), (0.0042, "$0.0042")]
)
def test_money_is_said_as_people_say_it(dollars: float, said: str) -> None:
    """Cents, and below a cent two digits that count."""
    assert money(dollars) == said
