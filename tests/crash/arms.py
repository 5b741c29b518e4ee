"""The ways in which trials are disturbed, each trial with a name that replays it.

A trial is a function of the seed and its name: `faults/fan-out/result.after@2/sigkill`,
`random/nested/17`, `interrupt/async/2`, `together/3`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import notebook_agents as na
from notebook_agents.faults import Fault
from notebook_agents.journal.check import check

from .catalogue import SHAPES
from .ledger import What
from .processes import fork
from .trial import Action, Armed, Plan, Tally, Trial, compact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .shapes import Shape

ARMS = ("faults", "random", "interrupt", "together")
HITS = (1, 2, 3, 5, 8)
"""Which passage of a fault point is disturbed, where the graph passes it that often."""
SLACK = 2
"""How many passages fewer than counted are relied on: how commits are grouped is chance."""
TOGETHER = 4
"""How many processes die at the same instant."""
CORES = os.cpu_count() or 1
COMPACTIONS = 3
"""How many a process that compacts beside others makes, if nobody kills it."""
DEATHS = 3
"""How many processes of a trial are disturbed at most before one is left alone."""

INGEST_FAULTS = frozenset(fault for fault in Fault if fault.name.startswith("INGEST"))
"""The points that are passed only when DuckDB takes records over; those trials let it."""
COMPACT_FAULTS = frozenset(fault for fault in Fault if fault.name.startswith("COMPACT"))
"""Those that a compaction passes, once; processes of those trials begin with one."""


def run_trial(name: str, seed: int) -> Tally:
    """Run the trial of this name.

    Raises:
        ValueError: No trial is called that.
    """
    arm, *parts = name.split("/")
    chance = Random(f"{seed}:{name}")  # to be repeated, not to be secret
    match arm, parts:
        case "faults", [shape, point, action] if shape in SHAPES:
            fault, _, hit = point.partition("@")
            armed = Armed(fault=Fault(fault), hit=int(hit), action=Action(action))
            return _in_folder(lambda at: _at_fault(name, SHAPES[shape], armed, chance, at))
        case "random", [shape, _] if shape in SHAPES:
            return _in_folder(lambda at: _at_random(name, SHAPES[shape], chance, at))
        case "interrupt", [shape, _] if shape in SHAPES:
            return _in_folder(lambda at: _interrupted(name, SHAPES[shape], chance, at))
        case "together", [_]:
            return _in_folder(lambda at: _all_at_once(name, chance, at))
    raise ValueError(f"no trial is called {name!r}")


def fault_trials(shape: str) -> Iterator[str]:
    """Name every trial at a fault point that runs of this shape reach."""
    passed = passages(shape)
    for fault, hit, action in itertools.product(Fault, HITS, Action):
        if fault.startswith("ingest.") and hit > 1:
            continue  # how many bursts a run needs is chance: on a busy machine one takes it all
        if hit <= max(passed[fault] - SLACK, min(passed[fault], 1)):
            yield f"faults/{shape}/{fault}@{hit}/{action}"


def endless(seed: int, arm: str = "all") -> Iterator[str]:
    """Name the trials of a long run, without end.

    Args:
        seed: What the mixture behind the first pass over the fault points is drawn with.
        arm: One of `ARMS`, or "all".
    """
    faulty = [name for shape in SHAPES for name in fault_trials(shape)]
    if arm in ("all", "faults"):
        yield from faulty
    chance = Random(seed)
    for number in itertools.count():
        for each in ("random", "interrupt"):
            if arm in ("all", each):
                yield from (f"{each}/{shape}/{number}" for shape in SHAPES)
        if arm in ("all", "together"):
            yield f"together/{number}"
        if arm in ("all", "faults"):
            yield chance.choice(faulty)


@cache
def passages(shape: str) -> dict[Fault, int]:
    """Count how often an undisturbed run of this shape passes each fault point, at least."""
    counted = {
        ingest: [
            _undisturbed(shape, ingest=ingest, on_loop=on_loop)[1] for on_loop in (False, True)
        ]
        for ingest in (False, True)
    }
    return {
        fault: min(each.get(fault, 0) for each in counted[fault in INGEST_FAULTS])
        for fault in Fault
        if fault not in COMPACT_FAULTS
    } | dict.fromkeys(COMPACT_FAULTS, 1)


@cache
def _undisturbed(shape: str, *, ingest: bool, on_loop: bool) -> tuple[float, dict[str, int]]:
    """Return the seconds and the passages of an undisturbed run: the shorter of two.

    Raises:
        AssertionError: It broke a rule, undisturbed.
    """
    measured: list[tuple[float, dict[str, int]]] = []

    def measure(folder: Path) -> Tally:
        trial = Trial(f"undisturbed/{shape}", SHAPES[shape], folder)
        begun = time.monotonic()
        trial.live(Plan(ingest=ingest, on_loop=on_loop))
        seconds = time.monotonic() - begun
        measured.extend(
            (seconds, line.value) for line in trial.lines() if line.what is What.COUNTED
        )
        return trial.judge()

    for _ in range(2):
        tally = _in_folder(measure)
        assert not tally.violations, tally.violations
    return min(measured, key=lambda each: each[0])


def _at_fault(name: str, shape: Shape, armed: Armed, chance: Random, folder: Path) -> Tally:
    ingest, compact = armed.fault in INGEST_FAULTS, armed.fault in COMPACT_FAULTS
    polite = armed.action is Action.TERMINATE and chance.random() < 0.5
    again = (polite or armed.action is Action.RAISE) and chance.random() < 0.5
    on_loop = chance.random() < 0.5
    first = Plan(armed=armed, ingest=ingest, again=again, polite=polite, on_loop=on_loop)
    plans = [replace(first, compact=compact)]
    while len(plans) < DEATHS and chance.random() < 0.5:
        other = Armed(
            fault=chance.choice(list(Fault)), hit=chance.choice((1, 2)), action=Action.KILL
        )
        plans.append(replace(_next_plan(chance, armed=other, ingest=ingest), compact=compact))
    return Trial(name, shape, folder).play(plans)


def _interrupted(name: str, shape: Shape, chance: Random, folder: Path) -> Tally:
    """Send SIGINT, which Python raises anywhere in the main thread; half the times go on there."""
    seconds = _undisturbed(shape.name, ingest=False, on_loop=False)[0]
    plans = [
        replace(
            _next_plan(chance, delay=chance.uniform(0, seconds), ingest=False),
            signal=signal.SIGINT,
            again=chance.random() < 0.5,
        )
        for _ in range(DEATHS)
    ]
    return Trial(name, shape, folder).play(plans)


def _at_random(name: str, shape: Shape, chance: Random, folder: Path) -> Tally:
    ingest = chance.random() < 0.3
    seconds = _undisturbed(shape.name, ingest=ingest, on_loop=False)[0]
    return Trial(name, shape, folder).play(
        _next_plan(chance, delay=chance.uniform(0, seconds), ingest=ingest) for _ in range(DEATHS)
    )


def _all_at_once(name: str, chance: Random, folder: Path) -> Tally:
    """Kill the processes of several threads of one journal with one signal, again and again."""
    shapes = [chance.choice(list(SHAPES.values())) for _ in range(TOGETHER)]
    trials = [
        Trial(name, shape, folder, thread=f"t{number}") for number, shape in enumerate(shapes)
    ]
    seconds = (
        sum(_undisturbed(shape.name, ingest=False, on_loop=False)[0] for shape in shapes) / CORES
    )
    going = trials
    tally = Tally()
    for _ in range(DEATHS):
        plan = _next_plan(chance, delay=chance.uniform(0, seconds), ingest=chance.random() < 0.3)
        going = [trial for trial in going if not trial.ended]
        if going:
            at = chance.uniform(0, seconds) if chance.random() < 0.7 else None
            killed, compacting = _live_together(going, plan, folder, compact_at=at)
            tally.instants += killed > 1
            tally.compactions += compacting == -signal.SIGKILL
            if compacting not in (0, -signal.SIGKILL):
                tally.violations.append(f"{name}: a compaction ended with {compacting}: {folder}")
    _live_together(trials, Plan(resume=True), folder)
    for trial in trials:
        tally.add(trial.judge())
    if fork(lambda: _compacts(folder, after=0, checks=True), folder / "compact.log").end():
        tally.violations.append(f"{name}: the journal is not whole at the end: {folder}")
    return tally


def _live_together(
    trials: list[Trial], plan: Plan, folder: Path, *, compact_at: float | None = None
) -> tuple[int, int]:
    """Give each trial a process of one group, and end them.

    Args:
        trials: The trials.
        plan: How each process lives.
        folder: Where their journal is.
        compact_at: Seconds after which one more process compacts it, again and again.

    Returns:
        How many were killed, and how that process ended.
    """
    before = sum(trial.tally.killed for trial in trials)
    leader = trials[0].begin(plan, group=0)
    for trial in trials[1:]:
        trial.begin(plan, group=leader.pid)
    compacting = None
    if compact_at is not None:
        body = partial(_compacts, folder, after=compact_at)
        compacting = fork(body, folder / "compact.log", group=leader.pid)
    if plan.delay is not None:
        leader.ends_within(plan.delay)
        leader.kill(group=True)
    for trial in trials:
        trial.end()
    ended = 0 if compacting is None else compacting.end()
    return sum(trial.tally.killed for trial in trials) - before, ended


def _compacts(folder: Path, *, after: float, checks: bool = False) -> None:
    """Compact the journal of a folder a few times; a child's body.

    Args:
        folder: The folder.
        after: When to begin, in seconds.
        checks: Whether the journal has to be whole afterwards.
    """
    os.environ["JUPYTER_DATA_DIR"] = str(folder / "data")
    time.sleep(after)
    with na.Journal.open(folder / "journal") as journal:
        for number in range(COMPACTIONS):
            compact(journal, f"gone {os.getpid()} {number}")
    if checks:
        found = check(folder / "journal")
        assert not found.findings, found.findings


def _next_plan(
    chance: Random, *, armed: Armed | None = None, delay: float | None = None, ingest: bool
) -> Plan:
    return Plan(
        armed=armed,
        delay=delay,
        resume=chance.random() < 0.7,
        audit=chance.random() < 0.5,
        ingest=ingest,
        on_loop=chance.random() < 0.5,
        optional=True,
    )


def _in_folder(run: Callable[[Path], Tally]) -> Tally:
    """Run a trial in a directory of its own, kept for a look if it broke a promise."""
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    tally = run(folder)
    if not tally.violations:
        shutil.rmtree(folder)
    return tally
