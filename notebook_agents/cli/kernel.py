"""`notebook-agents kernel`."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from notebook_agents.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from notebook_agents.notebook.kernelspec import Place

F = TypeVar("F", bound="Callable[..., Any]")
_NAME = "notebook-agents"


@click.group()
def kernel() -> None:
    """Install a kernel that says what is unfinished.

    \b
    Example:
      notebook-agents kernel install --user
    """


def _where(function: F) -> F:
    """Add `--user`, `--prefix` and `--name`."""
    for option in (
        click.option("--name", default=_NAME, show_default=True, help="The kernel's name."),
        click.option("--prefix", metavar="DIR", help="An environment. Default: this Python's."),
        click.option("--user", is_flag=True, help="For this user, whatever the environment."),
    ):
        function = option(function)
    return function


@kernel.command()
@_where
@click.option("--display-name", metavar="TEXT", help="How notebooks call it.")
@json_option
def install(
    *, user: bool, prefix: str | None, name: str, display_name: str | None, as_json: bool
) -> None:
    """Install a kernel of this Python that says what is unfinished.

    Above the output of the first cell that you run in a new kernel it says in one line which of
    this notebook's runs are unfinished, and nothing where none is. `%agents` is there without
    %load_ext. Nothing else is different, and your IPython profile is not touched.

    \b
    Example:
      notebook-agents kernel install --user

    --json writes an object: name, folder.
    """
    from notebook_agents.notebook import kernelspec

    place = _place(user=user, prefix=prefix) or kernelspec.Place()
    _tell(kernelspec.install(place, name=name, display_name=display_name), as_json=as_json)


@kernel.command()
@_where
@json_option
def uninstall(*, user: bool, prefix: str | None, name: str, as_json: bool) -> None:
    """Remove a kernel that `kernel install` made.

    \b
    Example:
      notebook-agents kernel uninstall

    --json writes an object: name, folder.
    """
    from notebook_agents.notebook import kernelspec

    folder = kernelspec.uninstall(_place(user=user, prefix=prefix), name=name)
    _tell(folder, as_json=as_json)


def _tell(folder: Path, *, as_json: bool) -> None:
    from notebook_agents.cli import data

    told = {"name": folder.name, "folder": str(folder)}
    click.echo(data.dumps(told) if as_json else str(folder))


def _place(*, user: bool, prefix: str | None) -> Place | None:
    from notebook_agents.notebook.kernelspec import Place

    if user and prefix is not None:
        raise click.UsageError("--user and --prefix are two places: leave one out")
    return Place(user=user, prefix=prefix) if user or prefix is not None else None
