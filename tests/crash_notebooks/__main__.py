"""`python -m tests.crash_notebooks N`: notebooks killed until N processes have died."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count, islice
from pathlib import Path
from random import SystemRandom
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from crash_notebooks.trial import Reference, Tally, run_trial, undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


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
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Trials beside each other.")
def main(kills: int, seed: int | None, only: str | None, notebooks: Path, jobs: int) -> None:
    """Kill the kernels and runners of notebooks until KILLS processes have died of SIGKILL."""
    console = Console()
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}: --seed {seed} replays this run, with --only NAME one trial of it")
    paths = sorted(notebooks.glob("*.ipynb")) if notebooks.is_dir() else [notebooks]
    with TemporaryDirectory(prefix="crash-notebooks-") as folder:
        campaign = Campaign(console, Path(folder), seed, {path.stem: path for path in paths})
        signal.signal(signal.SIGINT, lambda *_: campaign.stop())
        campaign.run(kills, jobs, only)
    _print(console, campaign.tallies)
    sys.exit(1 if any(tally.violations for tally in campaign.tallies.values()) else 0)


class Campaign:
    """Trials of several notebooks, one of each in turn."""

    def __init__(self, console: Console, folder: Path, seed: int, paths: dict[str, Path]) -> None:
        self.tallies = {name: Tally() for name in paths}
        self._folder, self._seed, self._paths = folder, seed, paths
        self._references: dict[str, Reference] = {}
        self._stopped = False
        columns = (TextColumn("{task.description:44}"), BarColumn(20), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._progress.add_task("")

    def run(self, kills: int, jobs: int, only: str | None) -> None:
        """Go on until so many processes have died, or with the one trial of that name."""
        with self._progress, ThreadPoolExecutor(jobs) as pool:
            self._progress.update(self._task, total=kills)
            for name, path in self._paths.items():
                self._undisturbed(name, path)
            names = iter([only]) if only else self._names()
            under_way = {pool.submit(self._trial, name) for name in islice(names, jobs)}
            while under_way:
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for trial in ended:
                    self._add(trial)
                done = sum(tally.kills for tally in self.tallies.values())
                if done < kills and not self._stopped:
                    under_way |= {
                        pool.submit(self._trial, name) for name in islice(names, len(ended))
                    }

    def stop(self) -> None:
        """Begin no other trial: what was found until then is told."""
        self._stopped = True

    def _names(self) -> Iterator[str]:
        for number in count():
            if not self._references:
                return
            yield from (f"{name}/{number}" for name in self._references)

    def _undisturbed(self, name: str, path: Path) -> None:
        self._progress.update(self._task, description=f"{name}, undisturbed")
        try:
            self._references[name] = undisturbed(path, self._folder / name / "undisturbed")
        except RuntimeError as error:
            self.tallies[name].violations.append(str(error))
            self._progress.console.print(f"VIOLATED {error}", markup=False, soft_wrap=True)

    def _trial(self, name: str) -> tuple[str, Tally]:
        notebook = name.partition("/")[0]
        reference, folder = self._references[notebook], self._folder / name
        found = run_trial(name, self._paths[notebook], folder, self._seed, reference)
        if not found.violations:
            rmtree(folder)
        return name, found

    def _add(self, trial: Future[tuple[str, Tally]]) -> None:
        name, found = trial.result()
        self.tallies[name.partition("/")[0]].add(found)
        for violation in found.violations:
            self._progress.console.print(f"VIOLATED {violation}", markup=False, soft_wrap=True)
        done = sum(tally.kills for tally in self.tallies.values())
        self._progress.update(self._task, completed=done, description=name)


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
        ("replies asked for", [one.asked for one in every]),
        ("of those again, in doubt", [one.asked_again for one in every]),
        ("promises broken in any way", [len(one.violations) for one in every]),
    ):
        table.add_row(name, *(f"{value:,}" for value in values))
    console.print(table)


if __name__ == "__main__":
    main()
