"""Driving a run from the command line: progress, signals, and whose error it was."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from notebook_agents.cli import data, render
from notebook_agents.cli.exits import STATUS_CODES, UserCodeError, raised_by_us, tell
from notebook_agents.cli.options import resume_command
from notebook_agents.cli.progress import progress
from notebook_agents.cli.signals import Stopped, stoppable
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.graph.run import Run


class Driving:
    """One command that drives a run.

    Args:
        journal: What `--journal` was.
        as_json: Whether stdout and stderr are for programs.
        thread: The thread, where it is known before the run begins.
        folder: Where the agent's module lies, if it is not the working folder.
    """

    def __init__(
        self,
        *,
        journal: str | None,
        as_json: bool,
        thread: str | None,
        folder: str | None = None,
    ) -> None:
        self._journal = journal
        self._as_json = as_json
        self._thread = thread
        self._folder = folder

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show what the body's run does, and turn what ends it into what ends the command.

        Raises:
            Stopped: Ctrl-C or SIGTERM came.
            UserCodeError: A node, or something else of the user's, raised.
        """
        with progress(quiet=self._as_json) as seen:

            def how() -> str:
                thread = seen.thread or self._thread
                if thread is None:
                    return "no step had begun; run the same command again"
                return f"thread {thread} can be resumed with: {self._resume(thread)}"

            def told(stopped: Stopped) -> None:
                seen.finish()
                tell(stopped, as_json=self._as_json)

            try:
                with stoppable(how, told):
                    yield
            except (NotebookAgentsError, Stopped):
                raise
            except Exception as error:
                if raised_by_us(error) and not seen.node_failed:
                    raise
                thread = seen.thread or self._thread
                raise UserCodeError(
                    "the run failed before its first step: mend it and run the same command again"
                    if thread is None
                    else f"the run of thread {thread} failed: mend it and run the same command "
                    f"again, or resume it with: {self._resume(thread)}"
                ) from error

    def finish(self, run: Run) -> int:
        """Write the run to stdout; return the exit code that its status means."""
        value = data.Value()
        if run.status is RunStatus.SUCCEEDED:
            value = data.Value(held=run.value)
        if self._as_json:
            click.echo(data.dumps(data.run_data(run.view, value)))
        else:
            resolve = resume_command(run.thread, self._journal, command="resolve")
            resume = self._resume(run.thread)
            click.echo(render.run(run.view, value, resume=resume, resolve=resolve))
        return STATUS_CODES[run.status]

    def _resume(self, thread: str) -> str:
        return resume_command(thread, self._journal, folder=self._folder)


def folder_of(target: str) -> str | None:
    """Return the folder of `file.py:agent`, if it is not the working folder."""
    where = target.rpartition(":")[0]
    folder = Path(where).expanduser().resolve().parent
    return str(folder) if where.endswith(".py") and folder != Path.cwd() else None
