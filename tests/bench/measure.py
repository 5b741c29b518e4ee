"""What the benchmarks share: a place for their files, interleaved rounds, and the report."""

from __future__ import annotations

import gc
import os
import secrets
import statistics
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random

T = TypeVar("T")

_PACKAGE = __package__ or "bench"
ROOT = Path(__file__).parents[len(_PACKAGE.split("."))]
"""Where `python -m` finds this package: it is `tests.bench`, and under pytest `bench`."""


@dataclass(kw_only=True)
class Bench:
    """How a benchmark is run, and what it found.

    Attributes:
        rng: Orders the arms and makes the texts.
        small: Whether only the smallest size is run, to see that it runs.
        full: Whether what takes minutes to make is made as large as the bars say.
        say: Takes each line of the report.
        missed: The bars that were missed, one line each.
    """

    rng: Random
    small: bool = False
    full: bool = False
    say: Callable[[str], None] = print
    missed: list[str] = field(default_factory=list)

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
        if self.small:
            self.say(f"  {line}: not judged at this size")
            return
        self.say(f"  {line}: {'met' if met else 'MISSED'}")
        if not met:
            self.missed.append(line)


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


def quartiles(values: Sequence[float], form: str = ".2f") -> str:
    """Return ` (quartiles a-b of n rounds)`, or "" where there is one value only."""
    if len(values) < 2:
        return ""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f" (quartiles {low:{form}}-{high:{form}} of {len(values)} rounds)"


def child(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package; its working folder is `ROOT`."""
    return [sys.executable, "-m", f"{_PACKAGE}.{name}", *map(str, arguments)]
