"""What ends a notebook that runs without a browser.

```
NotebookError                 says which cell, and how to go on                   exit 1
├── CellFailedError           a cell raised
├── CellTimeoutError          a cell took too long                                exit 124
├── KernelDiedError           the kernel died too often, or did not start
└── NotebookStoppedError      SIGINT or SIGTERM                                   exit 130, 143
NotebookFileError             no notebook, or not one for this Python             exit 2
MissingPartError              Jupyter's packages are not installed                exit 2
```
"""

from __future__ import annotations

import signal
from typing import ClassVar

from notebook_agents.errors import NotebookAgentsError, UsageError


class NotebookError(NotebookAgentsError):
    """A notebook did not run to its end; what it did until then is saved and journaled.

    Attributes:
        notebook: The notebook's path.
        cell: The number of the cell that ended it, among the code cells from 1; 0 where none had
            begun.
        what: What happened, as the end of a sentence.
        advice: What to do next.
        kernel: The kernel's process id; 0 where there was none.
        signum: The signal that killed the kernel or stopped this process, else None.
    """

    def __init__(
        self,
        notebook: str,
        cell: int,
        what: str,
        advice: str,
        kernel: int = 0,
        signum: int | None = None,
    ) -> None:
        super().__init__(notebook, cell, what, advice, kernel, signum)
        self.notebook = notebook
        self.cell = cell
        self.what = what
        self.advice = advice
        self.kernel = kernel
        self.signum = signum

    def __str__(self) -> str:
        where = f"code cell {self.cell} of {self.notebook}" if self.cell else self.notebook
        return f"{where}: {self.what}; {self.advice}"


class CellFailedError(NotebookError):
    """A cell raised an exception."""


class CellTimeoutError(NotebookError):
    """A cell took longer than it may."""

    exit_code: ClassVar[int] = 124
    """As of timeout(1)."""


class KernelDiedError(NotebookError):
    """The kernel died under a cell more often than it may, or did not start."""


class NotebookStoppedError(NotebookError):
    """SIGINT (Ctrl-C) or SIGTERM came; the running cell was interrupted."""

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # as shells have it, not one per class
        """128 and the signal's number."""
        return 128 + (self.signum or signal.SIGINT)


class NotebookFileError(UsageError):
    """The file is not there, is no notebook, or is one for another language."""


class MissingPartError(UsageError):
    """Jupyter's packages are not installed."""
