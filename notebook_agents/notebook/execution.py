"""One run of a notebook in this process: its kernels, one after the other, and its cells.

nbclient knows how to run a cell and what its outputs mean; the kernel's life is ours, because
nbclient answers SIGINT and SIGTERM by killing the kernel and then fails with an AssertionError.
Here a signal interrupts the running cell, which puts its agent's run down as it should, and the
output notebook is written whatever happens: after every cell, and at the end.

A kernel that died is followed by a fresh one. It gets the variables from behind the last cell where
all of them could be kept; cells up to there are skipped, the others run again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from notebook_agents.model import NOTEBOOK, RunStatus
from notebook_agents.notebook import variables
from notebook_agents.notebook.cells import (
    Cell,
    CellEvent,
    CellState,
    code_cells,
    outputs_of,
    put_outputs,
    save,
)
from notebook_agents.notebook.errors import (
    CellFailedError,
    CellTimeoutError,
    KernelDiedError,
    NotebookError,
    NotebookStoppedError,
)
from notebook_agents.notebook.kernel import STARTUP_SECONDS, ask, death, manager_of, pid_of
from notebook_agents.settings import (
    HOME_VARIABLE,
    NOTEBOOK_RUN_VARIABLE,
    TIMELINE_VARIABLE,
    VARIABLES_VARIABLE,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat import NotebookNode

    from notebook_agents.notebook.cell_journal import CellJournal, Done

SESSION_VARIABLE = "JPY_SESSION_NAME"
"""Where Jupyter Server tells a kernel which notebook it belongs to."""

_GRACE_SECONDS = 5.0
"""How long an interrupted cell may take before its kernel is killed."""

Ending = signal.Signals | Literal["timeout"]


@dataclass(kw_only=True)
class Execution:
    """A notebook that is run: what was asked for, and how far it is.

    Attributes:
        restarts: How often the kernel is started anew for one cell that it dies under.
        limit: How many bytes the variables behind a cell may take; 0 keeps none.
        skipped: How many cells did not run in this process.
        deaths: How often the kernel died, by cell.
        notes: What a person wants to know besides: sentences.
    """

    notebook: Path
    out: Path
    nb: NotebookNode
    book: CellJournal
    cwd: Path
    environment: Mapping[str, str]
    restarts: int
    limit: int
    on_cell: Callable[[CellEvent], None] | None = None
    on_kernel: Callable[[int], None] | None = None
    on_note: Callable[[str], None] | None = None
    timeout: float | None = None
    kernel_name: str | None = None
    manager: AsyncKernelManager = field(init=False)
    client: NotebookClient | None = None
    process: Any = None
    """The launched Popen: it keeps the exit status after the kernel's manager has forgotten it."""
    pid: int = 0
    cell: int = 0
    ending: Ending | None = None
    """Why the running cell was interrupted, if it was."""
    busy: bool = False
    """Whether the kernel has begun the cell: one that has not would lose an interrupt."""
    started: bool = False
    skipped: int = 0
    deaths: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _done: list[Done] = field(default_factory=list)
    _shown: bool = False
    """Whether the outputs of skipped cells are in the notebook."""
    _too_much: set[int] = field(default_factory=set)
    """Cells behind which the kernel died while it kept its variables: not asked for again."""
    _useless: set[int] = field(default_factory=set)
    """Numbers of records whose variables could not be restored."""

    def __post_init__(self) -> None:
        self.manager = manager_of(self.kernel_name)
        self.cells = code_cells(self.nb)

    async def run(self) -> None:
        """Run the cells that are still to run, in as many kernels as it takes."""
        self._done = self.book.done(self.cells)
        if self.book.resumed and self.book.changed(self.cells):
            self._note(f"from cell {len(self._done) + 1} on the notebook has changed")
        with self._signals():
            try:
                if len(self._done) == len(self.cells):
                    self._skip(len(self.cells))
                while len(self._done) < len(self.cells):
                    try:
                        async with self._kernel() as client:
                            await self._run_cells(client)
                    except KernelDiedError as error:
                        self._died(error)
            except NotebookStoppedError:
                raise  # without an end: whoever runs the notebook again goes on
            except NotebookError as error:
                self.book.finish(RunStatus.FAILED, error=f"{type(error).__name__}: {error}")
                raise
            finally:
                save(self.nb, self.out)

    def stop(self, why: Ending) -> None:
        """Interrupt the cell; the second time, or if that does not help, kill the kernel."""
        if self.ending is not None:
            self._do(partial(self.manager.shutdown_kernel, now=True))
            return
        self.ending = why
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self.stop, why)
        if self.busy:
            self._do(self.manager.interrupt_kernel)

    def begun(self) -> None:
        """Note that the kernel has begun the cell."""
        self.busy = True
        if self.ending is not None:
            self._do(self.manager.interrupt_kernel)

    # -- kernels --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _kernel(self) -> AsyncIterator[NotebookClient]:
        """Start a kernel, and leave none behind."""
        environment = {
            # Nobody looks at a widget here, and one in the saved notebook would only be in the way.
            TIMELINE_VARIABLE: "static",
            **os.environ,
            **self.environment,
            HOME_VARIABLE: str(self.book.journal.home),
            NOTEBOOK_RUN_VARIABLE: self.book.thread,
        }
        if self.client is not None:
            self.manager = manager_of(self.kernel_name)
        self.pid, self.process, self.started = 0, None, False
        client = self.client = _client(self, self.client)
        try:
            try:
                await client.async_start_new_kernel(env=environment, cwd=str(self.cwd))
                self.process = getattr(self.manager.provisioner, "process", None)
                self.pid = getattr(self.manager.provisioner, "pid", None) or 0
                await client.async_start_new_kernel_client()
                self.pid = await pid_of(client) or self.pid
            except (RuntimeError, OSError) as error:
                if self.ending is None:
                    what = f"its kernel did not start ({error})"
                    raise self._error(KernelDiedError, what) from error
                raise self._ended() from None
            self.started = True
            if self.on_kernel is not None:
                self.on_kernel(self.pid)
            yield client
        finally:
            await self._close(client)

    async def _close(self, client: NotebookClient) -> None:
        """End the kernel, politely where it still listens, and let go of what it used."""
        if client.kc is not None:
            client.set_widgets_metadata()
            client.kc.stop_channels()
        if self.manager.has_kernel:
            await self.manager.shutdown_kernel()
        await self.manager.cleanup_resources()

    def _died(self, error: KernelDiedError) -> None:
        """Have a fresh kernel go on, unless that has been tried often enough."""
        self.deaths[error.cell] += 1
        times = self.deaths[error.cell]
        if not self.started:
            raise error
        if times > self.restarts:
            if times == 1:
                raise error
            what = f"{error.what}, the last of {times} that died in this cell"
            raise self._error(KernelDiedError, what, error.signum) from error
        self._note(f"cell {error.cell}: {error.what}; a fresh one goes on")

    async def _restored(self, client: NotebookClient) -> int:
        """Give a fresh kernel the variables from behind a cell; return how many cells that spares.

        It is the last one behind which all of them were kept and can be restored.
        """
        for number in range(len(self._done), 0, -1):
            seq = self._done[number - 1].snapshot
            if seq is None or seq in self._useless:
                continue
            self.cell = number + 1
            self._useless.add(seq)  # until it is done: it may kill the kernel
            home = str(self.book.journal.home)
            reason = await self._ask(
                client,
                variables.call(
                    "restore", home=home, thread=self.book.thread, seq=seq, cells=number
                ),
            )
            if reason is None:
                self._useless.discard(seq)
                return number
            self._note(f"the variables from behind cell {number} could not be restored: {reason}")
        return 0

    async def _ask(self, client: NotebookClient, expression: str) -> Any:
        """Return what a function of `variables` says in the kernel, or why it says nothing.

        Raises:
            KernelDiedError: The kernel died.
        """
        from nbclient.exceptions import DeadKernelError

        try:
            return json.loads(await ask(client, expression))
        except DeadKernelError:
            raise self._kernel_died() from None
        except (RuntimeError, ValueError, TypeError) as error:
            return str(error)

    # -- cells ----------------------------------------------------------------------------------

    async def _run_cells(self, client: NotebookClient) -> None:
        """Run the code cells one by one, but those that can be skipped."""
        if self.limit:
            await self._ask(client, variables.call("begin"))
        first = await self._restored(client)
        if first < len(self._done):
            self._say_again(first)
        del self._done[first:]
        self._skip(first)
        for cell in self.cells[first:]:
            self.cell = cell.number
            event = self._event(cell, CellState.STARTED)
            self._tell(event)
            began = time.monotonic()
            state = CellState.FAILED
            try:
                await self._run_cell(client, cell)
                state = CellState.FINISHED
            finally:
                self._tell(replace(event, state=state, seconds=time.monotonic() - began))
                save(self.nb, self.out)

    def _say_again(self, first: int) -> None:
        """Say which cells run again although they had finished, and why."""
        again = (first + 1, len(self._done))
        which = f"cell {again[0]} runs"
        if again[0] < again[1]:
            which = f"cells {again[0]} to {again[1]} run"
        missing = self._done[first].missing
        why = "; ".join(
            reason if name == variables.EVERYTHING else f"{name}: {reason}"
            for name, reason in missing.items()
        )
        told = f" ({why})" if why else ""
        what = "kept" if missing else "restored"
        self._note(f"{which} again: the variables behind could not be {what}{told}")

    def _skip(self, count: int) -> None:
        """Put into the notebook what the first cells had put there."""
        if self._shown:
            return  # by another kernel of this process: they stand there
        self._shown, self.skipped = True, count
        for cell, done in zip(self.cells[:count], self._done, strict=False):
            put_outputs(cell, done.kept)
            if self.client is not None:
                for display, places in done.kept["displays"].items():
                    self.client._display_id_map.setdefault(display, {})[cell.index] = places
            self._tell(self._event(cell, CellState.SKIPPED))
        save(self.nb, self.out)

    async def _run_cell(self, client: NotebookClient, cell: Cell) -> None:
        """Run one cell, and say in our words what went wrong."""
        from nbclient import exceptions

        if self.ending is not None:
            raise self._ended()
        self.book.intended(cell, self.pid)
        assert client.kc is not None
        client.kc.session.metadata = {"cellId": cell.id}  # as JupyterLab does
        loop = asyncio.get_running_loop()
        late = self.timeout and loop.call_later(self.timeout, self.stop, "timeout")
        failure: NotebookError | None = None
        self.busy = False
        client.clear_display_id_mapping(cell.index)  # its outputs are taken out, too
        try:
            await client.async_execute_cell(cell.node, cell.index, execution_count=cell.number)
        except exceptions.DeadKernelError:
            failure = self._kernel_died()
        except exceptions.CellExecutionError as error:
            what = f"it raised {error.ename}" + (f": {error.evalue}" if error.evalue else "")
            failure = self._error(CellFailedError, what)
        finally:
            self.busy = False
            if late:
                late.cancel()
        if self.ending is not None:
            failure = self._ended()
        if isinstance(failure, CellFailedError | CellTimeoutError):
            self.book.failed(cell, failure.what)
        if failure is not None:
            raise failure
        await self._keep(client, cell)

    async def _keep(self, client: NotebookClient, cell: Cell) -> None:
        """Have the kernel record its variables, then record that the cell finished."""
        missing: Any = {}
        if cell.number in self._too_much:
            missing = {variables.EVERYTHING: "the kernel died when it was to keep them"}
        elif not self.limit:
            missing = {variables.EVERYTHING: f"{VARIABLES_VARIABLE} is 0"}
        elif cell.number < len(self.cells):  # behind the last one nobody needs them
            self._too_much.add(cell.number)
            told = variables.call("keep", **self.book.place(cell))
            missing = await self._ask(client, told)
            self._too_much.discard(cell.number)
        if self.ending is not None:
            raise self._ended()
        if not isinstance(missing, dict):
            missing = {variables.EVERYTHING: str(missing)}
        before = self._done[-1].missing if self._done else {}
        for name, reason in missing.items():
            if name not in before:
                what = "the variables" if name == variables.EVERYTHING else f"the variable {name}"
                self._note(
                    f"{what} behind cell {cell.number} cannot be kept ({reason}): if the kernel "
                    f"dies, the notebook goes on from cell {cell.number} at the latest"
                )
        displays = {
            display: places[cell.index]
            for display, places in client._display_id_map.items()
            if cell.index in places
        }
        kept = {**outputs_of(cell), "displays": displays}
        self._done.append(self.book.returned(cell, kept, missing))

    def _event(self, cell: Cell, state: CellState) -> CellEvent:
        return CellEvent(number=cell.number, total=len(self.cells), line=cell.line, state=state)

    def _tell(self, event: CellEvent) -> None:
        if self.on_cell is not None:
            self.on_cell(event)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if self.on_note is not None:
            self.on_note(text)

    # -- how it ends ----------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the cell, where they can be handled: in the main thread."""
        if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
            yield
            return
        loop = asyncio.get_running_loop()
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        for signum in before:
            loop.add_signal_handler(signum, self.stop, signum)
        try:
            yield
        finally:
            for signum, handler in before.items():
                loop.remove_signal_handler(signum)
                signal.signal(signum, handler)

    def _do(self, act: Callable[[], Awaitable[None]]) -> None:
        async def do() -> None:
            with suppress(RuntimeError):  # no kernel is running: not yet, or not any more
                await act()

        self._tasks.append(asyncio.get_running_loop().create_task(do()))

    def _ended(self) -> NotebookError:
        """Return the error for what interrupted the cell."""
        if isinstance(self.ending, signal.Signals):
            what = f"stopped by {self.ending.name}"
            return self._error(NotebookStoppedError, what, self.ending)
        what = f"it was not done after {self.timeout:g} s and was interrupted"
        return self._error(CellTimeoutError, what)

    def _kernel_died(self) -> NotebookError:
        if self.ending is not None:
            return self._ended()
        signum, how = death(self.process)
        return self._error(KernelDiedError, f"its kernel (pid {self.pid}) died {how}", signum)

    def _error(
        self, kind: type[NotebookError], what: str, signum: int | None = None
    ) -> NotebookError:
        return kind(str(self.notebook), self.cell, what, self._advice(), self.pid, signum)

    def _advice(self) -> str:
        """Say how to go on: with the notebook, or with no more than its agents' runs."""
        advice = "run the notebook again to go on from there"
        journal = self.book.journal
        threads = [
            info.thread
            for info in journal.threads()
            if info.agent != NOTEBOOK
            and info.notebook == self.environment[SESSION_VARIABLE]
            and not info.status.finished
        ]
        if not threads:
            return advice
        home = quote(str(journal.home))
        return f"{advice}; its agents alone go on with: " + " or ".join(
            f"notebook-agents resume {quote(thread)} --journal {home}" for thread in threads
        )


def _client(execution: Execution, before: NotebookClient | None) -> NotebookClient:
    """Return nbclient's client; its own life cycle, which installs handlers, is not used.

    Args:
        execution: Is told when the kernel begins a cell.
        before: The dead kernel's client: what it knows of the outputs counts.
    """
    from nbclient import NotebookClient

    class Client(NotebookClient):
        """Says when a cell has begun."""

        def process_message(self, msg: dict[str, Any], *where: Any) -> Any:
            if msg["msg_type"] == "execute_input":
                execution.begun()
            return super().process_message(msg, *where)

    client = Client(
        execution.nb, km=execution.manager, timeout=None, startup_timeout=STARTUP_SECONDS
    )
    if before is not None:
        client.widget_state.update(before.widget_state)
        client.widget_buffers.update(before.widget_buffers)
        client._display_id_map.update(before._display_id_map)
    return client
