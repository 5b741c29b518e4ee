"""What the benchmarks share: a place for their files, interleaved rounds, and the report."""

from __future__ import annotations

import gc
import os
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random

T = TypeVar("T")

_PACKAGE = __package__ or "bench"
ROOT = Path(__file__).parents[len(_PACKAGE.split("."))]
"""Where `python -m` finds this package: it is `tests.bench`, and under pytest `bench`."""


class Cost(NamedTuple):
    """What some work took, in seconds.

    Attributes:
        wall: By the clock.
        cpu: Of this process, all its threads; None where another process did the work.
    """

    wall: float
    cpu: float | None = None


@dataclass(kw_only=True)
class Bench:
    """How a benchmark is run, and what it found.

    Attributes:
        rng: Orders the arms and makes the texts.
        small: Whether only the smallest size is run, to see that it runs.
        full: Whether what takes minutes to make is made as large as the bars say.
        say: Takes each line of the report.
        missed: The bars that were missed, one line each.
        lines: What was reported and is neither a row nor a bar.
        bars: What was compared with a bar.
        rows: What several systems did, value by value.
        kept: Whatever else a page or a plot is made of, by name; it has to fit into JSON.
    """

    rng: Random
    small: bool = False
    full: bool = False
    say: Callable[[str], None] = print
    missed: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what benchmarks say for the page."""
        self._print = self.say
        self.say = self._note

    def size(self, usual: int, small: int, full: int | None = None) -> int:
        """Return the number that counts for this run."""
        if self.small:
            return small
        return usual if full is None or not self.full else full

    def judge(self, what: str, value: float, bar: float, *, spread: str = "") -> None:
        """Report a value that must not be above a bar."""
        self.verdict(f"{what} {value:.2f}{spread}; bar ≤ {bar:g}", met=value <= bar)

    def verdict(self, line: str, *, met: bool) -> None:
        """Report a line that is met or missed; the smallest sizes are not judged."""
        said = "not judged at this size" if self.small else "met" if met else "MISSED"
        self.bars.append({"line": line, "said": said})
        self._print(f"  {line}: {said}")
        if not met and not self.small:
            self.missed.append(line)

    def compare(
        self,
        name: str,
        work: str,
        arms: Mapping[str, Callable[[], Cost]],
        *,
        rounds: int,
        unit: str = "ms",
        per: int = 1,
    ) -> dict[str, list[Cost]]:
        """Have several systems do one work in interleaved rounds, and keep it as a row.

        Args:
            name: The row's own name.
            work: What is done, for people.
            arms: By system: does it once and returns what it cost.
            rounds: How often; a first round comes before and is not counted.
            unit: What a value is; it begins with "ms".
            per: How many units of work there are in one call of an arm.

        Returns:
            What each round cost, divided by `per`, by system.
        """
        found = {
            system: [Cost(c.wall / per, None if c.cpu is None else c.cpu / per) for c in costs]
            for system, costs in interleave(self, arms, rounds=rounds).items()
        }
        values = {
            system: {
                "values": [round(cost.wall * 1e3, 4) for cost in costs],
                "cpu": [round(cost.cpu * 1e3, 4) for cost in costs if cost.cpu is not None],
            }
            for system, costs in found.items()
        }
        self.row(name, work, unit, values)
        return found

    def row(
        self, name: str, work: str, unit: str, systems: Mapping[str, Mapping[str, list[float]]]
    ) -> None:
        """Keep and report a row.

        Args:
            name: Its own name.
            work: What is done, for people.
            unit: What a value is.
            systems: By system: "values", one a round, and "cpu", the same or none.
        """
        self.rows.append({"name": name, "work": work, "unit": unit, "systems": systems})
        self._print(f"  {work}, {unit}:")
        for system, of in systems.items():
            cpu = f"; CPU {statistics.median(of['cpu']):.3f}" if of["cpu"] else ""
            spread = quartiles(of["values"], ".3f")
            self._print(f"    {system}: {statistics.median(of['values']):.3f}{spread}{cpu}")

    def _note(self, line: str) -> None:
        self.lines.append(line.strip())
        self._print(line)


@contextmanager
def sandbox() -> Iterator[Path]:
    """Give a folder for files, with a master key of its own; both are gone afterwards.

    Processes that are started inside may keep what they compile: a package that is compiled anew
    each time would be compared with packages that pip compiled once.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        key = secrets.token_hex(32)
        with patch.dict(os.environ, JUPYTER_DATA_DIR=str(home / "data"), NOTEBOOK_AGENTS_KEY=key):
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            yield home


def interleave(
    bench: Bench, arms: Mapping[str, Callable[[], T]], *, rounds: int
) -> dict[str, list[T]]:
    """Run every arm once a round, in an order that is shuffled anew; return what each gave.

    The machine's own moods then fall on all arms alike. A first round is not counted.
    """
    found: dict[str, list[T]] = {name: [] for name in arms}
    for number in range(1 if bench.small else 1 + rounds):
        for name in bench.rng.sample(list(arms), len(arms)):
            gc.collect()
            value = arms[name]()
            if number or bench.small:
                found[name].append(value)
    return found


def cost(work: Callable[[], object]) -> Cost:
    """Return what a call took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def cuts(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def quartiles(values: Sequence[float], form: str = ".2f") -> str:
    """Return ` (quartiles a-b of n rounds)`, or "" where there is one value only."""
    if len(values) < 2:
        return ""
    low, _, high = cuts(values)
    return f" (quartiles {low:{form}}-{high:{form}} of {len(values)} rounds)"


def child(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package; its working folder is `ROOT`."""
    return [sys.executable, "-m", f"{_PACKAGE}.{name}", *map(str, arguments)]
