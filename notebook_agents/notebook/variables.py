"""The variables of a notebook that runs without a browser, behind each cell, for the next kernel.

`begin`, `keep` and `restore` run inside the kernel, asked by whoever runs the notebook (`call`
makes the expression). See `snapshots.py`.
"""

from __future__ import annotations

import json
from typing import Any

from notebook_agents.errors import NotebookAgentsError
from notebook_agents.journal import Journal
from notebook_agents.notebook import namespace
from notebook_agents.notebook.snapshots import Snapshots

EVERYTHING = "*"
"""Stands for a variable's name where no single one is to blame."""

_open: dict[str, Journal] = {}
_snapshots: dict[tuple[str, str], Snapshots] = {}


def call(function: str, **arguments: Any) -> str:
    """Return the expression that calls a function of this module in a kernel."""
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"__import__('importlib').import_module({__name__!r}).{function}({given})"


def begin() -> str:
    """Note how a fresh kernel is, before a cell changes it."""
    namespace.begin()
    return json.dumps(None)


def keep(
    *, home: str, thread: str, run: int, token: int, step: str, attempt: int, name: str
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

    Returns:
        JSON: the variables that could not be kept, each with why.
    """
    snapshots = _of(home, thread)
    captured = snapshots.capture()
    columns = {"scope": thread, "run": run, "token": token, "step": step, "attempt": attempt}
    # The cell's result, which comes behind it, makes it durable.
    seq = snapshots.write(captured, columns=columns, more={"cell": name}, durable=False)
    assert seq is not None
    return json.dumps(snapshots.missing())


def restore(*, home: str, thread: str, seq: int, cells: int) -> str:
    """Give this kernel the variables of a record.

    Args:
        home: The journal's directory.
        thread: The notebook run's thread.
        seq: The record's number.
        cells: How many cells had run then: the next one is counted from there.

    Returns:
        JSON: why they could not be restored, or null. Then the kernel is as it was.
    """
    shell = namespace.shell()
    before, around = dict(shell.user_ns), namespace.surroundings()
    reason = None
    try:
        variables, report, _ = _of(home, thread).load(seq, "the variables")
        if not report.complete:
            reason = "; ".join(f"{name}: {why}" for name, why in report.failed.items())
    except NotebookAgentsError as error:
        reason = str(error)
    if reason is not None:
        _snapshots.clear()
        shell.user_ns.clear()
        shell.user_ns.update(before)
        namespace.take_back(around)
        return json.dumps(reason)
    shell.user_ns.update(variables)
    shell.execution_count = cells + 1
    return json.dumps(None)


def _of(home: str, thread: str) -> Snapshots:
    """Return a thread's snapshots; its journal is opened once in this kernel, which closes it."""
    journal = _open.get(home)
    if journal is None or journal.closed:
        journal = _open[home] = Journal.open(home, create=False, scheduled=False)
        _snapshots.clear()
    found = _snapshots.get((home, thread))
    if found is None:
        found = _snapshots[home, thread] = Snapshots(journal, thread)
    return found
