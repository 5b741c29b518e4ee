"""The commands. Each parses, calls and renders; `exits` has what ends them."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from notebook_agents.cli import data, exits
from notebook_agents.cli.audit import audit
from notebook_agents.cli.cancel import cancel
from notebook_agents.cli.deciding import resolve
from notebook_agents.cli.fork import fork
from notebook_agents.cli.journal import journal as journal_group
from notebook_agents.cli.kernel import kernel
from notebook_agents.cli.key import key as key_group
from notebook_agents.cli.log import log
from notebook_agents.cli.options import (
    existing_journal,
    import_from,
    journal_option,
    json_option,
    resume_command,
    use_journal,
)
from notebook_agents.cli.removing import delete
from notebook_agents.errors import KeyMissingError
from notebook_agents.model import NOTEBOOK

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=exits.App, context_settings=_CONTEXT, epilog=exits.CODES)
@click.version_option(package_name="notebook-agents", message="%(prog)s %(version)s")
def app() -> None:
    """Run LangGraph agents that survive the death of their process.

    \b
    Example:
      notebook-agents run agents.py:research --input '{"question": "…"}'
      notebook-agents resume
    """


@app.command()
@click.option(
    "--out",
    metavar="DIR",
    default="demo-out",
    show_default=True,
    help="Where notebooks, journal, ledger and report go.",
)
@click.option(
    "--env",
    metavar="VENV",
    help="Audit this environment: a venv's folder, or a Python. Default: this one.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON, and nothing else.")
@click.pass_context
def demo(ctx: click.Context, *, out: str, env: str | None, as_json: bool) -> None:
    """Kill a notebook's kernel, then resume in an empty one.

    The agent audits a Python environment; its kernel is killed in the middle of a fan-out. What
    happened is checked against the journal and a ledger, and written to demo.json.

    \b
    Example:
      notebook-agents demo --out demo-out
    """
    from dataclasses import asdict

    from notebook_agents.cli.target import python_of
    from notebook_agents.notebook.demo import run_demo

    def say(text: str) -> None:
        if not as_json:
            click.echo(text)

    result = run_demo(out=Path(out), say=say, python=None if env is None else python_of(env))
    if as_json:
        click.echo(data.dumps(asdict(result)))
    ctx.exit(0 if result.ok else 1)


@app.command()
@click.argument("target")
@click.option(
    "--input",
    "given",
    metavar="JSON",
    help="The graph's input as JSON, @file.json, or - for standard input. Default: {}.",
)
@click.option(
    "--thread", metavar="NAME", help="The conversation. Default: a name is made and said."
)
@click.option(
    "--key", metavar="KEY", help="A finished run with this key and input is not run again."
)
@click.option("--new", is_flag=True, help="Start a new run in any case.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="A notebook's parameter, as papermill has it. Repeatable.",
)
@click.option("--out", metavar="FILE", help="Where a notebook is saved with its outputs.")
@click.option("--no-resume", is_flag=True, help="Start a notebook over.")
@click.option(
    "--restarts",
    metavar="N",
    type=click.IntRange(0),
    help="How often a notebook's kernel is started anew for one cell. Default: 3.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="How long a notebook's cell may take. Default: any time.",
)
@journal_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    *,
    target: str,
    given: str | None,
    thread: str | None,
    key: str | None,
    new: bool,
    parameters: tuple[tuple[str, str], ...],
    out: str | None,
    no_resume: bool,
    restarts: int | None,
    timeout: float | None,
    journal: str | None,
    as_json: bool,
) -> None:
    """Run an agent or a notebook, or go on with its run.

    TARGET is module:name or file.py:name of an Agent or a LangGraph graph, or a notebook. The same
    command goes on with a run that was stopped, killed or failed: what returned is not run again,
    nor is a notebook's cell that finished. A notebook that came to its end begins anew.

    \b
    Examples:
      notebook-agents run agents.py:research --input '{"question": "…"}'
      notebook-agents run mypackage.agents:research --input @question.json --thread monday
      notebook-agents run analysis.ipynb -p year 2026 --out analysis.out.ipynb

    --json writes what `show --json` writes; of a notebook it writes path, kernel, cells, seconds,
    thread, skipped, restarts and notes. A cell that takes too long ends a notebook with 124.
    """
    use_journal(journal)
    of_notebooks = {
        "parameter": parameters or None,
        "out": out,
        "no-resume": no_resume or None,
        "restarts": restarts,
        "timeout": timeout,
    }
    if target.endswith(".ipynb"):
        _refuse("a notebook", thread=thread, key=key, input=given, new=new or None)
        from notebook_agents.cli.notebook import run_notebook

        options: dict[str, Any] = {"out": out, "journal": journal, "timeout": timeout}
        if restarts is not None:
            options["restarts"] = restarts
        run_notebook(target, parameters, as_json=as_json, resume=not no_resume, **options)
        return
    _refuse("an agent", **of_notebooks)
    from notebook_agents.cli.driving import Driving, folder_of
    from notebook_agents.cli.target import load_agent, read_input

    value = read_input(given)
    agent = load_agent(target, journal)
    driving = Driving(journal=journal, as_json=as_json, thread=thread, folder=folder_of(target))
    with driving.watched():
        result = agent.run(value, thread=thread, key=key, new=new)
    ctx.exit(driving.finish(result))


@app.command()
@click.argument("thread", required=False)
@click.option("--all", "everything", is_flag=True, help="All that need no person, one by one.")
@click.option(
    "--recoveries",
    metavar="N",
    type=click.IntRange(1),
    help="With --all: only runs whose process died, each N times at most while no step returns.",
)
@click.option(
    "--answer",
    "answered",
    metavar="[ID=]JSON",
    multiple=True,
    help="The answer to what it asks; with ID= (`show` has it), to one of several. Repeatable.",
)
@journal_option
@json_option
@click.pass_context
def resume(
    ctx: click.Context,
    *,
    thread: str | None,
    everything: bool,
    recoveries: int | None,
    answered: tuple[str, ...],
    journal: str | None,
    as_json: bool,
) -> None:
    """Go on with a thread's newest run.

    Without THREAD it is the newest run of the journal that can be resumed. Neither the notebook nor
    its kernel is needed: the agent is rebuilt from the journal, or imported where it was
    importable. What returned is not run again. What it asks a person is answered by --answer, which
    is on disk before the run goes on.

    With --all one that fails does not keep the others from going on; the exit code is that of the
    first that did not succeed.

    \b
    Examples:
      notebook-agents resume audit-calm-river-3f9a
      notebook-agents resume --all --recoveries 3

    --json writes what `show --json` writes; with --all a list of objects: thread, run, status,
    error.
    """
    import_from(Path.cwd())
    if everything:
        if thread is not None or answered:
            raise click.UsageError("--all takes neither a thread nor an answer: leave one out")
        from notebook_agents.cli.resume_all import resume_all

        ctx.exit(resume_all(recoveries=recoveries, journal=journal, as_json=as_json))
    if recoveries is not None:
        raise click.UsageError("--recoveries means nothing for one run: give --all too")
    import notebook_agents as na
    from notebook_agents.cli.deciding import read_answers
    from notebook_agents.cli.driving import Driving

    replies = read_answers(answered)
    driving = Driving(journal=journal, as_json=as_json, thread=thread)
    with existing_journal(journal) as opened:
        with driving.watched():
            result = na.resume(thread, journal=opened, **replies)
        code = driving.finish(result)
    ctx.exit(code)


@app.command("list")
@click.option("--unfinished", is_flag=True, help="Only threads that can be resumed.")
@journal_option
@json_option
def list_threads(*, unfinished: bool, journal: str | None, as_json: bool) -> None:
    """Show the journal's threads, the newest first.

    \b
    Example:
      notebook-agents list --unfinished

    \b
    --json writes a list of objects, times in ISO 8601 UTC:
      thread, agent, status, run, returned, intended, created, updated,
      notebook, records, driver (null or {pid, host, since})
    """
    with existing_journal(journal) as opened:
        if unfinished:
            import notebook_agents as na

            infos = na.unfinished(opened)
        else:
            infos = opened.threads()
    if as_json:
        click.echo(data.dumps([data.thread_data(info) for info in infos]))
    elif infos:
        from notebook_agents.cli import render

        render.threads(infos)
    else:
        click.echo("nothing to resume" if unfinished else "no threads yet")


@app.command()
@click.argument("thread", required=False)
@click.option("--run", "number", type=click.IntRange(1), help="Which run; default: the newest.")
@journal_option
@json_option
def show(*, thread: str | None, number: int | None, journal: str | None, as_json: bool) -> None:
    """Show a run's timeline; without THREAD, the newest one's.

    Its steps with their attempts, what was replayed, what was in doubt and why a step ran again.
    Without the key that it is sealed with, names, times and statuses are shown all the same.

    \b
    Example:
      notebook-agents show audit-calm-river-3f9a --run 2

    \b
    --json writes an object, times in ISO 8601 UTC, durations in seconds:
      thread, run, agent, status, stored, sessions, started, ended, error,
      steps_replayed, seconds_saved, usage, usage_saved,
      value (null unless it succeeded), value_error (why it cannot be shown),
      closed (why contents are not shown: the key is not here; exit code 6),
      interrupts: [id, value, value_error, step, node, namespace]: what it asks,
      steps: [id, name, parent, namespace, outcome, replayed, was_in_doubt,
              in_doubt, seconds, key, usage,
              attempts: [number, session, started, ended, outcome, error],
              decisions: [said (did, did_not, answered), attempt, user, host,
                          at, interrupt]]
      usage: input_tokens, output_tokens, total_tokens, cost (US dollars or
             null), models (the same by model, and replies)
    """
    from notebook_agents.cli import render

    import_from(Path.cwd())

    with existing_journal(journal) as opened:
        thread = thread or data.newest(opened)
        view = data.read_view(opened, thread, number)
        value = data.read_value(opened, view)
        if as_json:
            click.echo(data.dumps(data.run_data(view, value)))
        else:
            again = resume_command(thread, journal)
            if view.agent == NOTEBOOK and view.closed is None:
                from notebook_agents.cli import notebook

                again = notebook.again(opened, thread, journal)
            say = resume_command(thread, journal, command="resolve")
            click.echo(render.run(view, value, resume=again, resolve=say))
    if view.closed is not None:
        raise KeyMissingError(view.closed)


@app.command()
@journal_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, journal: str | None, as_json: bool) -> None:
    """Check the installation, the key and the journal.

    One line each, with what to do about it; the exit code is 1 if something has to be mended.

    \b
    Example:
      notebook-agents doctor

    \b
    --json writes an object:
      ok, checks: [name, level (ok, warning, bad), found, remedy]
    """
    from notebook_agents.cli.doctor import Level, examine

    found = list(examine(journal))
    ok = all(check.level is not Level.BAD for check in found)
    if as_json:
        click.echo(data.dumps({"ok": ok, "checks": [data.check_data(check) for check in found]}))
    else:
        from notebook_agents.cli import render

        render.checks(found)
    ctx.exit(0 if ok else 1)


app.add_command(audit)
app.add_command(cancel)
app.add_command(resolve)
app.add_command(fork)
app.add_command(delete)
app.add_command(log)
app.add_command(journal_group)
app.add_command(kernel)
app.add_command(key_group)


def _refuse(what: str, **options: object) -> None:
    """Refuse options that mean nothing for the target."""
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name} means nothing for {what}: leave it out")
