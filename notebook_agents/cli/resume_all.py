"""`notebook-agents resume --all`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from notebook_agents.cli import data
from notebook_agents.cli.driving import Driving
from notebook_agents.cli.exits import STATUS_CODES
from notebook_agents.cli.options import existing_journal

if TYPE_CHECKING:
    from notebook_agents.graph.run import Run


def resume_all(*, recoveries: int | None, journal: str | None, as_json: bool) -> int:
    """Resume all that can go on; return the exit code of the first that did not succeed."""
    import notebook_agents as na

    driving = Driving(journal=journal, as_json=as_json, thread=None)
    with existing_journal(journal) as opened:
        with driving.watched():
            found = na.resume_all(opened, recoveries=recoveries)
        told = [_told(thread, run) for thread, run in found]
    if as_json:
        click.echo(data.dumps([row for row, _ in told]))
    elif not told:
        click.echo("nothing to resume")
    else:
        for row, _ in told:
            why = f": {row['error']}" if row["error"] else ""
            click.echo(f"{row['thread']}  {row['status']}{why}")
    return next((code for _, code in told if code), 0)


def _told(thread: str, run: Run | Exception) -> tuple[dict[str, object], int]:
    if isinstance(run, Exception):
        error = f"{type(run).__name__}: {run}"
        code = int(getattr(run, "exit_code", 1))
        return {"thread": thread, "run": None, "status": None, "error": error}, code
    view = run.view
    row = {"thread": thread, "run": view.number, "status": str(view.status), "error": view.error}
    return row, STATUS_CODES[view.status]
