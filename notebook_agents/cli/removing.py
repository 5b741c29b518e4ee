"""`notebook-agents delete` and `notebook-agents journal prune`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from notebook_agents import settings
from notebook_agents.cli import data
from notebook_agents.cli.options import existing_journal, journal_option, json_option
from notebook_agents.cli.progress import counting
from notebook_agents.errors import ThreadBusyError
from notebook_agents.runtime.timeline import clean

if TYPE_CHECKING:
    from datetime import timedelta

    from notebook_agents.graph.pruning import Removal


def _time(_: click.Context, __: click.Parameter, said: str | None) -> timedelta | None:
    found = None if said is None else settings.duration(said)
    if said is not None and found is None:
        raise click.BadParameter(f"{said!r} is no time: give one such as 30d, 12h or 90m")
    return found


@click.command()
@click.argument("threads", metavar="[THREAD…]", nargs=-1)
@click.option("--keep", metavar="N", type=click.IntRange(1), help="The newest N of a thread stay.")
@click.option(
    "--newer-than", metavar="TIME", callback=_time, help="Those stay that are newer: 30d, 12h, 90m."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@journal_option
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    *,
    threads: tuple[str, ...],
    keep: int | None,
    newer_than: timedelta | None,
    dry_run: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Delete old checkpoints of threads; default: of all.

    What a thread's steps did and returned stays, and so does its newest state. Whatever the options
    say, nothing goes that an unfinished run or a fork needs. A thread that a process drives, or
    whose key is not here, is left alone and named; the exit code is 5 then. The files get smaller
    by `journal compact`.

    \b
    Examples:
      notebook-agents journal prune --keep 10 --dry-run
      notebook-agents journal prune monday --newer-than 30d

    \b
    --json writes an object:
      dry_run, checkpoints, records, bytes,
      threads: [thread, checkpoints, records, bytes, why (null, or why something
                stays), refused]
    """
    from notebook_agents.graph.pruning import kept, prune_threads
    from notebook_agents.journal import Journal

    stays = kept(keep, newer_than)
    # Nothing may be written by a dry run, not even by what a schedule asks for.
    with (
        Journal.open(journal, create=False, scheduled=not dry_run) as opened,
        counting(quiet=as_json, what="threads") as progress,
    ):
        removal = prune_threads(opened, threads or None, stays, dry_run=dry_run, progress=progress)
    _tell(removal, as_json=as_json)
    ctx.exit(ThreadBusyError.exit_code if removal.refused else 0)


@click.command()
@click.argument("thread")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--unfinished", is_flag=True, help="Also if its run could go on.")
@journal_option
@json_option
def delete(*, thread: str, yes: bool, unfinished: bool, journal: str | None, as_json: bool) -> None:
    """Delete a thread with all it holds.

    Nobody can read it any more. Forks of it stay whole. A thread that a process drives, or whose
    run is not finished, is refused. The files get smaller by `journal compact`.

    \b
    Example:
      notebook-agents delete last-years-audit --yes

    --json writes what `journal prune --json` writes.
    """
    from notebook_agents.graph.pruning import delete as remove
    from notebook_agents.journal.damage import counted

    with existing_journal(journal) as opened:
        info = opened.thread(thread)
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise click.UsageError("nobody can be asked here: give --yes to delete the thread")
            what = f"thread {clean(thread)} ({counted(info.records, 'record')}, {info.status})"
            click.confirm(f"delete {what} for good?", abort=True, err=True)
        removal = remove(thread, unfinished=unfinished, journal=opened)
    _tell(removal, as_json=as_json)


def _tell(removal: Removal, *, as_json: bool) -> None:
    if as_json:
        click.echo(data.dumps(_removal_data(removal)))
    else:
        for line in str(removal).splitlines():
            click.echo(clean(line))


def _removal_data(removal: Removal) -> dict[str, Any]:
    threads = [
        {
            "thread": one.thread,
            "checkpoints": one.checkpoints,
            "records": one.records,
            "bytes": one.bytes,
            "why": one.why,
            "refused": one.refused,
        }
        for one in removal.threads
    ]
    return {
        "dry_run": removal.dry_run,
        "checkpoints": removal.checkpoints,
        "records": removal.records,
        "bytes": removal.bytes,
        "threads": threads,
    }
