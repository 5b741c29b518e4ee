"""A live process in the middle of a node, which others meet."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from crash.processes import Child, fork

import notebook_agents as na
from support.checks import State, chain
from support.running import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Held:
    """A live process in the middle of a node of thread `t`.

    Attributes:
        agent: The agent's name.
        child: The process.
        let_go: Has it go on; returns its exit code.
    """

    agent: str
    child: Child
    let_go: Callable[[], int]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def stop(self) -> None:
        """Send SIGSTOP, and return when it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.child.log.read_text()


@contextmanager
def holding(
    home: Path,
    folder: Path,
    *behind: Callable[[State], State],
    before: Callable[[], None] = lambda: None,
) -> Iterator[Held]:
    """Have another process drive thread `t` until it is let go.

    Args:
        home: The journal.
        folder: Where its log goes.
        behind: The nodes behind the one that it stays in.
        before: What it does first.
    """
    inside, gate = os.pipe(), os.pipe()
    entered = Ledger(folder / "entered")
    agent = f"holding-{folder.name}"  # no other test has an agent of this name alive

    def node(state: State) -> State:
        if entered.note(os.getpid()) == 1:
            os.write(inside[1], b"x")
            os.read(gate[0], 1)
        return {"n": 7}

    def program() -> None:
        before()
        with na.Journal.open(home) as journal:
            na.Agent(chain(node, *behind), agent, journal).run({"n": 1}, thread="t")

    child = fork(program, folder / "held.log")
    os.close(inside[1])
    assert os.read(inside[0], 1) == b"x", child.log.read_text()
    ended: list[int] = []

    def let_go() -> int:
        os.write(gate[1], b"x")
        ended.append(child.end())
        return ended[0]

    held = Held(agent, child, let_go)
    try:
        yield held
    finally:
        if not ended:
            held.go_on()
            let_go()
        for descriptor in (inside[0], *gate):
            os.close(descriptor)


@pytest.fixture
def held(home: Path, tmp_path: Path) -> Iterator[Held]:
    """Have another process drive thread `t` until it is let go."""
    with holding(home, tmp_path) as one:
        yield one


def until(condition: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait until something holds; return after how many seconds it did."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it never came true"
        time.sleep(0.005)
    return time.monotonic() - begun
