"""The benchmarks run; what they measure is judged by `make bench` alone, never by a test."""

from __future__ import annotations

import shutil
from importlib import import_module
from random import Random

import pytest
from bench.__main__ import NAMES
from bench.measure import Bench


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_smallest_size(name: str) -> None:
    """Every benchmark runs to its end and prints a value beside what it is compared with."""
    if name == "fsyncs" and shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    lines: list[str] = []

    import_module(f"bench.{name}").run(Bench(rng=Random(1), small=True, say=lines.append))

    assert any("; bar " in line for line in lines), "\n".join(lines)
