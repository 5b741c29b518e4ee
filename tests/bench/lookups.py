"""What it costs to look at a thread that was just driven: its newest state, and its history."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from .measure import Bench, Cost, cost, sandbox
from .size import JUDGED, conversation
from .systems import CONFIG, MEMORY, SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .systems import Opened, Opening

ROUNDS = 15
TIMES = 10
LAST = 20


def run(bench: Bench) -> None:
    """Compare the systems."""
    with sandbox() as home:
        rows(bench, home, {name: SYSTEMS[name] for name in SYSTEMS if name != MEMORY})


def rows(bench: Bench, home: Path, systems: Mapping[str, Opening]) -> None:
    """Measure both rows on one conversation, which every system holds open."""
    steps, seed = bench.size(250, 5), bench.rng.randrange(2**32)
    builder = conversation(steps, JUDGED, seed)
    with ExitStack() as stack:
        opened: dict[str, Opened] = {}
        for name, opening in systems.items():
            folder = home / name
            folder.mkdir()
            opened[name] = stack.enter_context(opening(folder))
            opened[name].run(builder, {"n": 0, "messages": []})
        work = f"get_tuple: the newest state, {2 * steps} messages, in the process that wrote it"
        _row(bench, "newest", work, opened, _newest, times=TIMES)
        for system in opened.values():
            system.settle()
        work = f"list: the last {LAST} checkpoints of that thread (ours from DuckDB)"
        _row(bench, "history", work, opened, _history, times=1)


def _row(
    bench: Bench,
    name: str,
    work: str,
    opened: Mapping[str, Opened],
    look: Callable[[Opened], object],
    *,
    times: int,
) -> None:
    arms = {system: partial(_once, at, look, times) for system, at in opened.items()}
    bench.compare(name, work, arms, rounds=ROUNDS, unit="ms", per=times)


def _once(system: Opened, look: Callable[[Opened], object], times: int) -> Cost:
    return cost(lambda: [look(system) for _ in range(times)])


def _newest(system: Opened) -> Any:
    found = system.saver.get_tuple(CONFIG)
    assert found is not None
    return found


def _history(system: Opened) -> Any:
    found = list(system.saver.list(CONFIG, limit=LAST))
    assert found
    return found
