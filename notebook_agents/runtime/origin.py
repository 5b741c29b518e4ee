"""Where code runs: which notebook, which cell. Asked of IPython only where it is loaded already."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notebook_agents.settings import NOTEBOOK_RUN_VARIABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a run was asked for.

    Attributes:
        notebook: The notebook's path, or None in a script or where nothing tells.
        cell: The cell's id, or None. Where the notebook runs without a browser, with that run's
            name: each asks anew what the one before was answered.
    """

    notebook: str | None
    cell: str | None


def here() -> Origin:
    """Return where the running code is."""
    shell = _shell()
    return Origin(notebook=_notebook(shell), cell=_cell(shell))


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _notebook(shell: Any) -> str | None:
    """Return the path that Jupyter Server, or VS Code, gave the kernel."""
    if shell is None:
        return None
    name = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    return None if not name else str(Path(name).absolute())


def _cell(shell: Any) -> str | None:
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    parent = kernel.get_parent() or {}
    cell = parent.get("metadata", {}).get("cellId") or None
    run = os.environ.get(NOTEBOOK_RUN_VARIABLE)
    return f"{cell} of {run}" if cell and run else cell
