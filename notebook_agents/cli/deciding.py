"""What people say on the command line: what happened to a step, and answers to questions."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import json
import re
from typing import Any

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
@click.argument("step", required=False)
@click.option("--did/--did-not", "happened", default=None, help="Whether it happened.")
@click.option(
    "--result",
    metavar="JSON",
    help="With --did: what it returned. Default: null. For a node: its update of the state.",
)
@journal_option
@json_option
def resolve(
    *,
    thread: str,
    step: str | None,
    happened: bool | None,
    result: str | None,
    journal: str | None,
    as_json: bool,
) -> None:
    """Say whether a step that is in doubt happened.

    STEP is its id or the beginning of it (`show` has it); it can be left out if only one is in
    doubt. What is said is recorded with your user name and host, and the next resume acts on it.
    Said again of the same attempt, the newest counts.

    \b
    Example:
      notebook-agents resolve audit-calm-river-3f9a --did --result '"receipt 7"'

    --json writes what `show --json` writes.
    """
    import notebook_agents as na

    if happened is None:
        raise click.UsageError("say what happened: --did (with --result JSON), or --did-not")
    if result is not None and not happened:
        raise click.UsageError("--result goes with --did: what did not happen returned nothing")
    value = None if result is None else _json(result, "--result")
    with existing_journal(journal) as opened:
        run = na.resolve(thread, step, na.did(value) if happened else na.did_not(), journal=opened)
        if as_json:
            click.echo(data.dumps(data.run_data(run.view, data.Value())))
        else:
            click.echo(f"recorded; go on with: {resume_command(thread, journal)}")


def read_answers(answered: tuple[str, ...]) -> dict[str, Any]:
    """Return what `--answer` comes to as arguments of `na.resume`.

    Raises:
        click.UsageError: There are several, and one does not say what it answers.
        click.BadParameter: One is not JSON.
    """
    if not answered:
        return {}
    answers: dict[str, Any] = {}
    for text in answered:
        found = re.match(r"([0-9A-Za-z_-]+)=", text)  # no JSON begins so
        if found is None:
            if len(answered) > 1:
                raise click.UsageError(
                    "several answers: say of each what it is for, --answer ID=JSON (`show` has "
                    "the ids)"
                )
            return {"answer": _json(text, "--answer")}
        if found[1] in answers:
            raise click.UsageError(f"{found[1]} is answered twice: give one answer for it")
        answers[found[1]] = _json(text[found.end() :], "--answer")
    return {"answers": answers}


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not JSON ({error}): write a text with its quotes, like {option} '\"yes\"'"
        ) from None
