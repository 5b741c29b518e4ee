"""`notebook-agents journal backup | backups | restore`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents import settings
from notebook_agents.cli import data
from notebook_agents.cli.doctor import size
from notebook_agents.cli.options import journal_option, json_option

if TYPE_CHECKING:
    from notebook_agents.journal.backup import Backup, Report


@click.command()
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@journal_option
@json_option
def backup(*, dest: Path | None, journal: str | None, as_json: bool) -> None:
    """Back the journal up, while it is in use.

    The backup is a folder named after the time, in DEST or in the journal's `backups`. It is read
    back before it gets its name. It does not hold your key: without that nobody can read it.

    NOTEBOOK_AGENTS_BACKUP_HOURS=24 has every process that uses the journal make one when the
    newest is older; NOTEBOOK_AGENTS_BACKUP_KEEP says how many stay (7).

    \b
    Example:
      notebook-agents journal backup /mnt/backups

    \b
    --json writes an object, times in ISO 8601 UTC:
      path, journal, created, last (newest record), threads, size (bytes),
      seals (records that were opened; null: the key is not here)
    """
    from notebook_agents.journal.backup import backup as make

    made = make(settings.journal_home(journal, create=False), dest)
    if as_json:
        click.echo(data.dumps(_backup_data(made)))
        return
    opened = "sealed with a key that is not here" if made.seals is None else "each opens"
    click.echo(f"{_line(made)}; read back, {opened}; your key is not in it")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@journal_option
@json_option
def backups(*, folder: Path | None, journal: str | None, as_json: bool) -> None:
    """List the backups, the newest last.

    Those in FOLDER, or in the journal's `backups`; unfinished ones are none.

    \b
    Example:
      notebook-agents journal backups

    \b
    --json writes a list of what `journal backup --json` writes:
      path, journal, created, last, threads, size, seals
    """
    from notebook_agents.journal.backup import backups as find

    found = find(settings.journal_home(journal, create=folder is not None), folder)
    if as_json:
        click.echo(data.dumps([_backup_data(each) for each in found]))
        return
    for each in found:
        click.echo(_line(each))
    if not found:
        click.echo("no backups yet")


@click.command()
@click.argument("backup", type=click.Path(path_type=Path))
@click.option(
    "--newer/--no-newer",
    default=True,
    show_default=True,
    help="Whether to take over what was recorded since, as far as the queue still has it.",
)
@journal_option
@json_option
def restore(*, backup: Path, newer: bool, journal: str | None, as_json: bool) -> None:
    """Put a backup back in the place of the journal.

    BACKUP is its folder, or its name in the journal's `backups`. Nobody may have the journal open.
    Its files are renamed (`….replaced-TIME`), not removed. With --no-newer the journal is as it
    was: steps that returned since run again, and threads that were deleted since are there again.
    Newer records are not put behind others than those that they followed: such a backup is refused.

    \b
    Example:
      notebook-agents journal restore 20261120T221503Z

    \b
    --json writes an object:
      backup, home, restored, replayed (numbers of records), given_up (records
      that did not come back, by thread), gap (null or [first, last]: records
      that the queue no longer had), unreadable (null, or why the queue could
      not be read), aside: [path], complete
    """
    from notebook_agents.journal.backup import FOLDER
    from notebook_agents.journal.backup import restore as put_back
    from notebook_agents.journal.damage import counted

    home = settings.journal_home(journal, create=True)
    if not backup.exists() and (home / FOLDER / backup).exists():
        backup = home / FOLDER / backup
    report = put_back(backup.absolute(), home, newer=newer)
    if as_json:
        click.echo(data.dumps(_report_data(report)))
        return
    click.echo(
        f"{report.home}: {counted(report.restored, 'record')} from {report.backup}, and from the "
        f"queue that was there {report.replayed} newer"
    )
    for line in missing(report):
        click.echo(line)
    if report.aside:
        click.echo(f"put aside: {', '.join(path.name for path in report.aside)}")


def missing(report: Report) -> list[str]:
    """Return, line by line, what a restore did not bring back."""
    from notebook_agents.journal.damage import records

    lines = []
    if report.given_up:
        threads = ", ".join(f"{thread} ({count})" for thread, count in report.given_up.items())
        lines.append(f"not brought back, so these steps may run again: {threads}")
    if report.gap is not None:
        lines.append(
            f"not brought back: {records([report.gap])}, which the queue no longer had: look in "
            "the DuckDB file that was put aside"
        )
    if report.unreadable is not None:
        lines.append(f"what came after it may be lost: {report.unreadable}")
    return lines


def _line(made: Backup) -> str:
    from notebook_agents.journal.damage import counted

    what = f"{counted(made.last, 'record')} of {counted(made.threads, 'thread')}"
    return f"{made.path}: {what}, {size(made.size)}"


def _backup_data(made: Backup) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "journal": made.journal,
        "created": data.iso(made.created),
        "last": made.last,
        "threads": made.threads,
        "size": made.size,
        "seals": made.seals,
    }


def _report_data(report: Report) -> dict[str, Any]:
    return {
        "backup": str(report.backup),
        "home": str(report.home),
        "restored": report.restored,
        "replayed": report.replayed,
        "given_up": report.given_up,
        "gap": report.gap,
        "unreadable": report.unreadable,
        "aside": [str(path) for path in report.aside],
        "complete": report.complete,
    }
