"""Run a notebook without a browser, so that it survives its kernel and its runner.

`execution` runs the cells, `cell_journal` has the record of them, `variables` what the kernel
knew; here is what a program calls.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_agents import settings
from notebook_agents.errors import UsageError
from notebook_agents.model import RunStatus
from notebook_agents.notebook import parameters as parameters_
from notebook_agents.notebook.cell_journal import CellJournal
from notebook_agents.notebook.cells import need, read
from notebook_agents.notebook.errors import NotebookStoppedError
from notebook_agents.notebook.execution import SESSION_VARIABLE, Execution
from notebook_agents.notebook.steps import watching
from notebook_agents.saying import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from notebook_agents.notebook.cells import CellEvent
    from notebook_agents.runtime.events import StepEvent

RESTARTS = 3
"""How often the kernel is started anew for one cell, unless it is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotebookResult:
    """A notebook that ran to its end.

    Attributes:
        path: The notebook with its outputs.
        kernel: The process id of the kernel that ran its last cell; 0 where none was left to run.
        cells: How many code cells it has.
        seconds: How long all of it took here, the kernel's start included.
        thread: The thread that has its run in the journal.
        skipped: How many cells an earlier process had finished.
        restarts: How often a fresh kernel went on for one that died.
        notes: What happened besides, one sentence each: which variables could not be kept, say.
    """

    path: Path
    kernel: int
    cells: int
    seconds: float
    thread: str = ""
    skipped: int = 0
    restarts: int = 0
    notes: tuple[str, ...] = ()


def run_notebook(
    path: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    journal: str | os.PathLike[str] | None = None,
    resume: bool = True,
    restarts: int = RESTARTS,
    timeout: float | timedelta | None = None,
    on_cell: Callable[[CellEvent], None] | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_kernel: Callable[[int], None] | None = None,
    kernel_name: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> NotebookResult:
    """Run the cells of a notebook and save the notebook with its outputs.

    Called again with the same notebook and parameters after a kill, a stop or a failed cell, it
    goes on: finished cells are skipped and keep their outputs, the variables from behind them are
    restored, agents in the cell that was cut off go on. What was changed runs, with all behind it.
    A run that came to its end is followed by another one, whose agents answer anew.

    Args:
        path: The notebook. It is read, not written.
        parameters: Values of variables, assigned behind the cell tagged `parameters`, or at the
            top: numbers, text, True, False, None, lists, tuples, dicts.
        out: Where to save it with its outputs; by default beside it, as `<name>.executed.ipynb`.
        journal: The journal's directory; by default the one that the kernel finds from `cwd`.
        resume: Whether to go on with a run that is unfinished; else it is cancelled.
        restarts: How often the kernel is started anew for one cell that it dies under.
        timeout: How long a cell may take, in seconds; None for as long as it likes.
        on_cell: Called when a cell starts, finishes, fails or is skipped.
        on_step: Called in another thread when something happened to a step of an agent in it.
        on_note: Called with each sentence of `NotebookResult.notes` at once.
        on_kernel: Called with the process id of each kernel before it runs a cell.
        kernel_name: An installed kernel's name; by default a kernel of this very Python.
        cwd: Where the kernel works; by default the notebook's folder.
        environment: Variables that the kernel gets besides this process's own; JPY_SESSION_NAME
            makes it the kernel of another notebook.

    Returns:
        Where the outputs are, and what ran.

    Raises:
        NotebookError: A cell failed, was stopped or took too long, or the kernel died too often.
            The outputs so far are saved.
        NotebookFileError: `path` is no notebook that can run here.
        UsageError: A parameter cannot be written into a notebook.
        ThreadBusyError: Another process runs it with the same parameters.
        MissingPartError: nbclient or ipykernel is not installed.
    """
    work = _Work(**locals())  # the arguments, and nothing else is there yet
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work.run()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work.run).result()  # the caller's thread has a loop: in a cell, say


