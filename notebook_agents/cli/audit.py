"""`notebook-agents audit`: a signed receipt of what a thread's steps did."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents import verify_receipt
from notebook_agents.cli import data
from notebook_agents.cli.options import existing_journal, journal_option, json_option
from notebook_agents.disk import fsync_directory
from notebook_agents.runtime.timeline import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from notebook_agents.runtime.receipts import Receipt


@click.command()
@click.argument("thread", required=False)
@click.option("--run", "number", type=click.IntRange(1), help="Only this run. Default: all.")
@click.option("--out", metavar="FILE", help="Where the receipt goes. Default: standard output.")
@click.option(
    "--signing-key",
    metavar="FILE",
    help="Sign with this Ed25519 key (PEM). Default: your own, made at first use.",
)
@click.option("--public-key", is_flag=True, help="Print the public key that others verify with.")
@click.option("--verifier", metavar="FILE", help="Write the program that verifies receipts.")
@journal_option
@json_option
def audit(
    *,
    thread: str | None,
    number: int | None,
    out: str | None,
    signing_key: str | None,
    public_key: bool,
    verifier: str | None,
    journal: str | None,
    as_json: bool,
) -> None:
    """Write a signed receipt of what a thread's steps did.

    Lines of JSON, chained by hashes: every intent with its idempotency key, every result's digest,
    every doubt and who resolved it. The thread may be driven meanwhile. Give the auditor the
    receipt, the public key and the verifier, which needs nothing of notebook-agents.

    \b
    Example:
      notebook-agents audit audit-calm-river-3f9a
      notebook-agents audit --public-key
      notebook-agents audit audit-calm-river-3f9a --out receipt.jsonl

    \b
    --json, with --out or --public-key, writes an object:
      thread, out, records ([first, last]), counts (entries by kind),
      key_id, public_key
    """
    from notebook_agents.sealing.signing import load_signing_key

    if thread is None and (number is not None or out is not None):
        raise click.UsageError("name the thread: --run and --out say what of it is wanted where")
    if thread is None and not public_key and verifier is None:
        raise click.UsageError("name a thread, or ask for --public-key or --verifier FILE")
    if thread is not None and public_key and out is None:
        raise click.UsageError("the receipt would stand behind the public key: give --out FILE")
    if verifier is not None:
        _write(Path(verifier), [Path(verify_receipt.__file__).read_bytes()])
    if thread is None and not public_key:
        return
    key = load_signing_key(None if signing_key is None else Path(signing_key))
    told: dict[str, Any] = {"key_id": key.id, "public_key": key.public_pem}
    said = [key.public_pem.rstrip()] if public_key else []
    if thread is not None:
        from notebook_agents.runtime.receipts import Receipt

        with existing_journal(journal) as opened:
            receipt = Receipt(opened, thread, key, run=number)
            if out is None:
                for line in receipt.lines():
                    click.echo(line, nl=False)
                return
            _write(Path(out), receipt.lines())
        told |= {"thread": thread, "out": out, "counts": dict(receipt.counts)}
        told["records"] = [receipt.first, receipt.last]
        said.append(_sentence(receipt, out, key.id))
    for said_line in [data.dumps(told)] if as_json else said:
        click.echo(said_line)


def _sentence(receipt: Receipt, out: str, key: str) -> str:
    return (
        f"{out}: {receipt.counts.total()} entries of thread {clean(receipt.thread)}, up to record "
        f"{receipt.last}, signed with key {key} (--public-key prints its public half)"
    )


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        click.BadParameter: It is there, or cannot be made.
    """
    if path.exists():
        raise click.BadParameter(f"{path} is there already: name another file, or move it away")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written ({error.strerror})") from error
    building = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        building.rename(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    fsync_directory(path.absolute().parent)
