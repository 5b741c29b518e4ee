"""`python -m tests.bench [NAME …]`: what is claimed, measured here and now."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from random import Random, SystemRandom

import click

from notebook_agents.journal.queue_file import file_system

from .measure import Bench

NAMES = (
    "imports",
    "fsyncs",
    "size",
    "growth",
    "resume",
    "overhead",
    "many",
    "compact",
    "reading",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--seed", type=int, help="Repeats the order and the texts of a run.")
@click.option("--small", is_flag=True, help="The smallest sizes: shows that everything runs.")
@click.option("--full", is_flag=True, help="Journals of a million records, where a bar is of one.")
def main(names: tuple[str, ...], seed: int | None, small: bool, full: bool) -> None:
    """Run the named benchmarks, or all; the exit code is 1 if a bar was missed."""
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    place = Path(tempfile.gettempdir())
    click.echo(
        f"seed {seed}; Python {platform.python_version()}, LangGraph {version('langgraph')}, "
        f"its sqlite saver {version('langgraph-checkpoint-sqlite')}; {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, files in {place} ({file_system(place) or 'unknown'})"
    )
    missed: list[str] = []
    for name in names or NAMES:
        click.echo(f"\n{name}: python -m tests.bench {name} --seed {seed}")
        bench = Bench(rng=Random(seed), small=small, full=full, say=click.echo)
        import_module(f"{__package__}.{name}").run(bench)
        missed += [f"{name}: {line}" for line in bench.missed]
    if not small:
        click.echo(f"\n{len(missed)} bars missed" if missed else "\nevery bar met")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
