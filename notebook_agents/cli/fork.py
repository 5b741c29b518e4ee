"""`notebook-agents fork`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import click

from notebook_agents.cli import data
from notebook_agents.cli.options import (
    existing_journal,
    journal_option,
    json_option,
    resume_command,
)


@click.command()
@click.argument("thread")
@click.option(
    "--at",
    metavar="STEP",
    help="A step's or checkpoint's id: what ran from there on is to run again. Default: the end.",
)
@click.option("--name", metavar="NEW", help="The new thread's name. Default: one is made.")
@journal_option
@json_option
def fork(
    *, thread: str, at: str | None, name: str | None, journal: str | None, as_json: bool
) -> None:
    """Make a thread with the past of another one.

    What returned before STEP is in it and does not run again; STEP and what followed from it runs
    when the new thread is resumed, under idempotency keys of its own. THREAD stays as it is.
    `show THREAD --json` has the ids of its steps.

    \b
    Example:
      notebook-agents fork audit-calm-river-3f9a --name second-try

    \b
    --json writes an object:
      thread (the new one), from, at, run, status, resume (the command that goes on)
    """
    from notebook_agents.graph.fork import fork as make

    with existing_journal(journal) as opened:
        made = make(opened, thread, at=at, name=name)
        info = opened.thread(made)
    resume = resume_command(made, journal)
    if as_json:
        told = {
            "thread": made,
            "from": thread,
            "at": at,
            "run": info.run,
            "status": str(info.status),
            "resume": resume,
        }
        click.echo(data.dumps(told))
    else:
        click.echo(f"{made} is a fork of {thread}; go on with it: {resume}")
