"""LangGraph agents that survive the death of their notebook's kernel.

Every public name is here. They are loaded when they are first used: importing this package loads
neither LangGraph nor DuckDB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from notebook_agents._version import __version__
from notebook_agents.interpreters import refuse_others

if TYPE_CHECKING:
    from notebook_agents.graph.agent import Agent
    from notebook_agents.graph.cancel import cancel
    from notebook_agents.graph.objects import objects
    from notebook_agents.graph.pruning import delete, prune
    from notebook_agents.graph.recovery import resume_all
    from notebook_agents.graph.resume import resolve, resume, unfinished
    from notebook_agents.graph.run import Run
    from notebook_agents.graph.saver import JournalSaver
    from notebook_agents.graph.stream import RunStream
    from notebook_agents.graph.threads import Thread
    from notebook_agents.journal.store import Journal
    from notebook_agents.model import RunStatus, Step
    from notebook_agents.notebook.headless import arun_notebook, run_notebook
    from notebook_agents.pickling.reopen import on_restore
    from notebook_agents.pickling.report import RestoreReport
    from notebook_agents.runtime.steps import did, did_not, idempotency_key, step
    from notebook_agents.ui.autosave import snapshot
    from notebook_agents.ui.restoring import restore, snapshots

_HOMES = {
    "arun_notebook": "notebook_agents.notebook.headless",
    "cancel": "notebook_agents.graph.cancel",
    "Agent": "notebook_agents.graph.agent",
    "Journal": "notebook_agents.journal.store",
    "JournalSaver": "notebook_agents.graph.saver",
    "Run": "notebook_agents.graph.run",
    "RunStatus": "notebook_agents.model",
    "RunStream": "notebook_agents.graph.stream",
    "Step": "notebook_agents.model",
    "Thread": "notebook_agents.graph.threads",
    "delete": "notebook_agents.graph.pruning",
    "did": "notebook_agents.runtime.steps",
    "did_not": "notebook_agents.runtime.steps",
    "idempotency_key": "notebook_agents.runtime.steps",
    "objects": "notebook_agents.graph.objects",
    "on_restore": "notebook_agents.pickling.reopen",
    "prune": "notebook_agents.graph.pruning",
    "RestoreReport": "notebook_agents.pickling.report",
    "resolve": "notebook_agents.graph.resume",
    "restore": "notebook_agents.ui.restoring",
    "resume": "notebook_agents.graph.resume",
    "resume_all": "notebook_agents.graph.recovery",
    "run_notebook": "notebook_agents.notebook.headless",
    "snapshot": "notebook_agents.ui.autosave",
    "snapshots": "notebook_agents.ui.restoring",
    "step": "notebook_agents.runtime.steps",
    "unfinished": "notebook_agents.graph.resume",
}

__all__ = [
    "Agent",
    "Journal",
    "JournalSaver",
    "RestoreReport",
    "Run",
    "RunStatus",
    "RunStream",
    "Step",
    "Thread",
    "__version__",
    "arun_notebook",
    "cancel",
    "delete",
    "did",
    "did_not",
    "idempotency_key",
    "objects",
    "on_restore",
    "prune",
    "resolve",
    "restore",
    "resume",
    "resume_all",
    "run_notebook",
    "snapshot",
    "snapshots",
    "step",
    "unfinished",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    refuse_others()
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """Do what `%load_ext notebook_agents` asks for: give the shell `%agents`.

    It also says whether variables of this notebook are kept, and keeps them from now on if the
    environment variable NOTEBOOK_AGENTS_AUTOSAVE says so.
    """
    import_module("notebook_agents.ui.magics").register(shell)
    import_module("notebook_agents.ui.welcome").begin_variables(shell)
