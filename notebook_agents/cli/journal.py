"""`notebook-agents journal …`: what is done to a journal's files."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from notebook_agents.cli import data
from notebook_agents.cli.backup import backup, backups, restore
from notebook_agents.cli.compact import compact
from notebook_agents.cli.options import json_option
from notebook_agents.cli.progress import counting
from notebook_agents.cli.removing import prune
from notebook_agents.errors import JournalDamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from notebook_agents.journal.check import Checked
    from notebook_agents.journal.inspection import Finding
    from notebook_agents.journal.repair import Repaired, Rung

_MARKS = {"minor": ("!", "yellow"), "major": ("✗", "red"), "catastrophic": ("✗", "red")}
_SHOWN = 20


@click.group()
def journal() -> None:
    """Back up, restore, prune, check, repair and compact the journal's files.

    \b
    Example:
      notebook-agents journal check
    """


for _command in (backup, backups, compact, restore, prune):
    journal.add_command(_command)


@journal.command()
@click.argument("directory", metavar="[DIR]", required=False)
@json_option
@click.pass_context
def check(ctx: click.Context, *, directory: str | None, as_json: bool) -> None:
    """Look at every record, seal, reference and file.

    DIR is the journal's directory; default: the one that a run here would use. Others may be using
    it meanwhile. What is found is minor (nothing of the history is affected), major (some records
    or threads) or catastrophic (nothing can be read); from major on the exit code is 6.

    \b
    Example:
      notebook-agents journal check

    \b
    --json writes an object:
      journal, opens, severity (null, minor, major, catastrophic), records,
      threads, locked (scopes whose key is not here),
      findings: [severity, what, thread, records: [[first, last]]]
    """
    from notebook_agents.journal.check import check as look

    home = _home(directory)
    with counting(quiet=as_json) as progress:
        found = look(home, progress)
    if as_json:
        click.echo(data.dumps(_checked(found)))
    else:
        _show(found.findings)
        click.echo(_sentence(found))
    ctx.exit(0 if found.sound else JournalDamagedError.exit_code)


@journal.command()
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@json_option
@click.pass_context
def repair(ctx: click.Context, *, directory: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring back what can be brought back.

    What is damaged is put aside, untouched, as *.damaged-<time>; new files are made from what can
    be read of it, then from a backup. What is lost is named by thread and number. Nobody else may
    be using the journal. A repair that is killed is finished by the next one. The exit code is 1 if
    something is lost, or may be.

    \b
    Examples:
      notebook-agents journal repair --dry-run
      notebook-agents journal repair

    \b
    --json writes an object:
      journal, dry_run, severity, findings (as `check` does), records, threads,
      rungs: [name, will, did], aside: [file],
      lost: [record, thread, kind], unnamed: how many more, by thread,
      beyond (null, or what may be lost without a trace): first, last (null:
      not known), driven: [thread]
    """
    from notebook_agents.journal.repair import repair as mend

    home = _home(directory)

    def say(rung: Rung) -> None:
        if not as_json:
            click.echo(f"{'would' if dry_run else 'will'} {rung.will}", err=True)

    with counting(quiet=as_json) as progress:
        done = mend(home, dry_run=dry_run, progress=progress, say=say)
    if as_json:
        click.echo(data.dumps(_repaired(done)))
    else:
        _show(done.findings)
        for line in _outcome(done):
            click.echo(line)
    ctx.exit(0 if done.complete and done.sound else 1)


def _home(directory: str | None) -> Path:
    from notebook_agents import settings

    return settings.journal_home(directory, create=False)


def _show(findings: Sequence[Finding]) -> None:
    for one in findings[:_SHOWN]:
        mark, color = _MARKS[one.severity]
        click.echo(f"{click.style(mark, fg=color)} {one.severity}: {one.what}")
    if len(findings) > _SHOWN:
        click.echo(f"  … and {len(findings) - _SHOWN} more; --json has them all")


def _sentence(found: Checked) -> str:
    from notebook_agents.journal import damage

    repair = damage.repair_command(found.home)
    counted = _counted(found)
    scopes = damage.counted(found.locked, "scope")
    locked = f"; sealed with a key that is not here: {scopes}" * bool(found.locked)
    if not found.opens:
        return f"the journal cannot be used: `{repair}` repairs it"
    if not found.sound:
        return f"{counted}: damaged; `{repair}` repairs it"
    return f"{counted}: whole{locked}"


def _counted(found: Checked | Repaired) -> str:
    from notebook_agents.journal.damage import counted

    return f"{counted(found.records, 'record')} of {counted(found.threads, 'thread')}"


def _outcome(done: Repaired) -> Iterator[str]:
    for rung in done.rungs:
        if rung.did:
            yield f"{rung.name}: {rung.did}"
    if done.aside:
        yield f"put aside: {', '.join(done.aside)}"
    if not done.rungs:
        yield f"nothing to repair: {_counted(done)}"
    elif not done.dry:
        yield f"the journal {'opens' if done.sound else 'is still damaged'}"


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "severity": str(one.severity),
        "what": one.what,
        "thread": one.thread,
        "records": [list(pair) for pair in one.seqs],
    }


def _checked(found: Checked) -> dict[str, Any]:
    return {
        "journal": str(found.home),
        "opens": found.opens,
        "severity": found.severity,
        "records": found.records,
        "threads": found.threads,
        "locked": found.locked,
        "findings": [_finding(one) for one in found.findings],
    }


def _repaired(done: Repaired) -> dict[str, Any]:
    return {
        "journal": str(done.home),
        "dry_run": done.dry,
        "severity": done.severity,
        "records": done.records,
        "threads": done.threads,
        "findings": [_finding(one) for one in done.findings],
        "rungs": [{"name": one.name, "will": one.will, "did": one.did} for one in done.rungs],
        "aside": done.aside,
        "lost": [{"record": one.seq, "thread": one.thread, "kind": one.kind} for one in done.lost],
        "unnamed": done.unnamed,
        "beyond": None if done.beyond is None else asdict(done.beyond),
    }
