"""IPython in a process of its own, cell by cell: what a kernel is, without its sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROGRAM = """
import io, json, os, sys
from traitlets.config import Config
from IPython.core.interactiveshell import InteractiveShell
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
config = Config()
config.HistoryManager.enabled = False
config.InteractiveShell.colors = "nocolor"
shell = InteractiveShell.instance(config=config)
sys.stdout = sys.stderr = shown = io.StringIO()
shell.extension_manager.load_extension("notebook_agents")
for line in sys.stdin:
    before = shown.tell()
    shell.run_cell(json.loads(line), store_history=True)
    after = shown.tell()
    answers.write(json.dumps([shown.getvalue()[before:after], shown.getvalue()]) + "\\n")
    answers.flush()
"""


class Shell:
    """A shell of a notebook in a folder, which ends as a kernel does that is shut down.

    Args:
        folder: Its working folder.
        notebook: The notebook's file.
        environment: What is set besides.

    Attributes:
        said: All that it has shown so far, also what threads said between two cells.
    """

    def __init__(
        self,
        folder: Path,
        notebook: str | None = "a.ipynb",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.said = ""
        here = {**os.environ, "IPYTHONDIR": str(folder / ".ipython"), **(environment or {})}
        if notebook is not None:
            here["JPY_SESSION_NAME"] = str(folder / notebook)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env=here,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)

    def run(self, *cells: str) -> str:
        """Run cells; return what the last one shows.

        Raises:
            EOFError: The process died.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        shown: Any = ""
        for cell in cells:
            self.process.stdin.write(json.dumps(cell) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            if not answer:
                raise EOFError(f"the process died of {self.process.wait(60)}")
            shown, self.said = json.loads(answer)
        return str(shown)

    def kill(self, *cells: str) -> None:
        """Run cells, then have the process die at once."""
        self.run(*cells)
        self.process.kill()
        self.process.communicate()


def lived(folder: Path, *cells: str, **options: Any) -> str:
    """Run cells in a shell that dies behind them; return what the last one showed."""
    with Shell(folder, **options) as shell:
        shown = shell.run(*cells)
        shell.kill("1")
    return shown
