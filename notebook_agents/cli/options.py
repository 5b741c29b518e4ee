"""Options that several commands share."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.journal import Journal

F = TypeVar("F", bound="Callable[..., Any]")


def journal_option(function: F) -> F:
    """Add `--journal DIR`."""
    return click.option(
        "--journal",
        metavar="DIR",
        type=click.Path(file_okay=True),
        help="The journal's directory; else $NOTEBOOK_AGENTS_HOME, else the nearest "
        ".notebook_agents here or above.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write JSON; errors are JSON on stderr."
    )(function)


def open_journal(path: str | None, *, create: bool) -> Journal:
    """Open the journal that `--journal` names."""
    from notebook_agents.journal import Journal

    return Journal.open(path, create=create)


def resume_command(thread: str, journal: str | None) -> str:
    """Return the command line that resumes a thread of this journal."""
    words = ["notebook-agents", "resume", thread]
    return shlex.join(words if journal is None else [*words, "--journal", journal])
