"""Found by reading the graph package afresh: each was wrong once."""

from __future__ import annotations

import gc
import operator
import weakref
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send, interrupt
from support.checks import chain

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from support.running import Ledger


def test_an_error_that_a_node_went_past_to_ask_is_met_again(
    journal: na.Journal, ledger: Ledger
) -> None:
    """What a person was asked because of an error is not overtaken by a call made anew."""

    @na.step
    def charge(card: str) -> str:
        ledger.note(card)
        if len(ledger.lines()) == 1:
            raise ValueError("declined")
        return "paid with " + card

    def node(state: Any) -> Any:
        try:
            said = charge("first")
        except ValueError:
            said = charge(interrupt("which other card?"))
        return {"items": [said]}

    agent = na.Agent(chain(node), "shop", journal)
    assert agent.run({"n": 1}, thread="t").status is RunStatus.WAITING
    run = agent.resume("t", answer="second")
    assert run.value["items"] == ["paid with second"]
    assert ledger.lines() == ["first", "second"]


class Unkeepable(TypedDict, total=False):
    wrapped: Annotated[Any, lambda _old, new: lambda: new]
    done: Annotated[list[int], operator.add]


@pytest.mark.parametrize("retry", [None, RetryPolicy(max_attempts=3, initial_interval=0.01)])
def test_no_node_runs_on_a_checkpoint_that_cannot_be_kept(
    journal: na.Journal, ledger: Ledger, retry: RetryPolicy | None
) -> None:
    """Where a state cannot be stored none of the nodes behind it has an effect."""

    def work(state: Any) -> Any:
        ledger.note(str(state["number"]))
        return {"done": [state["number"]]}

    builder = StateGraph(Unkeepable)
    builder.add_node("wrap", lambda _: {"wrapped": 1})
    builder.add_node("work", work, retry_policy=retry)
    builder.add_edge(START, "wrap")
    builder.add_conditional_edges(
        "wrap", lambda _: [Send("work", {"number": n}) for n in range(4)], ["work"]
    )
    agent = na.Agent(builder, "it", journal)
    with pytest.raises((errors.ValueNotKeptError, errors.JournalWriteError), match="wrapped"):
        agent.run({"wrapped": 0}, thread="t")
    assert ledger.lines() == []


class Big(list[int]):
    """A value whose life can be watched."""


def test_a_long_run_does_not_hold_what_its_steps_returned(journal: na.Journal) -> None:
    """What a step returned is in the journal, and no longer in memory when nobody uses it."""
    alive: list[weakref.ref[Big]] = []
    most = 0

    @na.step
    def call(number: int) -> Any:
        made = Big([number] * 1000)
        alive.append(weakref.ref(made))
        return {"big": made}

    def node(state: Any) -> Any:
        nonlocal most
        call(state["n"])
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return {"n": state["n"] + 1}

    builder = StateGraph(_Counter).add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", lambda s: "node" if s["n"] < 12 else "__end__")
    run = na.Agent(builder, "it", journal).run({"n": 0}, thread="t")
    assert run.value["n"] == 12
    assert most <= 3


class _Counter(TypedDict):
    n: int
