"""Options that several commands share, and what they come to."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
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
        help="The journal's directory. Default: $NOTEBOOK_AGENTS_HOME, else the nearest "
        ".notebook_agents here or above.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Write JSON; an error is the last line of stderr, "
        '{"error": {"type", "message", "exit_code"}}.',
    )(function)


def existing_journal(path: str | None) -> Journal:
    """Open the journal that `--journal` names.

    Raises:
        NoJournalError: There is none.
    """
    from notebook_agents.journal import Journal

    return Journal.open(path, create=False)


def resume_command(
    thread: str, journal: str | None, *, folder: str | None = None, command: str = "resume"
) -> str:
    """Return the command line that resumes a thread.

    Args:
        thread: The thread's name.
        journal: What `--journal` was.
        folder: Where the agent's module lies, if it is not the working folder.
        command: The command, if it is another one.
    """
    words = ["notebook-agents", command, thread]
    line = shlex.join(words if journal is None else [*words, "--journal", journal])
    return line if folder is None else f"PYTHONPATH={shlex.quote(folder)} {line}"


def import_from(folder: Path) -> None:
    """Have modules in `folder` found first, as `python FILE` does for a script's folder."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def use_journal(path: str | None) -> None:
    """Have every agent without a journal of its own use this one, in child processes too."""
    from notebook_agents.settings import HOME_VARIABLE

    if path is not None:
        os.environ[HOME_VARIABLE] = str(Path(path).expanduser().absolute())
