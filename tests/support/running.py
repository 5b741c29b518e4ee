"""Graphs to run and to kill, and a ledger of what they did that no kill reaches."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import notebook_agents as na
from notebook_agents.model import RunStatus
from support.checks import ask, chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.checks import State


class Ledger:
    """Lines in a file: what happened outside, kept where no kill reaches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, line: object) -> int:
        """Add a line; return how many there are."""
        with self.path.open("a") as file:
            file.write(f"{line}\n")
        return len(self.lines())

    def lines(self) -> list[str]:
        """Return all lines."""
        return self.path.read_text().splitlines() if self.path.exists() else []


def run(home: Path, *nodes: Callable[[State], Any], thread: str = "t") -> na.Run:
    """Run, or go on with, a graph of these nodes on a thread of the journal at `home`."""
    with na.Journal.open(home) as journal:
        done = na.Agent(chain(*nodes), "stepping", journal).run({"n": 0}, thread=thread)
        assert done.view  # read while the journal is open
        if done.status is RunStatus.SUCCEEDED:
            assert done.value
        return done


def named(done: na.Run) -> dict[str, na.Step]:
    """Return a run's steps by name."""
    return {step.name: step for step in done.steps}


class Fragile:
    """A two-step agent whose second node fails, waits or kills as long as it is told to.

    Attributes:
        agent: The agent.
        ran: The nodes that ran in this process.
        mood: What the second node does: "fail", "die", "wait", "doubt", or nothing.
    """

    def __init__(self, journal: na.Journal, *mood: str) -> None:
        self.ran = ran = list[str]()
        self.mood = told = set(mood)

        def first(state: State) -> State:
            ran.append("first")
            return {"items": ["first"]}

        @na.step(at_most_once=True)
        def effect() -> None:
            raise TimeoutError("no answer")

        def second(state: State) -> State:
            ran.append("second")
            if "fail" in told:
                raise RuntimeError("out of order")
            if "die" in told:
                os.kill(os.getpid(), signal.SIGKILL)
            if "wait" in told:
                return ask(state)
            if "doubt" in told:
                effect()
            return {"items": ["second"]}

        self.agent = na.Agent(chain(first, second), "fragile", journal)
