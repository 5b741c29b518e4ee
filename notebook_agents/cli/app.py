"""The commands. Each parses, calls and renders; see `exits` for what ends them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents.cli import data, exits
from notebook_agents.cli.options import journal_option, json_option, open_journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.notebook.headless import NotebookResult

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=exits.App, context_settings=_CONTEXT, epilog="\b\n" + exits.CODES)
@click.version_option(package_name="notebook-agents", message="%(prog)s %(version)s")
def app() -> None:
    """Run LangGraph agents that survive the death of their process, and resume them."""


@app.command("list")
@click.option("--unfinished", is_flag=True, help="Only threads with something to resume.")
@journal_option
@json_option
def list_command(*, unfinished: bool, journal: str | None, as_json: bool) -> None:
    """Show the journal's threads, the newest first.

    \b
    Example:
      notebook-agents list --unfinished

    --json writes a list of objects; times are ISO 8601 in UTC:

    \b
    {threads}
    """
    from notebook_agents.cli import render

    with open_journal(journal, create=False) as opened:
        if unfinished:
            import notebook_agents as na

            threads = na.unfinished(opened)
        else:
            threads = opened.threads()
    if as_json:
        click.echo(data.dumps([data.thread_data(info) for info in threads]))
    elif threads:
        render.threads(threads)
    else:
        click.echo("nothing to resume" if unfinished else "no threads yet")
