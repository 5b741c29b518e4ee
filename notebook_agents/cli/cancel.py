"""`notebook-agents cancel`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from pathlib import Path

import click

from notebook_agents.cli import data
from notebook_agents.cli.options import (
    existing_journal,
    import_from,
    journal_option,
    json_option,
)


@click.command()
@click.argument("thread")
@journal_option
@json_option
def cancel(*, thread: str, journal: str | None, as_json: bool) -> None:
    """Finish a thread's newest run without going on with it.

    What returned is kept. Where the state holds messages, tool calls without an answer are answered
    with `cancelled`, so that a model accepts the conversation. A process that drives the run now is
    asked to: the status may still be `running` then, until what runs there has come to its end.

    \b
    Example:
      notebook-agents cancel audit-calm-river-3f9a

    --json writes an object: thread, run, status.
    """
    import_from(Path.cwd())
    import notebook_agents as na

    with existing_journal(journal) as opened:
        run = na.cancel(thread, journal=opened)
        told = {"thread": thread, "run": run.number, "status": str(run.status)}
    if as_json:
        click.echo(data.dumps(told))
    else:
        click.echo(f"run {run.number} of thread {thread} is {run.status}")
