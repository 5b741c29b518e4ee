"""Each model call of a node is a step of its own, without the node's code changing.

LangChain asks a cache before it asks a model, and tells it the reply. So a cache is put before the
user's own (`langchain_core.globals.set_llm_cache`): inside a step, a call's intent is on disk
before the model is asked, and its reply is recorded before the caller gets it. Outside a run the
cache only hands on to the user's.

A call is known by what it sends: the messages and the model's parameters. Equal calls in one step
are interchangeable: one that is made again first gets the replies that are there.

What this does not see, because LangChain asks no global cache for it: `.stream()` and `.astream()`,
models with `cache=False`, models with a cache object of their own. The step around such a call is
journaled all the same, and its tokens are counted. LangChain does not tell a cache that a call
failed: such a call ends, failed, with the step around it.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from notebook_agents import ids
from notebook_agents.errors import ValueNotKeptError
from notebook_agents.graph.usage import RecordedReply, RecordedText, usage_of
from notebook_agents.runtime import previews
from notebook_agents.runtime.digests import digest
from notebook_agents.runtime.driver import Attempt
from notebook_agents.runtime.steps import current

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import RunDriver, StepState

_logger = logging.getLogger("notebook_agents.graph")
_handing_on: ContextVar[bool] = ContextVar("na_handing_on", default=False)
_installing = threading.Lock()
_READ_PROMPT = 256 * 1024  # characters of a prompt that are read for its preview: 2 ms
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MODEL = re.compile(r"\('model(?:_name|_id)?', '([^']+)'\)")


def journal_model_calls() -> None:
    """Put a journaling cache before whatever is LangChain's global cache now."""
    if not isinstance(get_llm_cache(), JournalCache):
        with _installing:
            before = get_llm_cache()
            if not isinstance(before, JournalCache):
                set_llm_cache(JournalCache(before))


class JournalCache(BaseCache):
    """A LangChain cache that journals the model calls of a step, chained to the user's own.

    Args:
        inner: The user's own cache, or None.
    """

    def __init__(self, inner: BaseCache | None) -> None:
        self.inner = inner

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the recorded reply, or the user's cache's; else have the intent on disk."""
        call = _Call.here(prompt, llm_string)
        if call is not None and (recorded := call.recorded()) is not None:
            return recorded
        found: Sequence[Generation] | None = None
        if self.inner is not None:
            with _hands_on():
                found = self.inner.lookup(prompt, llm_string)
        if call is None:
            return found  # type: ignore[return-value]  # as the user's cache has it
        if isinstance(found, list):
            replies, drafts = call.found(found)
            call.driver.journal.append(drafts, durable=False)
            return replies
        attempt, intent = call.begin(prompt)
        call.driver.journal.append([intent], durable=True)
        call.driver.intended(attempt)
        return None

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Do as `lookup` without blocking the event loop."""
        call = _Call.here(prompt, llm_string)
        if call is not None and (recorded := call.recorded()) is not None:
            return recorded
        found: Sequence[Generation] | None = None
        if self.inner is not None:
            with _hands_on():
                found = await self.inner.alookup(prompt, llm_string)
        if call is None:
            return found  # type: ignore[return-value]  # as the user's cache has it
        if isinstance(found, list):
            replies, drafts = call.found(found)
            await call.driver.journal.append_async(drafts, durable=False)
            return replies
        attempt, intent = call.begin(prompt)
        await call.driver.journal.append_async([intent], durable=True)
        call.driver.intended(attempt)
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Record a reply and tell the user's cache."""
        if (answered := _answered(prompt, llm_string, return_val)) is not None:
            driver, attempt, drafts = answered
            driver.journal.append(drafts, durable=False)
            driver.recorded(attempt)
        if self.inner is not None:
            with _hands_on():
                self.inner.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Do as `update` without blocking the event loop."""
        if (answered := _answered(prompt, llm_string, return_val)) is not None:
            driver, attempt, drafts = answered
            # A cancellation in here loses nothing: the writer has the drafts.
            await driver.journal.append_async(drafts, durable=False)
            driver.recorded(attempt)
        if self.inner is not None:
            with _hands_on():
                await self.inner.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """Clear the user's cache; what is journaled stands."""
        if self.inner is not None:
            self.inner.clear(**kwargs)

    async def aclear(self, **kwargs: Any) -> None:
        """Clear the user's cache; what is journaled stands."""
        if self.inner is not None:
            await self.inner.aclear(**kwargs)


