"""Who operates on the journal of a modelled life: this process, one beside it, one that is killed.

Each has the journal open for itself. What a process that died had acknowledged stands in a file.
"""

from __future__ import annotations

import operator
import os
import signal
import traceback
import uuid
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from crash.processes import HUNG_SECONDS, fork
from langgraph.graph import START, StateGraph

import notebook_agents as na
from notebook_agents import faults
from support.dictionary import Desk, Held, Model, Wrote
from support.running import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.dictionary import At, Glance, Operation, Seen

AGENT = "modelled"


class Lines(TypedDict, total=False):
    """The state of the agent's graph."""

    lines: Annotated[list[str], operator.add]


@na.step
def work(line: str) -> list[str]:
    """Return what no second call would return."""
    return [f"{line} {uuid.uuid4()}", "long " * (len(line) % 2 * 100), *"small"]


def grow(state: Lines) -> Lines:
    """Add to the state: a node."""
    return {"lines": work(state["lines"][-1])}


def agent(journal: na.Journal) -> na.Agent:
    """Return the agent."""
    graph = StateGraph(Lines).add_node("grow", grow).add_edge(START, "grow")
    return na.Agent(graph, AGENT, journal)


@dataclass
class Run:
    """Have the agent run on a thread: many records, one after the other.

    Done again it goes on, or gives what it gave.
    """

    thread: str
    line: str

    def do(self, desk: Desk) -> None:
        agent(desk.journal).run({"lines": [self.line]}, thread=self.thread, key=self.line)


@dataclass
class Resume:
    """Have the agent go on with a thread."""

    thread: str

    def do(self, desk: Desk) -> None:
        agent(desk.journal).resume(self.thread)


@dataclass
class Fork:
    """Fork an agent's thread, at a checkpoint or whole."""

    source: str
    target: str
    at: str | None

    def do(self, desk: Desk) -> None:
        agent(desk.journal).fork(self.source, at=self.at, name=self.target)


def adopt(model: Model, seen: Seen, thread: str) -> None:
    """Take over what LangGraph chose for itself on an agent's thread: ids, versions, tokens."""
    model.drop(lambda at: at.thread == thread)
    for at, prior, values, versions, metadata, pending in seen.listed:
        if at.thread != thread:
            continue
        model.count += 1
        model.held[at] = Held(model.count, prior, values, versions, metadata)
        model.wrote[at] = [
            Wrote(f"{place:04}", task, place, channel, value)
            for place, (task, channel, value) in enumerate(pending)
        ]
    model.threads.add(thread)
    model.results[thread] = seen.results[thread]
    model.answers[thread] = seen.answers[thread]


class Beside:
    """A second process that has the journal open."""

    def __init__(self, home: Path, log: Path) -> None:
        self._here, there = Pipe()

        def serve() -> None:
            self._here.close()
            desk = Desk(home)
            while True:
                try:
                    what = there.recv()
                except EOFError:
                    break
                try:
                    there.send((getattr(desk, what[0])(*what[1:]), None))
                except Exception:
                    there.send((None, traceback.format_exc()))
            desk.close()

        self._child = fork(serve, log)
        there.close()

    def do(self, what: Operation) -> None:
        """Have it do something."""
        self._ask("do", what)

    def look(self) -> Seen:
        """Have it look at everything."""
        seen: Seen = self._ask("look")
        return seen

    def glance(self) -> Glance:
        """Have it look at what is newest."""
        glance: Glance = self._ask("glance")
        return glance

    def _ask(self, *what: Any) -> Any:
        self._here.send(what)
        assert self._here.poll(HUNG_SECONDS), f"it hangs in {what}: {self._child.log}"
        answer, error = self._here.recv()
        assert error is None, error
        return answer

    def end(self) -> None:
        """Have it close the journal and end."""
        self._here.close()
        assert self._child.end() == 0, self._child.log.read_text()

    def kill(self) -> None:
        """Kill it where it waits."""
        self._child.kill()
        self._here.close()
        self._child.end()


def killed(
    home: Path,
    scratch: Path,
    operations: Sequence[Operation],
    *,
    at: faults.Fault | None,
    hit: int,
    desk: Desk | None,
) -> int:
    """Have a process killed while, or after, it operates; return how many it acknowledged.

    Args:
        home: The journal.
        scratch: A directory for its log and what it acknowledged.
        operations: What it does.
        at: The fault point at which it is killed during the last one; None, or never reached: when
            it has acknowledged that too.
        hit: How often it passes there before.
        desk: What it inherits and uses; None: it opens the journal itself.
    """
    ledger = Ledger(scratch / f"acknowledged-{uuid.uuid4()}")

    def live() -> None:
        used = desk or Desk(home)
        passed = 0

        def reached(fault: faults.Fault) -> None:
            nonlocal passed
            passed += fault is at
            if passed > hit:
                os.kill(os.getpid(), signal.SIGKILL)

        for number, one in enumerate(operations):
            if number == len(operations) - 1:
                faults.arm(reached)
            one.do(used)
            ledger.note(number)
        os.kill(os.getpid(), signal.SIGKILL)

    child = fork(live, scratch / "killed.log")
    code = child.end()
    assert code == -signal.SIGKILL, child.log.read_text()
    return len(ledger.lines())


def own(at: At) -> bool:
    """Whether a checkpoint was put by the test itself and not by LangGraph."""
    return at.id.startswith("2")
