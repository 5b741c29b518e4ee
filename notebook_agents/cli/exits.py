"""How a command ends: the one place that maps errors, statuses and signals to exit codes."""

from __future__ import annotations

import json
import signal
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents.cli.signals import Stopped
from notebook_agents.errors import NotebookAgentsError, StepInDoubt
from notebook_agents.hiding import hidden
from notebook_agents.model import RunStatus
from notebook_agents.runtime.timeline import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

CODES = """\b
Exit codes:
  0  done                       4  a step is in doubt
  1  a run failed               5  held by another process
  2  wrong usage                6  the journal is damaged or newer
  3  waiting for a person     124  a notebook's cell took too long
                              130  Ctrl-C     143  SIGTERM
"""

STATUS_CODES: Mapping[RunStatus, int] = {
    RunStatus.SUCCEEDED: 0,
    RunStatus.FAILED: 1,
    RunStatus.CANCELLED: 1,
    RunStatus.ORPHANED: 1,
    RunStatus.WAITING: 3,
    RunStatus.IN_DOUBT: StepInDoubt.exit_code,
}

_JSON = "notebook_agents.json"
_OURS = Path(__file__).parent.parent
_MACHINERY = ("langgraph", "langchain_core", "click")


class UserCodeError(Exception):
    """The user's own code raised; `__cause__` is what it raised.

    Its message is one sentence on how things stand and what to do.
    """

    exit_code = STATUS_CODES[RunStatus.FAILED]


class App(click.Group):
    """The group of all commands; whatever ends one of them passes here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether JSON is wanted before anything can go wrong."""
        ctx.meta[_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what this package raises on purpose into its exit code.

        Anything else is a bug: it passes, with its traceback.
        """
        as_json = bool(ctx.meta[_JSON])
        try:
            return super().invoke(ctx)
        except (NotebookAgentsError, StepInDoubt) as error:
            tell(error, as_json=as_json)
            ctx.exit(error.exit_code)
        except UserCodeError as error:
            cause = error.__cause__
            assert cause is not None
            if not as_json:
                click.echo(short_traceback(cause), err=True, nl=False)
            tell(error, as_json=as_json, name=type(cause).__qualname__)
            ctx.exit(error.exit_code)
        except Stopped as error:
            tell(error, as_json=as_json)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            stopped = Stopped("stopped by Ctrl-C", signal.SIGINT)
            tell(stopped, as_json=as_json)
            ctx.exit(stopped.exit_code)
        except click.ClickException as error:
            if not as_json:
                raise
            tell(error, as_json=True, message=error.format_message())
            ctx.exit(error.exit_code)


def short_traceback(error: BaseException) -> str:
    """Format an error of the user's code, and what caused it, from their first frame on.

    Without the secrets of the environment: an error may repeat what it was given.
    """
    shown = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = shown
    while link is not None:
        first = next(
            (n for n, frame in enumerate(link.stack) if _is_users(frame.filename)), len(link.stack)
        )
        link.stack = traceback.StackSummary.from_list(link.stack[first:])
        # What this package adds for notebooks; the command says it in its own words.
        notes = [note for note in link.__notes__ or () if "na.resume(" not in note]
        link.__notes__ = notes or None
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return hidden("".join(shown.format()))


def raised_by_us(error: BaseException) -> bool:
    """Whether this package's own code raised an error: then it is a bug, and shown whole."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or Path(frames[-1].filename).is_relative_to(_OURS)


def tell(error: BaseException, *, as_json: bool, message: str = "", name: str = "") -> None:
    """Write an error to stderr: one line, or one line of JSON."""
    message = message or str(error)
    if as_json:
        told = {
            "type": name or type(error).__name__,
            "message": message,
            "exit_code": getattr(error, "exit_code", 1),
        }
        click.echo(json.dumps({"error": told}), err=True)
    else:
        click.echo(f"notebook-agents: {clean(message)}", err=True)


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<frozen") or path.is_relative_to(_OURS):
        return False
    if "site-packages" in path.parts:
        after = path.parts[path.parts.index("site-packages") + 1]
        return after not in _MACHINERY
    return not path.is_relative_to(sysconfig.get_path("stdlib"))
