"""`python -m tests.bench [NAME …]`: what is claimed, measured here and now.

A benchmark is a module of this package with `run(bench)`, and its name in `NAMES`; what it gives to
`bench.compare`, `judge`, `say` and `kept` is on the page of the next `make bench`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import click

from . import page
from .facts import facts
from .measure import Bench

NAMES = (
    "imports",
    "fsyncs",
    "size",
    "growth",
    "resume",
    "overhead",
    "lookups",
    "many",
    "compact",
    "reading",
    "live",
    "variables",
    "profile",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--seed", type=int, help="Repeats the order and the texts of a run.")
@click.option("--quick", is_flag=True, help="The smallest sizes: shows that everything runs.")
@click.option("--full", is_flag=True, help="Journals of a million records, where a bar is of one.")
@click.option("--out", type=click.Path(path_type=Path), default=page.OUT, help="For the JSON.")
def main(names: tuple[str, ...], seed: int | None, quick: bool, full: bool, out: Path) -> None:
    """Run the named benchmarks, or all; the exit code is 1 if a bar was missed.

    All of them together write docs/benchmarks.md, and "profile" writes docs/profile.md; with
    --quick the pages go beside the JSON instead.
    """
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    options = [*(["--full"] if full else []), "--seed", str(seed)]
    begun = time.monotonic()
    run: dict[str, Any] = {
        "command": " ".join(["python -m tests.bench", *names, *options]),
        "quick": quick,
        "all": set(names or NAMES) == set(NAMES),
        "facts": facts(),
        "benchmarks": {},
    }
    click.echo(run["command"] + "\n" + "\n".join(page.machine(run)))
    missed: list[str] = []
    for name in names or NAMES:
        click.echo(f"\n{name}: python -m tests.bench {name} --seed {seed}")
        bench = Bench(rng=Random(seed), small=quick, full=full, say=click.echo)
        at = time.monotonic()
        import_module(f"{__package__}.{name}").run(bench)
        run["benchmarks"][name] = {
            "seconds": round(time.monotonic() - at, 1),
            "rows": bench.rows,
            "bars": bench.bars,
            "lines": bench.lines,
            "kept": bench.kept,
        }
        missed += [f"{name}: {line}" for line in bench.missed]
    run["seconds"] = round(time.monotonic() - begun, 1)
    run["load_after"] = round(os.getloadavg()[0], 1)
    for path in _write(run, names, out):
        click.echo(f"wrote {path}")
    if not quick:
        click.echo(f"\n{len(missed)} bars missed" if missed else "\nevery bar met")
    sys.exit(1 if missed else 0)


def _write(run: dict[str, Any], names: tuple[str, ...], out: Path) -> list[Path]:
    """Write the JSON of a run and the pages that are made of it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{'-'.join(names) or 'bench'}.json"
    path.write_text(json.dumps(run, indent=1))
    return [path, *page.write(run, out if run["quick"] else page.DOCS)]


if __name__ == "__main__":
    main()
