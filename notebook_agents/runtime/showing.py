"""Where runs are shown while they work: in a notebook's cell, if this process is its kernel.

What shows them lies in a layer above this one and is found by its name, once, when the first run
begins in a kernel. A script, a test or a terminal loads nothing of it.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from notebook_agents import settings
from notebook_agents.saying import in_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.journal import Journal
    from notebook_agents.model import RunView

_logger = logging.getLogger("notebook_agents.runtime")
_SHOWS = "notebook_agents.ui.live"
_missing = False


class Shown(Protocol):
    """A run as what shows it needs it: `graph.run.Run`."""

    thread: str
    number: int
    stored: bool
    journal: Journal

    def now(self) -> RunView:
        """Return the run as its records tell it now."""

    @property
    def view(self) -> RunView:
        """The run as its records told it once."""

    @property
    def value(self) -> Any:
        """What the graph returned."""


class Display(Protocol):
    """What shows runs; nothing of it raises."""

    def begin(self, run: Shown) -> None:
        """Show a run that this process drives from now on."""

    def end(self, run: Shown) -> None:
        """Show how it stands, now that this process has put it down."""

    def stored(self, run: Shown) -> None:
        """Show a run whose recorded answer is given."""

    def bundle(self, run: Shown) -> dict[str, Any]:
        """Return what a cell shows whose value the run is, by media type."""


def display(*, wanted: bool | None = None) -> Display | None:
    """Return what shows runs in this process; None where nothing does, or nobody wants it."""
    global _missing
    if wanted is False or _missing or not in_kernel():
        return None
    try:
        if wanted is None and settings.timeline() == "off":
            return None
        shows: Display = import_module(_SHOWS).shows
    except Exception:
        _missing = True
        _logger.warning("this kernel cannot show runs while they work", exc_info=True)
        return None
    return shows


@contextmanager
def shown(run: Shown, *, wanted: bool | None = None) -> Iterator[None]:
    """Show a run while this process drives it in the block, where that can be.

    Args:
        run: The run.
        wanted: Whether to show it; None: as NOTEBOOK_AGENTS_TIMELINE says.
    """
    shows = display(wanted=wanted)
    if shows is None:
        yield
        return
    shows.begin(run)
    try:
        yield
    finally:
        shows.end(run)


def stored(run: Shown, *, wanted: bool | None = None) -> None:
    """Show a run whose recorded answer is given without running anything."""
    if run.stored and (shows := display(wanted=wanted)) is not None:
        shows.stored(run)


def _not_here() -> None:
    """A forked child has no cell."""
    global _missing
    _missing = True


os.register_at_fork(after_in_child=_not_here)
