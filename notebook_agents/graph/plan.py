"""What a call of `run` or `resume` comes down to, and what of it is kept for a resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.journal.values import Decoder, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_core.runnables import RunnableConfig

    from notebook_agents.graph import people
    from notebook_agents.graph.usage import Prices
    from notebook_agents.journal import Journal, Record
    from notebook_agents.runtime.origin import Origin

_KEPT_CONFIG = ("tags", "metadata", "recursion_limit", "run_name", "max_concurrency")


class Asked(NamedTuple):
    """What a call of `run` was given.

    Attributes:
        given: The input.
        said: Its digest.
        origin: Where the call was made.
        thread: The thread that it means.
    """

    given: Any
    said: str
    origin: Origin
    thread: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a call of `run` comes down to.

    Attributes:
        thread: The thread's name.
        number: The run's number.
        session: 1 to start it, more to resume it, 0 where its answer is stored.
        given: What LangGraph is given; None goes on behind the newest checkpoint.
        config: LangGraph's config.
        context: The graph's runtime context.
        started: What the run's first record holds, if this is its start.
        digest: The input's keyed digest, if this is its start.
        last_superstep: The last superstep that the recursion limit allows, if this is a resume.
        prices: What models cost.
        replies: The answers that it starts with, if this is a resume.
        origins: The threads that this one was forked from.
    """

    thread: str
    scope: str
    number: int
    session: int
    given: Any = None
    config: RunnableConfig | None = None
    context: Any = None
    started: dict[str, Any] | None = None
    digest: bytes | None = None
    last_superstep: int | None = None
    prices: Prices | None = None
    replies: people.Replies | None = None
    origins: tuple[str, ...] = ()


def read_parts(journal: Journal, record: Record, names: Iterable[str]) -> dict[str, Any]:
    """Return the named parts of a run's first record.

    Raises:
        SealError: The record does not open.
    """
    trees = unpack(journal.payload(record.seq))
    decoder = Decoder(ResultCodec(strict_serializer()), journal.parts)
    return {name: decoder.decode(trees[name], record.refs) for name in names}


def kept_config(config: RunnableConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the part of a config that a resume gets back."""
    given = dict(config or {})
    kept = {name: given[name] for name in _KEPT_CONFIG if name in given}
    configurable = dict(given.get("configurable") or {})
    configurable.pop("thread_id", None)
    return {**kept, "configurable": configurable}


def run_config(config: RunnableConfig | Mapping[str, Any] | None, thread: str) -> RunnableConfig:
    """Return LangGraph's config for a run of `thread`."""
    given: dict[str, Any] = dict(config or {})
    given["configurable"] = {**(given.get("configurable") or {}), "thread_id": thread}
    return given  # type: ignore[return-value]  # a plain dict until here
