"""`notebook-agents run notebook.ipynb`: what it shows while the notebook runs, and how it ends."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from notebook_agents.cli import data
from notebook_agents.cli.progress import GLYPHS, cell_line, painted
from notebook_agents.runtime.timeline import clean, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from notebook_agents.journal import Journal
    from notebook_agents.notebook.cells import CellEvent
    from notebook_agents.runtime.events import StepEvent

_SHOWN = 10
"""Lines of the live view for what ended; as many again for steps that run."""


class NotebookProgress:
    """Shows cells and steps as they come: a live view on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._plain = not sys.stderr.isatty()
        self._cell: tuple[CellEvent, float] | None = None
        self._running: dict[str, tuple[str, float]] = {}
        self._ended: deque[str] = deque(maxlen=_SHOWN)
        self._skipped = 0

    def cell(self, event: CellEvent) -> None:
        """Show what happened to a cell."""
        with self._lock:
            if event.state == "skipped":
                self._skipped += 1
                return
            if self._skipped:
                cells = "cell" if self._skipped == 1 else "cells"
                self._say(f"↺ {self._skipped} {cells} had finished before and did not run again")
                self._skipped = 0
            began = event.state == "started"
            self._cell = (event, time.monotonic()) if began else None
            self._running.clear()
            self._say(cell_line(event), shown=not began)

    def step(self, event: StepEvent) -> None:
        """Show what happened to a step of an agent in the running cell."""
        now = time.monotonic()
        name = ("  " if event.parent else "") + clean(event.name)
        with self._lock:
            if event.what == "intended":
                self._running[event.step] = (name, now)
                self._say(f"  ▸ {name}", shown=False)
            elif event.what in GLYPHS:
                _, began = self._running.pop(event.step, (name, None))
                took = "" if began is None else f" · {duration(now - began)}"
                self._say(f"  {GLYPHS[event.what]} {name}{took}")

    def note(self, text: str) -> None:
        """Show a sentence; it stays on the terminal."""
        click.echo(f"! {clean(text)}", err=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live view in the block, if there is a terminal."""
        if self._plain:
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(self, console=Console(stderr=True), transient=True, refresh_per_second=8):
            yield

    def __rich__(self) -> Text:
        """Return the live view as it is now."""
        from rich.text import Text

        now = time.monotonic()
        with self._lock:
            lines = list(self._ended)
            cell, running = self._cell, list(self._running.values())
        if cell is not None:
            event, began = cell
            lines.append(f"{cell_line(event)} · {duration(now - began)}")
        lines += [f"  ▸ {name} · {duration(now - began)}" for name, began in running[:_SHOWN]]
        if len(running) > _SHOWN:
            lines.append(f"  ▸ … {len(running) - _SHOWN} more running")
        text = Text(no_wrap=True, overflow="ellipsis")
        for line in lines or ["starting a kernel"]:
            painted(text, line)
        return text

    def _say(self, line: str, *, shown: bool = True) -> None:
        if shown:
            self._ended.append(line)
        if self._plain:
            try:
                click.echo(line, err=True)
            except (OSError, ValueError):
                self._plain = False  # nobody reads stderr any more; that must not end the run


def again(journal: Journal, thread: str, home: str | None) -> str:
    """Return the command that goes on with a notebook's run.

    Args:
        journal: The journal.
        thread: The run's thread.
        home: What `--journal` was.
    """
    from notebook_agents.notebook.cell_journal import begun_with
    from notebook_agents.notebook.parameters import text_of

    path, parameters = begun_with(journal, thread)
    words = ["notebook-agents", "run", path]
    for name, value in parameters.items():
        words += ["-p", name, text_of(value)]
    return shlex.join(words if home is None else [*words, "--journal", home])


def run_notebook(
    target: str, parameters: tuple[tuple[str, str], ...], *, as_json: bool, **options: Any
) -> None:
    """Run a notebook, show how it goes on, and write where its outputs are."""
    from notebook_agents.notebook import headless
    from notebook_agents.notebook.parameters import parse

    progress = NotebookProgress()
    if not as_json:
        options |= {
            "on_cell": progress.cell,
            "on_step": progress.step,
            "on_note": progress.note,
        }
    values = parse(parameters)
    if as_json:
        result = headless.run_notebook(target, values, **options)
        click.echo(data.dumps(data.notebook_data(result)))
        return
    with progress.shown():
        result = headless.run_notebook(target, values, **options)
    click.echo(str(result.path))
