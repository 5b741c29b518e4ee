"""The variables of a kernel, kept behind each cell of a notebook and given to the next kernel.

`begin`, `keep` and `restore` run inside the kernel, asked by whoever runs the notebook (`call`
makes the expression). Kept is all or nothing: the user's variables as one pickle, so that what is
shared stays shared, and beside it what cells change around them: the working folder, the module
path, environment variables, IPython extensions and the state of random numbers. Modules are kept by
name.

A pickle is a chunk of a sealed record: the same variables are stored once, and nothing is loaded
that the thread's key did not seal.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from typing import TYPE_CHECKING, Any

from notebook_agents import pickling
from notebook_agents.errors import NotebookAgentsError, ValueNotKeptError, ValueTooLargeError
from notebook_agents.journal import Draft, Journal
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import Decoder, pack, unpack
from notebook_agents.model import Kind
from notebook_agents.runtime.plain import PlainCodec

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYTHING = "*"
"""Stands for a variable's name where no single one is to blame."""

_IPYTHONS = re.compile(r"__.*__|_{1,3}|_\d+|_i+|_i\d+|_[oid]h|_exit_code|In|Out")
_KINDS = "notebook_agents.graph.kinds"
_environment: dict[str, str] = {}
_path: list[str] = []
_open: dict[str, Journal] = {}
_blamed: dict[str, Any] = {}
"""What could not be kept the last time, by name: looked at first."""


def call(function: str, **arguments: Any) -> str:
    """Return the expression that calls a function of this module in a kernel."""
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"__import__('importlib').import_module({__name__!r}).{function}({given})"


def begin() -> str:
    """Note how a fresh kernel is, before a cell changes it."""
    _environment.clear()
    _environment.update(os.environ)
    _path[:] = sys.path
    return json.dumps(None)


def keep(
    *, home: str, thread: str, run: int, token: int, step: str, attempt: int, name: str, limit: int
) -> str:
    """Record this kernel's variables behind a cell.

    Args:
        home: The journal's directory.
        thread: The notebook run's thread, whose driver asks for this.
        run: The run's number.
        token: That driver's fencing token: of one that lost the thread nothing is recorded.
        step: The cell's step.
        attempt: Its attempt.
        name: Its name.
        limit: How many bytes the variables may take.

    Returns:
        JSON: the variables that could not be kept, each with why; nothing is recorded then.
    """
    missing, pickled = _pickled(_variables(), limit)
    if missing:
        return json.dumps(missing)
    around = pickling.dumps(_around(), what="the kernel's surroundings")
    journal = _journal(home)
    encoder = Encoder(
        PlainCodec(), journal.chunks(thread), thread=thread, scope=thread, token=token
    )
    tree = encoder.encode({"variables": pickled, "around": around}, f"the variables of {name}")
    draft = Draft(
        kind=Kind.SNAPSHOT,
        thread=thread,
        scope=thread,
        run=run,
        token=token,
        step=step,
        attempt=attempt,
        name=name,
        plain=pack(encoder.placed(tree)),
        refs=encoder.refs,
        size=encoder.size,
    )
    journal.append([*encoder.new, draft], durable=False)  # the cell's result makes it so
    return json.dumps({})


def restore(*, home: str, seq: int, cells: int) -> str:
    """Give this kernel the variables of a record.

    Args:
        home: The journal's directory.
        seq: The record's number.
        cells: How many cells had run then: the next one is counted from there.

    Returns:
        JSON: why they could not be restored, or null. Then the kernel is as it was.
    """
    shell = _shell()
    before = dict(shell.user_ns)
    journal = _journal(home)
    try:
        refs, payload = journal.parts([seq])[seq]
        kept = Decoder(PlainCodec(), journal.parts).decode(unpack(payload), refs)
        around: Any = pickling.loads(kept["around"])
        _go_back(shell, around)
        variables: Any = pickling.loads(kept["variables"], main=shell.user_ns)
    except NotebookAgentsError as error:
        shell.user_ns.clear()
        shell.user_ns.update(before)
        return json.dumps(str(error))
    shell.user_ns.update(variables)
    shell.execution_count = cells + 1
    return json.dumps(None)


def _variables() -> dict[str, Any]:
    """Return the user's variables by name; not what IPython and Python put beside them."""
    shell = _shell()
    hidden, nothing = shell.user_ns_hidden, object()
    return {
        name: value
        for name, value in list(shell.user_ns.items())
        if not _IPYTHONS.fullmatch(name) and hidden.get(name, nothing) is not value
    }


def _pickled(variables: dict[str, Any], limit: int) -> tuple[dict[str, str], bytes]:
    """Return what cannot be kept, with why, or else all variables as one pickle."""
    blamed = {
        name: why
        for name, value in _blamed.items()
        if variables.get(name, _blamed) is value and (why := _why_not(value, limit))
    }
    if not blamed:
        try:
            return {}, _dumps(variables, limit)
        except ValueTooLargeError:
            return {EVERYTHING: f"they take more than {limit / 1e6:g} MB"}, b""
        except ValueNotKeptError as error:
            reason = str(error)
        blamed = {
            name: why for name, value in variables.items() if (why := _why_not(value, limit))
        } or {EVERYTHING: reason}
    _blamed.clear()
    _blamed.update({name: variables[name] for name in blamed if name in variables})
    return blamed, b""


def _why_not(value: Any, limit: int) -> str | None:
    try:
        _dumps(value, limit)
    except ValueTooLargeError:
        return None  # all of them together may be too large, none of them is to blame
    except NotebookAgentsError as error:
        return str(error).partition(" cannot be kept: ")[2].rpartition("; ")[0] or str(error)
    return None


def _dumps(value: Any, limit: int) -> bytes:
    # Only a kernel that has an agent needs to know how to keep one.
    reduce = None
    if "notebook_agents.graph.agent" in sys.modules:
        from importlib import import_module

        reduce = import_module(_KINDS).reduce
    return pickling.dumps(value, what="a variable", reduce=reduce, limit=limit)


def _around() -> dict[str, Any]:
    """Return what a cell can change besides variables, and what the cells behind it may rely on."""
    numpy = sys.modules.get("numpy.random")
    return {
        "folder": os.getcwd(),  # noqa: PTH109 - a string
        "path": [one for one in sys.path if one not in _path],
        "environment": dict(_changed(_environment, dict(os.environ))),
        "extensions": sorted(_shell().extension_manager.loaded),
        "random": random.getstate(),
        "numpy": None if numpy is None else numpy.get_state(),
    }


def _changed(before: dict[str, str], now: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield name, now.get(name)


def _go_back(shell: Any, around: dict[str, Any]) -> None:
    """Do again what cells did around their variables; before these are loaded."""
    try:
        os.chdir(around["folder"])
    except OSError as error:
        raise ValueNotKeptError(f"the folder {around['folder']} is not there any more") from error
    sys.path.extend(one for one in around["path"] if one not in sys.path)
    for name, value in around["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for name in around["extensions"]:
        if name not in shell.extension_manager.loaded:
            shell.extension_manager.load_extension(name)
    random.setstate(around["random"])
    if around["numpy"] is not None:
        from importlib import import_module

        import_module("numpy.random").set_state(around["numpy"])


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _journal(home: str) -> Journal:
    """Return the journal, opened once in this kernel; it closes it at its end."""
    journal = _open.get(home)
    if journal is None or journal.closed:
        journal = _open[home] = Journal.open(home, create=False, scheduled=False)
    return journal