async def arun_notebook(
    path: str | os.PathLike[str], parameters: Mapping[str, Any] | None = None, **options: Any
) -> NotebookResult:
    """Do as `run_notebook` without blocking the event loop; it takes the same options.

    Cancelling the task interrupts the running cell. A later call goes on from there.

    Raises:
        Exception: As `run_notebook`.
    """
    work = _Work(path, parameters, **options)
    with ThreadPoolExecutor(1) as pool:
        done = asyncio.get_running_loop().run_in_executor(pool, work.run)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            work.stop()
            await asyncio.wait([done])
            done.exception()  # it says that it was stopped, and nobody else needs to know
            raise


class _Work:
    """A call of `run_notebook`: what it was given is checked at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        parameters: Mapping[str, Any] | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        journal: str | os.PathLike[str] | None = None,
        resume: bool = True,
        restarts: int = RESTARTS,
        timeout: float | timedelta | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if restarts < 0:
            raise UsageError(f"restarts is {restarts}: give 0 or more")
        self._notebook = Path(path).absolute()
        self._nb = read(self._notebook, any_language=options.get("kernel_name") is not None)
        self._parameters = parameters_.checked(parameters)
        if (odd := parameters_.unknown(self._nb, self._parameters)) is not None:
            say(f"notebook {self._notebook.name} runs nevertheless, but {odd}")
        parameters_.inject(self._nb, self._parameters)
        self._out = Path(out or self._notebook.with_suffix(".executed.ipynb")).absolute()
        self._cwd = Path(cwd or self._notebook.parent).absolute()
        self._home = Path(journal).absolute() if journal is not None else journal_of(self._cwd)
        self._resume = resume
        self._on_step = on_step
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        self._options = {
            **options,
            "restarts": restarts,
            "timeout": timeout,
            "limit": settings.variables_bytes(),
            "environment": {SESSION_VARIABLE: str(self._notebook), **(environment or {})},
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._execution: Execution | None = None
        self._stopped = self._cancelled = False
        need("nbclient")

    def run(self) -> NotebookResult:
        """Run it on a loop of its own."""
        return asyncio.run(self._run())

    def stop(self) -> None:
        """Interrupt it, as Ctrl-C does; from any thread."""
        self._stopped = True
        loop, execution = self._loop, self._execution
        if loop is not None and execution is not None and not loop.is_closed():
            loop.call_soon_threadsafe(execution.stop, signal.SIGINT)

    def _cancel(self, ours: str, thread: str) -> bool:
        """Interrupt it for good, if it is what another process wants to be cancelled."""
        if thread == ours:
            self._cancelled = True
            self.stop()
        return thread == ours

    async def _run(self) -> NotebookResult:
        from notebook_agents.journal import Journal

        began = time.monotonic()
        with Journal.open(self._home, scheduled=False) as journal:
            book = CellJournal(journal, self._notebook, self._parameters)
            execution = Execution(
                notebook=self._notebook,
                out=self._out,
                nb=self._nb,
                book=book,
                cwd=self._cwd,
                **self._options,
            )
            self._out.parent.mkdir(parents=True, exist_ok=True)
            try:
                book.begin(resume=self._resume)
                self._loop, self._execution = asyncio.get_running_loop(), execution
                if self._stopped:
                    execution.stop(signal.SIGINT)
                journal.leases.cancel_by(partial(self._cancel, book.thread))
                with watching(journal, execution.environment[SESSION_VARIABLE], self._on_step):
                    await execution.run()
                cells = len(execution.cells)
                book.finish(RunStatus.SUCCEEDED, value={"notebook": str(self._out), "cells": cells})
            except NotebookStoppedError:
                if self._cancelled:
                    book.finish(RunStatus.CANCELLED)
                raise
            finally:
                book.release()
        return NotebookResult(
            path=self._out,
            kernel=execution.pid,
            cells=cells,
            seconds=time.monotonic() - began,
            thread=book.thread,
            skipped=execution.skipped,
            restarts=sum(execution.deaths.values()),
            notes=tuple(execution.notes),
        )


def journal_of(cwd: Path) -> Path:
    """Return the journal that a kernel in `cwd` finds by itself."""
    if configured := os.environ.get(settings.HOME_VARIABLE):
        return Path(configured).expanduser().absolute()
    homes = (folder / settings.FOLDER for folder in (cwd, *cwd.parents))
    return next((home for home in homes if home.is_dir()), cwd / settings.FOLDER)
