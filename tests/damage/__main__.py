"""`python -m tests.damage N`: damage by the thousand, to journals left in every state."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from damage import harm, oracle, specimens
from damage.bursts import CALLS, killed_at


@click.command()
@click.argument("count", type=click.IntRange(min=1), default=500)
@click.option("--seed", type=int, help="Replays the damages of a run.")
@click.option("--bursts", is_flag=True, help="Also kill a burst at each system call (strace).")
def main(count: int, seed: int | None, bursts: bool) -> None:
    """Spoil journals COUNT times; each must come back, or be refused with what is gone named."""
    console = Console()
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}: --seed {seed} replays this run")
    os.environ["NOTEBOOK_AGENTS_KEY"] = specimens.KEY
    os.environ["LANGSMITH_TRACING"] = "false"
    folder = Path(tempfile.mkdtemp(prefix="notebook-agents-damage-"))
    try:
        tally = _spoil(console, folder, count, seed)
        if bursts:
            tally.update(_kill_bursts(console, folder))  # `+=` would drop what is 0
    finally:
        shutil.rmtree(folder)
    table = Table(show_header=False)
    for name, value in tally.items():
        table.add_row(name, f"{value:,}")
    console.print(table)
    sys.exit(1 if tally["promises broken"] else 0)


def _spoil(console: Console, folder: Path, count: int, seed: int) -> Counter[str]:
    names = list(specimens.SPECIMENS)
    homes = {name: specimens.make(name, folder) for name in names}
    contents = {}
    for name, home in homes.items():
        shutil.copytree(home, folder / "read")
        contents[name] = oracle.read(folder / "read")
        shutil.rmtree(folder / "read")
    words = ("damages", "noticed", "with records lost", "records lost", "promises broken")
    tally: Counter[str] = Counter(dict.fromkeys(words, 0))
    columns = (TextColumn("{task.description:52}"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=count)
        for number in range(count):
            dice = random.Random(f"{seed}/{number}")
            name = dice.choice(names)
            spoilt = [harm.any_harm(homes[name], dice) for _ in range(dice.choice((1, 1, 1, 2)))]
            said = f"{number} {name}: {', '.join(map(str, spoilt))}"
            progress.update(task, description=said[:52], completed=number)
            try:
                verdict = oracle.judge(
                    homes[name], contents[name], lambda at, all_=spoilt: _do(at, all_), folder
                )
            except Exception as error:
                tally["promises broken"] += 1
                text = f"BROKEN {said}: {type(error).__name__} {error}"
                progress.console.print(text, markup=False, soft_wrap=True)
            else:
                tally["noticed"] += verdict.noticed
                tally["with records lost"] += verdict.lost > 0
                tally["records lost"] += verdict.lost
            tally["damages"] += 1
        progress.update(task, completed=count)
    return tally


def _kill_bursts(console: Console, folder: Path) -> Counter[str]:
    original = folder / "killed"
    shutil.copytree(original, folder / "read")
    content = oracle.read(folder / "read")
    tally: Counter[str] = Counter({"bursts killed": 0})
    for call in CALLS:
        for number in itertools.count(1):
            home = folder / "burst"
            shutil.copytree(original, home)
            killed = killed_at(home, call, number)
            if oracle.read(home) != content:
                tally["promises broken"] += 1
                console.print(f"BROKEN a burst killed at {call} {number}", markup=False)
            shutil.rmtree(home)
            if not killed:
                break
            tally["bursts killed"] += 1
        console.print(f"bursts killed up to their last {call}: {tally['bursts killed']}")
    return tally


def _do(home: Path, spoilt: list[harm.Harm]) -> None:
    for one in spoilt:
        if (home / one.file).exists() and (one.what != "flip" or _reaches(home, one)):
            one.do(home)


def _reaches(home: Path, one: harm.Harm) -> bool:
    return (home / one.file).stat().st_size > one.at


if __name__ == "__main__":
    main()
