"""`python -m tests.crash N`: the crash tests at length, with LangGraph alone beside them."""

from __future__ import annotations

import sys
from random import SystemRandom
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import arms
from .beside import journaled, langgraph_alone
from .trial import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

BESIDE_RUNS = 20


@click.command()
@click.argument("kills", type=click.IntRange(min=0), default=300)
@click.option("--seed", type=int, envvar="CRASH_SEED", help="Replays the schedule of a run.")
@click.option(
    "--arm",
    type=click.Choice([*arms.ARMS, "langgraph", "all"]),
    default="all",
    help="What to do; all of it by default.",
)
@click.option("--only", metavar="NAME", help="Repeat one trial, as a violation names it.")
def main(kills: int, seed: int | None, arm: str, only: str | None) -> None:
    """Go on until KILLS processes have died of SIGKILL, then say what was lost.

    With `--arm together`, until KILLS signals have each killed several processes of one journal.
    """
    console = Console()
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}: --seed {seed} replays this run, with --only NAME one trial of it")
    if arm in ("all", "langgraph") and only is None:
        _print_beside(console)
    if arm == "langgraph":
        return
    names: Iterable[str] = [only] if only else arms.endless(seed, arm)
    tally = _kill(console, names, seed, kills, arm)
    _print_tally(console, tally)
    sys.exit(1 if tally.violations else 0)


def _kill(console: Console, names: Iterable[str], seed: int, kills: int, arm: str) -> Tally:
    tally = Tally()
    columns = (TextColumn("{task.description:44}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=kills)
        for name in names:
            progress.update(task, description=name)
            found = arms.run_trial(name, seed)
            tally.add(found)
            for violation in found.violations:
                progress.console.print(f"VIOLATED {violation}", markup=False, soft_wrap=True)
            progress.update(task, completed=_done(tally, arm))
            if _done(tally, arm) >= kills:
                break
    return tally


def _counted(tally: Tally) -> int:
    """Return n: the SIGKILLs alone; of a run that only interrupts, the SIGINTs."""
    return tally.killed or tally.interrupted


def _done(tally: Tally, arm: str) -> int:
    return tally.instants if arm == "together" else _counted(tally)


def _print_beside(console: Console) -> None:
    console.print(
        f"Three steps, {BESIDE_RUNS} runs each, killed once: as the saver is given the checkpoint "
        "behind the second step. How many runs had"
    )
    table = Table("", "an effect twice", "of a returned step", "a wrong answer")
    for row in (
        langgraph_alone("async", BESIDE_RUNS),
        langgraph_alone("sync", BESIDE_RUNS),
        journaled(BESIDE_RUNS),
    ):
        cells = (row.twice, row.returned_twice, row.wrong)
        table.add_row(row.name, *(f"{count} of {row.runs}" for count in cells))
    console.print(table)


def _print_tally(console: Console, tally: Tally) -> None:
    table = Table(show_header=False)
    for name, value in (
        ("threads driven to their end", tally.trials),
        ("killed, SIGKILL", tally.killed),
        ("signals that killed several processes of a journal at once", tally.instants),
        ("compactions that were killed with them", tally.compactions),
        ("ended by SIGTERM at a fault point", tally.terminated),
        ("interrupted, SIGINT", tally.interrupted),
        ("of those by a second one", tally.pressed_again),
        ("exceptions raised at a fault point", tally.raised),
        ("acknowledged records", tally.acknowledged),
        ("acknowledged records lost", tally.lost),
        ("effects of returned steps fired again", tally.repeated),
        ("promises broken in any way", len(tally.violations)),
    ):
        table.add_row(name, f"{value:,}")
    if (n := _counted(tally)) and not tally.violations:
        table.add_row("95 % bound on violations per kill, 3/n", f"{3 / n:.3%}")
    console.print(table)


if __name__ == "__main__":
    main()
