"""What models take: tokens and cost, recorded once for each reply.

A reply that is journaled (`models.py`) has its usage recorded with it, in one append. Every other
one, from `.stream()` or a model with a cache of its own or none, is seen by a callback handler in
the graph's config. A reply that came out of a journal or a cache took nothing.

A cost is recorded where the provider reports one with the reply, or where the agent was given the
model's price.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, Generation

from notebook_agents.model import ModelUsage
from notebook_agents.runtime.steps import current

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig

    from notebook_agents.runtime.driver import Attempt, RunDriver

Prices = dict[str, tuple[float, float]]
"""US dollars for a million input tokens and for a million output tokens, by model."""

_MILLION = 1_000_000


class RecordedReply(ChatGeneration):
    """A chat model's reply out of a journal.

    LangChain writes a cost of 0 into the message of a cached reply. The next prompt would then be
    another than before, and so would the state: the message stays as it was recorded.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "message":
            super().__setattr__(name, value)


class RecordedText(Generation):
    """A plain model's reply out of a journal."""


def with_usage(config: RunnableConfig | None, driver: RunDriver) -> RunnableConfig:
    """Return a compiled graph's config with a handler that records what models take in a run."""
    given: RunnableConfig = {**config} if config else {}
    callbacks = given.get("callbacks")
    handler = _Handler(driver)
    if callbacks is None or isinstance(callbacks, list):
        given["callbacks"] = [*(callbacks or ()), handler]
    else:
        manager = callbacks.copy()
        manager.add_handler(handler)
        given["callbacks"] = manager
    return given


def usage_of(
    replies: list[Generation], asked: str, prices: Prices, output: Mapping[str, Any] | None = None
) -> ModelUsage | None:
    """Return what a model took for its replies to one prompt; None where it does not say.

    Args:
        replies: The replies. Where a provider gives several it repeats their sum with each.
        asked: The name of the model that was asked for.
        prices: Prices by model.
        output: What the provider said besides.
    """
    first = replies[0] if replies else None
    if first is None or isinstance(first, RecordedReply | RecordedText):
        return None
    message = getattr(first, "message", None)
    told = getattr(message, "response_metadata", None) or {}
    output = output or {}
    counted = getattr(message, "usage_metadata", None) or {}
    if counted.get("total_cost") == 0 and "total_cost" in counted:
        return None  # LangChain's mark of a reply out of a cache
    raw = told.get("token_usage") or output.get("token_usage") or output.get("usage") or {}
    tokens = counted or {
        "input_tokens": raw.get("prompt_tokens") or 0,
        "output_tokens": raw.get("completion_tokens") or 0,
        "total_tokens": raw.get("total_tokens") or 0,
    }
    given, said = tokens.get("input_tokens") or 0, tokens.get("output_tokens") or 0
    total = tokens.get("total_tokens") or given + said
    if not total:
        return None
    model = told.get("model_name") or told.get("model") or output.get("model_name") or asked
    cost = _reported(counted.get("total_cost"), told.get("cost"), raw.get("cost"))
    price = prices.get(model) or prices.get(asked)
    if cost is None and price is not None:
        cost = (given * price[0] + said * price[1]) / _MILLION
    return ModelUsage(
        model=str(model), input_tokens=given, output_tokens=said, total_tokens=total, cost=cost
    )


def _reported(*costs: object) -> float | None:
    for cost in costs:
        if isinstance(cost, int | float) and not isinstance(cost, bool):
            return float(cost)
    return None


class _Handler(BaseCallbackHandler):
    """Records what models take in one run."""

    run_inline = True  # in the caller's context, which knows the step; and it is quick
    ignore_chain = True
    ignore_agent = True
    ignore_retriever = True

    def __init__(self, driver: RunDriver) -> None:
        self._driver = driver
        self._asked: dict[UUID, tuple[Attempt, str]] = {}
        self._lock = threading.Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's name
        messages: list[list[Any]],  # noqa: ARG002 - LangChain's name
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._began(run_id, kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's name
        prompts: list[str],  # noqa: ARG002 - LangChain's name
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._began(run_id, kwargs)

    def on_llm_error(
        self,
        error: BaseException,  # noqa: ARG002 - LangChain's name
        *,
        run_id: UUID,
        **_: Any,
    ) -> None:
        with self._lock:
            self._asked.pop(run_id, None)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        with self._lock:
            attempt, asked = self._asked.pop(run_id, (None, ""))
        if attempt is None or not response.generations or not response.generations[0]:
            return
        replies = list(response.generations[0])
        if id(replies[0]) in attempt.counted:
            return
        spent = usage_of(replies, asked, self._driver.prices, response.llm_output)
        if spent is not None:
            self._driver.journal.append([self._driver.used(attempt, spent)], durable=False)

    def _began(self, run_id: UUID, said: dict[str, Any]) -> None:
        inside = current()
        if inside is not None and inside[0] is self._driver:
            parameters = said.get("invocation_params") or {}
            asked = (
                (said.get("metadata") or {}).get("ls_model_name")
                or parameters.get("model_name")
                or parameters.get("model")
                or said.get("name")
                or "model"
            )
            with self._lock:
                self._asked[run_id] = (inside[1], str(asked))
