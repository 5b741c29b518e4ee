"""`notebook-agents journal compact`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from notebook_agents import settings
from notebook_agents.cli import data
from notebook_agents.cli.doctor import size
from notebook_agents.cli.options import journal_option, json_option
from notebook_agents.cli.progress import counting

if TYPE_CHECKING:
    from notebook_agents.journal.compact import Compaction


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@journal_option
@json_option
def compact(*, dry_run: bool, journal: str | None, as_json: bool) -> None:
    """Give back the space of what was deleted or pruned: its bytes are gone from the files.

    The living records are written to a new DuckDB file, and that takes the place of the old one.
    Others may use the journal meanwhile: appends wait for a moment, which is said; reads of older
    history may wait longer. Killed, it leaves the old file or the new one; do it again.

    Values that only pruned checkpoints had stay for as long as somebody drives the thread or a fork
    of it. Backups, and files that a repair or a restore put aside, are not touched; they are named.

    \b
    Example:
      notebook-agents journal compact --dry-run

    \b
    --json writes an object; in a dry run the numbers of afterwards are
    estimates:
      home, dry_run, generation, records_before, records_after, bytes_before,
      bytes_after, pause_ms (the longest), erased (false: somebody kept
      reading; do it again), elsewhere: [name]
    """
    from notebook_agents.journal import Journal
    from notebook_agents.journal import compact as compaction

    home = settings.journal_home(journal, create=False)
    with Journal.open(home, create=False) as opened, counting(quiet=as_json) as progress:
        done = compaction.compact(opened, dry_run=dry_run, progress=progress)
    if as_json:
        click.echo(data.dumps({**asdict(done), "home": str(home)}))
        return
    for text in _lines(done):
        click.echo(text)


def _lines(done: Compaction) -> list[str]:
    records = f"{done.records_before} to {done.records_after} records"
    if done.dry_run:
        less = size(done.bytes_before - done.bytes_after)
        found = [f"{done.home}: would go from {records}, and give back about {less}"]
    else:
        space = f"{size(done.bytes_before)} to {size(done.bytes_after)}"
        wait = f"appends waited for {done.pause_ms:.1f} ms at most"
        found = [f"{done.home}: from {records}, from {space}; {wait}"]
        if not done.erased:
            found.append(
                "somebody kept reading, so bytes of what is gone may be left in queue.sqlite: "
                "compact again"
            )
    if done.elsewhere:
        found.append(f"may still have what is gone: {', '.join(done.elsewhere)}")
    return found