@dataclass(frozen=True, slots=True)
class _Call:
    """A model call inside a step, at the moment in which it is made."""

    driver: RunDriver
    outer: Attempt
    name: str
    digest: str
    step: StepState

    @classmethod
    def here(cls, prompt: str, llm_string: str) -> _Call | None:
        """Return the call that is made here, in a place of its own; None where none is journaled.

        Of equal calls, replies that are recorded are given first, in their order; then come calls
        that have no reply yet, and then new ones.
        """
        inside = current()
        if inside is None or _handing_on.get():
            return None
        driver, outer = inside
        name, stands_for = _identity(prompt, llm_string)
        free: StepState | None = None
        number = 0
        with outer.lock:
            while True:
                step_id = ids.call_step_id(outer.step.id, name, stands_for, number)
                step = driver.known(step_id)
                if step is None:
                    break
                if step_id not in outer.taken:
                    if step.returned is not None:
                        free = step
                        break
                    free = free or step
                number += 1
            step = free or driver.step(step_id, name=name, parent=outer.step.id, ns=outer.step.ns)
            outer.taken.add(step.id)
            step.used = True
            if step.returned is not None:
                cls._close_doubtful(driver, outer, (name, stands_for), number)
        return cls(driver, outer, name, stands_for, step)

    @staticmethod
    def _close_doubtful(driver: RunDriver, outer: Attempt, key: tuple[str, str], upto: int) -> None:
        """Have calls that were left without a reply, and asked anew, end with the step around."""
        for number in range(upto):
            step = driver.known(ids.call_step_id(outer.step.id, *key, number))
            if step is not None and step.in_doubt and step.id not in outer.taken:
                outer.taken.add(step.id)
                outer.unanswered.setdefault(key, []).insert(0, Attempt(step, step.attempts))

    def recorded(self) -> list[Generation] | None:
        """Return the recorded replies."""
        if self.step.returned is None:
            return None
        return _recorded(self.driver.result(self.step))

    def begin(self, prompt: str) -> tuple[Attempt, Draft]:
        """Begin to ask the model; the intent must be on disk before."""
        attempt, intent = self.driver.intend(self.step, _asked_last(prompt))
        with self.outer.lock:
            self.outer.unanswered.setdefault((self.name, self.digest), []).append(attempt)
        return attempt, intent

    def found(self, replies: list[Generation]) -> tuple[list[Generation], list[Draft]]:
        """Take what the user's cache had: nobody is asked, and a resume shall have it too."""
        kept = _kept([_from_cache(reply) for reply in replies])
        attempt, intent = self.driver.intend(self.step)
        drafts = [intent, *_result(self.driver, attempt, kept)]
        return _recorded(kept), drafts


def _answered(
    prompt: str, llm_string: str, replies: Sequence[Generation]
) -> tuple[RunDriver, Attempt, list[Draft]] | None:
    """Return the drafts of a reply; None where its call is not journaled, or its step ended."""
    inside = current()
    if inside is None or _handing_on.get():
        return None
    driver, outer = inside
    key = _identity(prompt, llm_string)
    with outer.lock:
        calls = outer.unanswered.get(key)
        if not calls:
            return None
        attempt = calls.pop()  # after a call that failed comes the one that was made instead
    drafts = []
    if replies and isinstance(
        replies[0], ChatGeneration
    ):  # of others the callbacks know what they took
        outer.counted[id(replies[0])] = replies[0]
        if (spent := usage_of(list(replies), attempt.step.name, driver.prices)) is not None:
            drafts.append(driver.used(attempt, spent))
    drafts += _result(driver, attempt, _kept(replies))
    return driver, attempt, drafts


