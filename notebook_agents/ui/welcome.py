"""What a kernel of `notebook-agents kernel install` adds: one line on what is unfinished here.

It is an IPython extension that the kernel's command line names; the user's profile is not touched.
A notebook shows no text that comes before its first cell runs, so the line stands above the output
of the first cell that a person runs. Nothing is read, and next to nothing imported, before that.
"""

from __future__ import annotations

import re
import sys
import threading
from html import escape
from typing import TYPE_CHECKING, Any

from notebook_agents import settings
from notebook_agents.errors import NoJournalError
from notebook_agents.model import NOTEBOOK, VARIABLES, RunStatus
from notebook_agents.ui.magics import register

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_agents.journal import Journal
    from notebook_agents.model import ThreadInfo

_COMMAND = re.compile("%agents(?: resume| show| restore)?")
_NAMED = 3
_NOTHING_TO_DO = (RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.RUNNING)
_WHAT = {
    RunStatus.WAITING: ("run waits for an answer", "show", "shows what it asks"),
    RunStatus.IN_DOUBT: ("run has a step in doubt", "show", "says what to do"),
    RunStatus.FAILED: ("failed run", "resume", "goes on behind what returned"),
}


def load_ipython_extension(shell: Any) -> None:
    """Have the first cell say what is unfinished; `%agents` is there from the start."""

    def first(info: Any) -> None:
        # Subshells run their cells in other threads; what is not for people is not in the history.
        if threading.current_thread() is not threading.main_thread() or not info.store_history:
            return
        shell.events.unregister("pre_run_cell", first)
        if (line := unfinished_line()) is not None:
            _show(shell, line)
        begin_variables(shell, told=line or "")

    shell.events.register("pre_run_cell", first)
    register(shell)


def begin_variables(shell: Any, *, told: str = "") -> None:
    """Say what is kept of this notebook's variables, or do what NOTEBOOK_AGENTS_AUTOSAVE says.

    While variables are brought back, which loads this extension again, nothing is to be done.

    Args:
        shell: The shell.
        told: What was said already: of what is broken once is enough.
    """
    namespace = sys.modules.get("notebook_agents.notebook.namespace")  # not imported for this
    if namespace is not None and namespace.loading():
        return
    try:
        wish = settings.autosave()
        line = _kept_line()
        if wish != "off":
            from notebook_agents.ui.autosave import keeper

            keeper().turn(on=True)
        if wish == "restore" and line is not None:
            from notebook_agents.ui.restoring import restore

            report = restore()
            shell.display_pub.publish({"text/plain": str(report), "text/html": report.to_html()})
        elif line is not None:
            _show(shell, line)
    except Exception as error:  # noqa: BLE001 - told: a kernel starts whatever is broken
        said = " ".join(str(error).split()) or type(error).__name__
        if said not in told:
            _show(shell, f"The variables of this notebook are not kept: {said}")


def _kept_line() -> str | None:
    """Return one line on the variables that are kept of this notebook; None where none are."""
    from notebook_agents.runtime.origin import here

    try:
        home = settings.journal_home(create=False)
    except NoJournalError:
        return None
    from notebook_agents.journal import Journal
    from notebook_agents.ui.restoring import offer

    with Journal.open(home, create=False, scheduled=False) as journal:
        return offer(journal, here().notebook)


def unfinished_line() -> str | None:
    """Return one line on this notebook's unfinished runs, or on why that cannot be told.

    Returns:
        The line; None where nothing is unfinished, no journal is here, or no notebook is known.
    """
    try:
        return _line(settings.journal_home(create=False))
    except NoJournalError:
        return None
    except Exception as error:  # noqa: BLE001 - told: a kernel starts whatever is broken
        said = " ".join(str(error).split()) or type(error).__name__
        return f"The journal of this notebook cannot be read: {said}"


def _line(home: Path) -> str | None:
    from notebook_agents.journal import Journal
    from notebook_agents.runtime.origin import here

    notebook = here().notebook
    if notebook is None:
        return None
    with Journal.open(home, create=False, scheduled=False) as journal:
        found = [
            info
            for info in journal.threads()
            if info.agent not in (None, NOTEBOOK, VARIABLES)
            and info.notebook == notebook
            and info.status not in _NOTHING_TO_DO
        ]
        if not found:
            return None
        return _told(journal, found)


def _told(journal: Journal, found: list[ThreadInfo]) -> str:
    from notebook_agents.runtime.timeline import clean

    if len(found) > 1:
        names = ", ".join(clean(info.thread) for info in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return (
            f"{len(found)} unfinished runs here: {names}{more}; %agents lists them, "
            "%agents resume goes on with the first"
        )
    [info] = found
    one, word, then = _WHAT.get(info.status, ("unfinished run", "resume", "goes on with it"))
    returned, begun = _steps(journal, info)
    steps = f"{returned} of {begun} steps safe" if begun else "no step has begun"
    return f"1 {one} here: {clean(info.thread)}, {steps}; %agents {word} {then}"


def _steps(journal: Journal, info: ThreadInfo) -> tuple[int, int]:
    """Return how many steps of the newest run have returned, and how many have begun."""
    from notebook_agents.model import Kind

    kinds = (Kind.STEP_INTENDED, Kind.STEP_RETURNED)
    records = journal.select(thread=info.thread, run=info.run, kinds=kinds)
    steps = {kind: {record.step for record in records if record.kind is kind} for kind in kinds}
    return len(steps[Kind.STEP_RETURNED]), len(steps[Kind.STEP_INTENDED])


def _show(shell: Any, line: str) -> None:
    # No colours of its own: the notebook is light or dark.
    text = _COMMAND.sub(r"<code>\g<0></code>", escape(line))
    html = f'<div role="note" style="opacity:.75">{text}</div>'
    shell.display_pub.publish({"text/plain": line, "text/html": html})
