"""What people read on stdout: tables, timelines, values."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from notebook_agents.hiding import hidden
from notebook_agents.model import RunStatus
from notebook_agents.runtime.timeline import clean, status_style, status_text, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_agents.cli.data import Value
    from notebook_agents.cli.doctor import Check
    from notebook_agents.model import RunView, ThreadInfo

_VALUE_LINES = 12
_WIDEST = 120


def width() -> int:
    """Return how wide text may be: the terminal's columns, or 80 where there is no terminal."""
    return min(shutil.get_terminal_size((80, 24)).columns, _WIDEST) if sys.stdout.isatty() else 80


def run(view: RunView, value: Value, *, resume: str, resolve: str) -> str:
    """Return a run's timeline and, if it succeeded, the beginning of its value."""
    lines = [
        to_text(view, width=width(), color=sys.stdout.isatty(), resume=resume, resolve=resolve)
    ]
    if value.error is not None:
        lines += ["", f"value: cannot be shown here: {value.error}"]
    elif view.status is RunStatus.SUCCEEDED:
        lines += ["", "value:", *(f"  {line}" for line in _short(value.held))]
    return hidden("\n".join(lines))


def _short(held: object) -> list[str]:
    """Return the first lines of a value, itself shortened where it is long or deep."""
    from rich.pretty import pretty_repr

    text = pretty_repr(held, max_width=width() - 2, max_length=10, max_string=400, max_depth=5)
    lines = [_printable(line) for line in text.splitlines()]
    if len(lines) > _VALUE_LINES:
        return [*lines[:_VALUE_LINES], f"… {len(lines) - _VALUE_LINES} more lines"]
    return lines


def threads(infos: Iterable[ThreadInfo]) -> None:
    """Write a table of threads."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a pipe nothing is cut off: a program may read the names.
    console = Console(width=None if sys.stdout.isatty() else 500, highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("thread", overflow="fold")
    table.add_column("agent", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("notebook", overflow="fold", style="dim")
    now = datetime.now(UTC)
    for info in infos:
        table.add_row(
            Text(clean(info.thread)),
            Text(clean(info.agent or "–")),
            Text(status_text(info.status) if info.run else "–", style=status_style(info.status)),
            str(info.returned),
            age((now - info.updated).total_seconds()),
            Text(_place(info.notebook)),
        )
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def checks(found: Sequence[Check]) -> None:
    """Write what `doctor` found, one line each, with the remedy."""
    marks = {
        "ok": ("✓", "green"),
        "absent": ("–", None),
        "warning": ("!", "yellow"),
        "bad": ("✗", "red"),
    }
    for check in found:
        mark, color = marks[check.level]
        line = f"{click.style(mark, fg=color)} {check.name:<16} {_printable(check.found)}"
        if check.remedy:
            line += f"; {_printable(check.remedy)}"
        click.echo(line)


def age(seconds: float) -> str:
    """Return how long ago, in one unit: "12 s", "3 min", "5 h", "4 d"."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _place(notebook: str | None) -> str:
    if notebook is None:
        return ""
    path, here = Path(notebook), Path.cwd()
    return clean(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _printable(line: str) -> str:
    plain = click.unstyle(line)
    return "".join(char if char.isprintable() else " " for char in plain)