def _result(driver: RunDriver, attempt: Attempt, kept: dict[str, list[Any]]) -> list[Draft]:
    try:
        return driver.returned(attempt, kept)
    except ValueNotKeptError as error:
        # The node never asked for its calls to be kept, so it must not fail for it.
        _logger.warning(
            "a reply of %s is given but not recorded, a resume would ask again: %s",
            attempt.step.name,
            error,
        )
        return driver.failed(attempt, error)


def _identity(prompt: str, llm_string: str) -> tuple[str, str]:
    """Return the model's name, and a digest of all that is sent.

    What is sent stays out of sight: it may hold what nobody shall read in a column.
    """
    stands_for = digest((prompt, _ADDRESS.sub("", llm_string)), "a model call", instead="")
    return _model_name(llm_string), stands_for


def _asked_last(prompt: str) -> str:
    """Return a preview of the last message of a prompt, which LangChain hands over as JSON."""
    told: Any = None
    if len(prompt) <= _READ_PROMPT:
        with suppress(ValueError):
            told = json.loads(prompt)
    if not isinstance(told, list) or not told or not isinstance(told[-1], dict):
        return previews.of_value(prompt)
    message = told[-1].get("kwargs") or {}
    said = previews.of_value(message.get("content", ""))
    return f"{message.get('type', 'message')}: {said}" + (
        f" after {len(told) - 1} more" if len(told) > 1 else ""
    )


def _model_name(llm_string: str) -> str:
    """Return the name of the model that LangChain's description of it gives."""
    if llm_string.startswith("{"):
        try:
            told, _ = json.JSONDecoder().raw_decode(llm_string)
        except ValueError:
            told = {}
        arguments = told.get("kwargs") or {}
        for name in ("model_name", "model", "model_id", "deployment_name"):
            if isinstance(arguments.get(name), str):
                return str(arguments[name])
        if isinstance(told.get("id"), list) and told["id"]:
            return str(told["id"][-1])
    found = _MODEL.search(llm_string)
    return found[1] if found else "model"


def _kept(replies: Sequence[Generation]) -> dict[str, list[Any]]:
    """Return what is recorded of replies.

    A message stands in a list, as it will in the state, so it is stored once.
    """
    kinds = {type(reply) for reply in replies}
    if kinds == {ChatGeneration}:
        content = {"messages": [reply.message for reply in replies]}  # type: ignore[attr-defined]
    elif kinds == {Generation}:
        content = {"texts": [reply.text for reply in replies]}
    else:  # a provider's own
        return {"replies": list(replies)}
    return {**content, "infos": [reply.generation_info for reply in replies]}


def _recorded(kept: dict[str, list[Any]]) -> list[Generation]:
    """Return recorded replies as LangChain takes them from a cache."""
    if "replies" in kept:
        return [
            RecordedReply(message=reply.message, generation_info=reply.generation_info)
            if isinstance(reply, ChatGeneration)
            else RecordedText(text=reply.text, generation_info=reply.generation_info)
            for reply in kept["replies"]
        ]
    if "texts" in kept:
        pairs = zip(kept["texts"], kept["infos"], strict=True)
        return [RecordedText(text=text, generation_info=info) for text, info in pairs]
    return [
        RecordedReply(message=message.model_copy(), generation_info=info)
        for message, info in zip(kept["messages"], kept["infos"], strict=True)
    ]


def _from_cache(reply: Generation) -> Generation:
    """Return a reply as LangChain gives it out of a cache: with a cost of 0."""
    message = getattr(reply, "message", None)
    if not isinstance(reply, ChatGeneration) or not isinstance(message, AIMessage):
        return reply
    free: Any = {**(message.usage_metadata or {}), "total_cost": 0}
    return ChatGeneration(
        message=message.model_copy(update={"usage_metadata": free}),
        generation_info=reply.generation_info,
    )


@contextmanager
def _hands_on() -> Iterator[None]:
    """Ask the user's cache: an older cache of ours in its chain only hands on."""
    token = _handing_on.set(True)
    try:
        yield
    finally:
        _handing_on.reset(token)
