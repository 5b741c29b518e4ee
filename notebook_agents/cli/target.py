"""What `run TARGET` names, and the input that it gets."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents.cli.exits import UserCodeError
from notebook_agents.cli.options import import_from

if TYPE_CHECKING:
    from types import ModuleType

    from notebook_agents.graph.agent import Agent


def load_agent(target: str, journal: str | None) -> Agent:
    """Return the agent that `module:name` or `file.py:name` names; a graph becomes one.

    The module is imported under the name that a later `import` gives it, with its folder on the
    path: a resume imports it from there.

    Args:
        target: What the command line names.
        journal: What `--journal` was; an agent with another journal of its own is refused.

    Raises:
        click.UsageError: The agent has another journal of its own.
        click.BadParameter: The target is not written so, or there is no such thing.
        UserCodeError: The module raised while it was imported.
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise click.BadParameter(
            f"{target!r} names no agent: write module:agent, file.py:agent or notebook.ipynb"
        )
    module = _import(where)
    value: Any = module
    for name in attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise click.BadParameter(
                f"{where} has no {attribute!r}: {_candidates(module)}"
            ) from None
    return _agent(value, target, journal)


def _agent(value: Any, target: str, journal: str | None) -> Agent:
    from notebook_agents.graph.agent import Agent

    if not isinstance(value, Agent):
        return Agent(value)
    home = value.journal.home
    if journal is not None and home != Path(journal).expanduser().absolute():
        raise click.UsageError(
            f"the agent {target} keeps its runs in {home}, not in {journal}: leave --journal out"
        )
    return value


def python_of(environment: str) -> Path:
    """Return the Python of a virtual environment's folder, or the Python that is named itself.

    Raises:
        click.BadParameter: There is none.
    """
    path = Path(environment).expanduser().absolute()
    for python in (path, path / "bin" / "python", path / "Scripts" / "python.exe"):
        if python.is_file():
            return python
    raise click.BadParameter(f"{path} is no Python and no environment with one: check the path")


def read_input(text: str | None) -> Any:
    """Return the value of `--input`: JSON, `@file.json`, or `-` for standard input.

    Raises:
        click.BadParameter: The file cannot be read, or this is not JSON.
    """
    if text is None:
        return {}
    source = "--input"
    if text == "-":
        source = "standard input"
        text = sys.stdin.read()
    elif text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{source} cannot be read: {error}; check the path") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f'{source} is not JSON ({error}): write it like --input \'{{"question": "…"}}\''
        ) from None


def _import(where: str) -> ModuleType:
    path = Path(where).expanduser()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise click.BadParameter(f"there is no file {path}: check the path")
    name = path.stem if is_file else where
    folder = path.resolve().parent if is_file else Path.cwd()
    import_from(folder)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_parent(error.name, name):
            raise click.BadParameter(
                f"there is no module {name!r} in {folder} or among the installed ones: check the "
                "name, or give the file as file.py:agent"
            ) from None
        raise UserCodeError(
            f"{where} cannot be imported: correct it and run the same command again"
        ) from error
    found = Path(module.__file__ or "")
    if is_file and found != path.resolve():
        raise click.BadParameter(
            f"{path} has the name of another module ({found}): give the file another name"
        )
    return module


def _is_parent(missing: str | None, name: str) -> bool:
    """Whether `missing` is the module that was asked for, or a package around it."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _candidates(module: ModuleType) -> str:
    """Say which of a module's names could be meant."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, type)
        and any(hasattr(value, method) for method in ("invoke", "compile", "arun"))
    ]
    if not names:
        return "it has no graph and no Agent under any name"
    return f"it could be {', '.join(sorted(names))}"
