"""What a command shows while a run goes on: a live view on a terminal, plain lines elsewhere.

Everything goes to stderr: stdout has the result only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from notebook_agents.runtime.timeline import clean, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.live import Live
    from rich.text import Text

    from notebook_agents.notebook.cells import CellEvent
    from notebook_agents.runtime.events import StepEvent

_SHOWN = 8
"""Lines of the live view for steps that ended; as many again for steps that run."""

GLYPHS = {"returned": "✓", "failed": "✗", "suspended": "‖", "in_doubt": "?"}
_COLORS = {"✓": "green", "✗": "red", "‖": "yellow", "?": "yellow", "▸": "cyan", "↺": "dim"}
_WORDS = {"failed": "failed", "suspended": "waits", "in_doubt": "in doubt"}


class Progress:
    """What has happened to a run's steps so far. It takes events from any thread.

    Attributes:
        thread: The run's thread, as soon as something happened in it.
        node_failed: Whether a step raised: an exception that ends the run is then the user's.
    """

    def __init__(self, *, plain: bool) -> None:
        self.thread: str | None = None
        self.node_failed = False
        self._plain = plain
        self._lock = threading.RLock()  # a signal may come while its own thread holds it
        self._live: Live | None = None
        self._counts: Counter[str] = Counter()
        self._running: dict[str, tuple[str, float]] = {}
        self._ended: deque[str] = deque(maxlen=_SHOWN)
        self._unsaid = 0
        self._begun = False

    def __call__(self, event: StepEvent) -> None:
        """Take one event."""
        now = time.monotonic()
        with self._lock:
            if self.thread is None:
                self.thread = event.thread
                self._say(f"run {event.run} of thread {clean(event.thread)}")
            self._counts[event.what] += 1
            self.node_failed |= event.what == "failed"
            name = ("  " if event.parent else "") + clean(event.name)
            if event.what == "replayed":
                self._unsaid += 1
            elif event.what == "intended":
                self._say_replayed(first=True)
                self._running[event.step] = (name, now)
                self._say(f"▸ {name}")
            else:
                _, began = self._running.pop(event.step, (name, None))
                line = f"{GLYPHS[event.what]} {name}"
                for more in (_WORDS.get(event.what), began and duration(now - began)):
                    line += f" · {more}" if more else ""
                self._ended.append(line)
                self._say(line)

    def start(self) -> None:
        """Show the live view from now on."""
        from rich.console import Console
        from rich.live import Live

        # What nodes print goes above the view, unless standard output goes elsewhere.
        self._live = Live(
            self,
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=8,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def finish(self) -> None:
        """Take the live view away; in plain lines, say what is still unsaid."""
        if self._live is not None:
            self._live.stop()
        with self._lock:
            self._say_replayed()

    def __rich__(self) -> Text:
        """Return the live view as it is now."""
        from rich.text import Text

        with self._lock:
            counts = [
                f"{n} {what}" for what in ("replayed", "returned") if (n := self._counts[what])
            ]
            lines = list(self._ended)
            running = list(self._running.values())
        now = time.monotonic()
        lines += [f"▸ {name} · {duration(now - began)}" for name, began in running[:_SHOWN]]
        if len(running) > _SHOWN:
            lines.append(f"▸ … {len(running) - _SHOWN} more running")
        title = f"thread {clean(self.thread)}" if self.thread else "starting"
        text = Text(" · ".join([title, *counts]), style="bold", no_wrap=True, overflow="ellipsis")
        for line in lines:
            painted(text, line, "not bold")
        return text

    def _say_replayed(self, *, first: bool = False) -> None:
        """Say how many steps were replayed: before the first one that runs, and at the end."""
        if self._unsaid and not (first and self._begun):
            self._say(f"↺ {self._unsaid} replayed")
            self._unsaid = 0
        self._begun = True

    def _say(self, line: str) -> None:
        if self._plain:
            try:
                click.echo(line, err=True)
            except (OSError, ValueError):
                self._plain = False  # nobody reads stderr any more; that must not fail the step


def painted(text: Text, line: str, style: str = "") -> None:
    """Append a line to a text, its first character that is no space in that glyph's color."""
    rest = line.lstrip()
    if text.plain:
        text.append("\n")
    text.append(line[: len(line) - len(rest)])
    text.append(rest[:1], _COLORS.get(rest[:1], style)).append(rest[1:], style)


def cell_line(event: CellEvent) -> str:
    """Return one line on what happened to a notebook's cell."""
    glyphs = {"started": "▸", "finished": "✓", "failed": "✗"}
    line = f"{glyphs[event.state]} cell {event.number}/{event.total} {clean(event.line)}"
    return line if event.state == "started" else f"{line} · {duration(event.seconds)}"


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show the steps of whatever runs in the body.

    Args:
        quiet: Watch and show nothing.
    """
    from notebook_agents.runtime.events import observe

    terminal = sys.stderr.isatty()
    shown = Progress(plain=not terminal and not quiet)
    with observe(shown):
        if terminal and not quiet:
            shown.start()
        try:
            yield shown
        finally:
            shown.finish()


@contextmanager
def counting(*, quiet: bool, what: str = "records") -> Iterator[Callable[[int, int], None] | None]:
    """Show how many records, or whatever else, were looked at, and of how many, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield tell
