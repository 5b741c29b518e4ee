"""`python -m tests.crash_notebooks N`: notebooks killed until N processes have died."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .trial import Reference, Tally, run_trial, undisturbed

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_ELSEWHERE = "02_chat_with_tools.ipynb"
"""Asks a model; `tests/test_notebooks.py` kills it beside a server of its own."""


@click.command()
@click.argument("kills", type=click.IntRange(min=1), default=50)
@click.option("--seed", type=int, envvar="CRASH_SEED", help="Replays the schedule of a run.")
@click.option("--only", metavar="NAME", help="Repeat one trial, as a violation names it.")
@click.option(
    "--notebooks",
    type=click.Path(exists=True, path_type=Path),
    default=NOTEBOOKS,
    help="A folder of notebooks, or one of them.",
)
def main(kills: int, seed: int | None, only: str | None, notebooks: Path) -> None:
    """Kill the kernels and runners of notebooks until KILLS processes have died of SIGKILL."""
    console = Console()
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}: --seed {seed} replays this run, with --only NAME one trial of it")
    found = sorted(notebooks.glob("*.ipynb")) if notebooks.is_dir() else [notebooks]
    paths = [path for path in found if path.name != _ELSEWHERE]
    with TemporaryDirectory(prefix="crash-notebooks-") as folder:
        tallies = _run(console, paths, Path(folder), seed, kills, only)
    _print(console, tallies)
    sys.exit(1 if any(tally.violations for tally in tallies.values()) else 0)


def _run(
    console: Console, paths: list[Path], folder: Path, seed: int, kills: int, only: str | None
) -> dict[str, Tally]:
    tallies = {path.stem: Tally() for path in paths}
    references: dict[str, Reference] = {}
    columns = (TextColumn("{task.description:44}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=kills)
        for path in paths:
            progress.update(task, description=f"{path.stem}, undisturbed")
            try:
                references[path.stem] = undisturbed(path, folder / path.stem / "undisturbed")
            except RuntimeError as error:
                tallies[path.stem].violations.append(str(error))
                progress.console.print(f"VIOLATED {error}", markup=False, soft_wrap=True)
        for number in count():
            for path in (path for path in paths if path.stem in references):
                name = f"{path.stem}/{number}"
                if only is not None and name != only:
                    continue
                progress.update(task, description=name)
                found = run_trial(name, path, folder / name, seed, references[path.stem])
                tallies[path.stem].add(found)
                for violation in found.violations:
                    progress.console.print(f"VIOLATED {violation}", markup=False, soft_wrap=True)
                done = sum(tally.kills for tally in tallies.values())
                progress.update(task, completed=min(done, kills))
                if done >= kills or only is not None:
                    return tallies
            if not references:
                return tallies
    return tallies


def _print(console: Console, tallies: dict[str, Tally]) -> None:
    table = Table("", *tallies, "all")
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    every = [*tallies.values(), total]
    for name, values in (
        ("trials", [one.trials for one in every]),
        ("kernels killed, SIGKILL", [one.killed["kernel"] for one in every]),
        ("runners killed, SIGKILL", [one.killed["runner"] for one in every]),
        ("both killed at once", [one.killed["both"] for one in every]),
        ("runs begun", [one.runs for one in every]),
        ("kernels started anew", [one.restarts for one in every]),
        ("cells skipped by the last run", [one.skipped for one in every]),
        ("effects", [one.effects for one in every]),
        ("of those repeated, in doubt, under one key", [one.repeated for one in every]),
        ("promises broken in any way", [len(one.violations) for one in every]),
    ):
        table.add_row(name, *(f"{value:,}" for value in values))
    console.print(table)


if __name__ == "__main__":
    main()
