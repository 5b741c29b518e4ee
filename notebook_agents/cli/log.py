"""`notebook-agents log`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from notebook_agents import clock
from notebook_agents.cli import data
from notebook_agents.cli.options import existing_journal, journal_option, json_option
from notebook_agents.model import Kind
from notebook_agents.runtime.timeline import clean

if TYPE_CHECKING:
    from notebook_agents.journal import Record

_QUIET = (Kind.CHUNK, Kind.CHECKPOINT, Kind.WRITES)


@click.command()
@click.argument("thread", required=False)
@click.option("--follow", "-f", is_flag=True, help="Show what comes, as it comes.")
@click.option(
    "--since",
    metavar="SEQ",
    type=click.IntRange(0),
    help="Only records behind this one. Default: all; with --follow, those that come.",
)
@click.option("--all", "everything", is_flag=True, help="Parts of values and the state too.")
@journal_option
@json_option
def log(
    *,
    thread: str | None,
    follow: bool,
    since: int | None,
    everything: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Show what was recorded, one line a record, the oldest first.

    With --follow it goes on with what any process records, until Ctrl-C.

    \b
    Examples:
      notebook-agents log audit-calm-river-3f9a
      notebook-agents log --since 3 --json

    \b
    --json writes one object a line:
      seq, at (ISO 8601 UTC), thread, run, kind, step, name, attempt, bytes
    """
    with existing_journal(journal) as opened:
        if follow:
            records = opened.follow(since, thread=thread)
        else:
            if thread is not None:
                opened.thread(thread)
            records = iter(opened.select(thread=thread, since=since or 0))
        for record in records:
            if everything or record.kind not in _QUIET:
                click.echo(_json(record) if as_json else _line(record))


def _json(record: Record) -> str:
    told = {
        "seq": record.seq,
        "at": data.iso(clock.from_us(record.ts)),
        "thread": record.thread,
        "run": record.run,
        "kind": str(record.kind),
        "step": record.step,
        "name": record.name,
        "attempt": record.attempt,
        "bytes": record.size,
    }
    return json.dumps(told, ensure_ascii=False)


def _line(record: Record) -> str:
    at = clock.from_us(record.ts).astimezone()
    attempt = f" · attempt {record.attempt}" if (record.attempt or 1) > 1 else ""
    what = f"{record.kind:<14} {clean(record.name or '')}".rstrip()
    return f"{record.seq:>7}  {at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + (
        f"  {clean(record.thread)}  {what}{attempt}"
    )
