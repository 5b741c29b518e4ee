"""Run a notebook without a browser, in a kernel of this Python.

nbclient knows how to run a cell and what its outputs mean; the kernel's life is ours, because
nbclient answers SIGINT and SIGTERM by killing the kernel and then fails with an AssertionError.
Here a signal interrupts the running cell, which puts its agent's run down as it should, and the
output notebook is written whatever happens: after every cell, and at the end.

```
NotebookError                 says which cell, and how to go on
├── CellFailedError           a cell raised
├── CellTimeoutError          a cell took too long
├── KernelDiedError           the kernel died, or did not start
└── NotebookStoppedError      SIGINT or SIGTERM
NotebookFileError             no notebook, or not one for this Python (exit 2)
MissingPartError              Jupyter's packages are not installed (exit 2)
```
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from notebook_agents.errors import NotebookAgentsError, UsageError
from notebook_agents.settings import FOLDER, HOME_VARIABLE, TIMELINE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat import NotebookNode

SESSION_VARIABLE = "JPY_SESSION_NAME"
"""Where Jupyter Server tells a kernel which notebook it belongs to."""

_STARTUP_SECONDS = 60
_GRACE_SECONDS = 5.0
"""How long an interrupted cell may take before its kernel is killed."""


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


class KernelDiedError(NotebookError):
    """The kernel died under a cell, or did not start."""


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


class CellState(StrEnum):
    """What happened to a cell."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellEvent:
    """What a progress display needs to know.

    Attributes:
        number: The cell's number among the code cells, from 1.
        total: How many code cells there are.
        line: The first line of its code that is not empty.
        state: What happened to it.
        seconds: How long it took; 0.0 when it starts.
    """

    number: int
    total: int
    line: str
    state: CellState
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NotebookResult:
    """A notebook that ran to its end.

    Attributes:
        path: The notebook with its outputs.
        kernel: The kernel's process id.
        cells: How many code cells ran.
        seconds: How long all of it took, the kernel's start included.
    """

    path: Path
    kernel: int
    cells: int
    seconds: float


def run_notebook(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    journal: str | os.PathLike[str] | None = None,
    on_cell: Callable[[CellEvent], None] | None = None,
    on_kernel: Callable[[int], None] | None = None,
    timeout: float | None = None,
    kernel_name: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> NotebookResult:
    """Run all cells of a notebook in a new kernel and save the notebook with its outputs.

    Args:
        path: The notebook. It is read, not written.
        out: Where to save it with its outputs; by default beside it, as `<name>.executed.ipynb`.
        journal: The journal's directory; by default the one that the kernel finds from `cwd`.
        on_cell: Called when a cell starts, finishes or fails.
        on_kernel: Called with the kernel's process id before the first cell.
        timeout: Seconds that a cell may take; None for as long as it likes.
        kernel_name: An installed kernel's name; by default a kernel of this very Python, installed
            or not.
        cwd: Where the kernel works; by default the notebook's folder.
        environment: Variables that the kernel gets besides this process's own; JPY_SESSION_NAME
            makes it the kernel of another notebook.

    Returns:
        Where the outputs are, and what ran.

    Raises:
        NotebookError: A cell failed, was stopped or took too long, or the kernel died. The outputs
            so far are saved.
        NotebookFileError: `path` is no notebook that can run here.
        MissingPartError: nbclient or ipykernel is not installed.
    """
    notebook = Path(path).absolute()
    nb = _read(notebook, any_language=kernel_name is not None)
    target = Path(out) if out is not None else notebook.with_suffix(".executed.ipynb")
    return _Execution(
        notebook=notebook,
        out=target.absolute(),
        nb=nb,
        journal=None if journal is None else Path(journal).absolute(),
        cwd=Path(cwd or notebook.parent).absolute(),
        on_cell=on_cell,
        on_kernel=on_kernel,
        timeout=timeout,
        kernel_name=kernel_name,
        environment={SESSION_VARIABLE: str(notebook), **(environment or {})},
    ).run()


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that, whatever dies, it has its old content or all of the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _need(module: str) -> Any:
    """Import one of Jupyter's packages, or say what to install."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPartError(
            f"running a notebook needs {module}, which is not installed for {sys.executable}; "
            "install it with: python -m pip install 'notebook-agents[notebook]'"
        ) from error


def _read(path: Path, *, any_language: bool) -> NotebookNode:
    """Read a notebook and take its old outputs out.

    Raises:
        NotebookFileError: It cannot be read, or is not written in Python.
    """
    nbformat = _need("nbformat")
    try:
        nb: NotebookNode = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise NotebookFileError(f"there is no notebook {path}; check the path") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotebookFileError(f"{path} cannot be read ({reason}); check the path") from error
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookFileError(
            f"{path} is no Jupyter notebook; give the path of an .ipynb file"
        ) from error
    language = nb.metadata.get("kernelspec", {}).get("language") or "python"
    if not any_language and language != "python":
        raise NotebookFileError(
            f"{path} is written in {language}, and only Python notebooks can be run here; "
            "give the name of an installed kernel to use that one"
        )
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


@dataclass(kw_only=True)
class _Execution:
    """One notebook in one kernel: what was asked for, and how far it is."""

    notebook: Path
    out: Path
    nb: NotebookNode
    journal: Path | None
    cwd: Path
    environment: Mapping[str, str]
    on_cell: Callable[[CellEvent], None] | None = None
    on_kernel: Callable[[int], None] | None = None
    timeout: float | None = None
    kernel_name: str | None = None
    manager: AsyncKernelManager = field(init=False)
    client: NotebookClient = field(init=False)
    process: Any = None
    """The launched Popen: it keeps the exit status after the kernel's manager has forgotten it."""
    pid: int = 0
    cell: int = 0
    ending: signal.Signals | Literal["timeout"] | None = None
    """Why the running cell was interrupted, if it was."""
    busy: bool = False
    """Whether the kernel has begun the cell: one that has not would lose an interrupt."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def run(self) -> NotebookResult:
        """Run on a loop of its own, also when the caller's thread has one (in a cell)."""
        self.manager = _manager(self.kernel_name)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run())
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._run()).result()

    async def _run(self) -> NotebookResult:
        began = time.monotonic()
        with self._signals():
            try:
                async with self._kernel():
                    cells = await self._run_cells()
            finally:
                self._save()
        seconds = time.monotonic() - began
        return NotebookResult(path=self.out, kernel=self.pid, cells=cells, seconds=seconds)

    @asynccontextmanager
    async def _kernel(self) -> AsyncIterator[None]:
        """Start a kernel, and leave none behind."""
        # Nobody looks at a widget here, and one in the saved notebook would only be in the way.
        environment = {TIMELINE_VARIABLE: "static", **os.environ, **self.environment}
        if self.journal is not None:
            environment[HOME_VARIABLE] = str(self.journal)
        client = self.client = _client(self)
        try:
            try:
                await client.async_start_new_kernel(env=environment, cwd=str(self.cwd))
                self.process = getattr(self.manager.provisioner, "process", None)
                self.pid = getattr(self.manager.provisioner, "pid", None) or 0
                await client.async_start_new_kernel_client()
            except (RuntimeError, OSError) as error:
                if self.ending is None:
                    what = f"its kernel did not start ({error})"
                    raise self._error(KernelDiedError, what) from error
                raise self._ended() from None
            self.pid = await _ask_pid(client) or self.pid
            if self.on_kernel is not None:
                self.on_kernel(self.pid)
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        """End the kernel, politely where it still listens, and let go of what it used."""
        if self.client.kc is not None:
            self.client.set_widgets_metadata()
            self.client.kc.stop_channels()
        if self.manager.has_kernel:
            await self.manager.shutdown_kernel()
        await self.manager.cleanup_resources()

    async def _run_cells(self) -> int:
        """Run the code cells one by one; return how many there were."""
        cells = [
            (index, cell)
            for index, cell in enumerate(self.nb.cells)
            if cell.cell_type == "code" and cell.source.strip()
        ]
        for self.cell, (index, cell) in enumerate(cells, 1):
            event = CellEvent(
                number=self.cell,
                total=len(cells),
                line=cell.source.strip().partition("\n")[0],
                state=CellState.STARTED,
            )
            self._tell(event)
            began = time.monotonic()
            state = CellState.FAILED
            try:
                await self._run_cell(cell, index)
                state = CellState.FINISHED
            finally:
                self._tell(replace(event, state=state, seconds=time.monotonic() - began))
                self._save()
        return len(cells)

    async def _run_cell(self, cell: NotebookNode, index: int) -> None:
        """Run one cell and say in our words what went wrong."""
        from nbclient import exceptions

        if self.ending is not None:
            raise self._ended()
        loop = asyncio.get_running_loop()
        late = self.timeout and loop.call_later(self.timeout, self._end, "timeout")
        failure, self.busy = None, False
        try:
            await self.client.async_execute_cell(cell, index, execution_count=self.cell)
        except exceptions.DeadKernelError:
            signum, how = _death(self.process)
            what = f"its kernel (pid {self.pid}) died {how}"
            failure = self._error(KernelDiedError, what, signum)
        except exceptions.CellExecutionError as error:
            what = f"it raised {error.ename}" + (f": {error.evalue}" if error.evalue else "")
            failure = self._error(CellFailedError, what)
        finally:
            if late:
                late.cancel()
        if self.ending is not None:
            raise self._ended()
        if failure is not None:
            raise failure

    def _tell(self, event: CellEvent) -> None:
        if self.on_cell is not None:
            self.on_cell(event)

    def _save(self) -> None:
        text = _need("nbformat").writes(self.nb)
        write_atomic(self.out, text if text.endswith("\n") else text + "\n")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the cell, where they can be handled: in the main thread."""
        if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
            yield
            return
        loop = asyncio.get_running_loop()
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        for signum in before:
            loop.add_signal_handler(signum, self._end, signum)
        try:
            yield
        finally:
            for signum, handler in before.items():
                loop.remove_signal_handler(signum)
                signal.signal(signum, handler)

    def begun(self) -> None:
        """Note that the kernel has begun the cell."""
        self.busy = True
        if self.ending is not None:
            self._do(self.manager.interrupt_kernel)

    def _end(self, why: signal.Signals | Literal["timeout"]) -> None:
        """Interrupt the cell; the second time, or if that does not help, kill the kernel."""
        if self.ending is not None:
            self._do(partial(self.manager.shutdown_kernel, now=True))
            return
        self.ending = why
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._end, why)
        if self.busy:
            self._do(self.manager.interrupt_kernel)

    def _do(self, act: Callable[[], Awaitable[None]]) -> None:
        async def do() -> None:
            with suppress(RuntimeError):  # no kernel is running: not yet, or not any more
                await act()

        self.tasks.append(asyncio.get_running_loop().create_task(do()))

    def _ended(self) -> NotebookError:
        """Return the error for what interrupted the cell."""
        if isinstance(self.ending, signal.Signals):
            what = f"stopped by {self.ending.name}"
            return self._error(NotebookStoppedError, what, self.ending)
        what = f"it was not done after {self.timeout:g} s and was interrupted"
        return self._error(CellTimeoutError, what)

    def _error(
        self, kind: type[NotebookError], what: str, signum: int | None = None
    ) -> NotebookError:
        advice = self._advice()
        return kind(str(self.notebook), self.cell, what, advice, self.pid, signum)

    def _advice(self) -> str:
        """Say how to go on: resume this notebook's unfinished threads, else run it again."""
        home = self.journal or _journal_of(self.cwd)
        threads = _unfinished(home, self.environment[SESSION_VARIABLE])
        if not threads:
            return "it left no unfinished run behind, so run the notebook again"
        return "what it did is in the journal; go on with: " + " or ".join(
            f"notebook-agents resume {quote(thread)} --journal {quote(str(home))}"
            for thread in threads
        )


def _manager(kernel_name: str | None) -> AsyncKernelManager:
    """Return a manager for a kernel of this Python, or for the installed one that was named."""
    _need("nbclient")
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
    from jupyter_client.manager import AsyncKernelManager

    if kernel_name is not None:
        manager = AsyncKernelManager(kernel_name=kernel_name)
        try:
            manager.kernel_spec  # noqa: B018 - looks it up
        except NoSuchKernel:
            known = ", ".join(sorted(KernelSpecManager().find_kernel_specs())) or "none"
            raise NotebookFileError(
                f"there is no kernel {kernel_name!r}; installed are: {known}"
            ) from None
        return manager
    # debugpy complains about frozen modules; ipykernel's own kernel spec turns them off too.
    arguments = ["-Xfrozen_modules=off"] if platform.python_implementation() == "CPython" else []
    described = _need("ipykernel.kernelspec").get_kernel_dict(python_arguments=arguments)

    class ThisPython(KernelSpecManager):
        """Knows one kernel, which need not be installed: the Python that runs this."""

        def get_kernel_spec(self, _name: str) -> KernelSpec:
            return KernelSpec(**described)

    # A local user who may watch the loopback interface would read code and outputs.
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    if manager.has_trait("transport_encryption"):
        manager.set_trait("transport_encryption", "auto")
    return manager


def _client(execution: _Execution) -> NotebookClient:
    """Return nbclient's client; its own life cycle, which installs handlers, is not used."""
    from nbclient import NotebookClient

    class Client(NotebookClient):
        """Says when a cell has begun."""

        def process_message(self, msg: dict[str, Any], *where: Any) -> Any:
            if msg["msg_type"] == "execute_input":
                execution.begun()
            return super().process_message(msg, *where)

    return Client(
        execution.nb, km=execution.manager, timeout=None, startup_timeout=_STARTUP_SECONDS
    )


async def _ask_pid(client: NotebookClient) -> int | None:
    """Ask the kernel for its process id: what was launched may be a launcher."""
    expression = {"pid": "__import__('os').getpid()"}
    assert client.kc is not None
    message = client.kc.execute("", silent=True, user_expressions=expression)
    reply = await client.async_wait_for_reply(message) or {}
    try:
        return int(reply["content"]["user_expressions"]["pid"]["data"]["text/plain"])
    except (KeyError, ValueError):
        return None  # not a Python kernel


def _death(process: Any) -> tuple[int | None, str]:
    """Return the signal that killed the kernel, if one did, and how to say what ended it."""
    code = None if process is None else process.poll()
    if code is None:
        return None, "for a reason that is not known"
    if code >= 0:
        return None, f"with exit status {code}"
    return -code, f"by signal {-code} ({signal.Signals(-code).name})"


def _journal_of(cwd: Path) -> Path:
    """Return the journal that a kernel in `cwd` finds by itself."""
    if configured := os.environ.get(HOME_VARIABLE):
        return Path(configured).expanduser().absolute()
    homes = (folder / FOLDER for folder in (cwd, *cwd.parents))
    return next((home for home in homes if home.is_dir()), cwd / FOLDER)


def _unfinished(home: Path, notebook: str) -> list[str]:
    """Return the threads of a notebook that can be resumed, newest first."""
    from notebook_agents.journal import Journal

    try:
        with Journal.open(home, create=False) as journal:
            threads = journal.threads()
    except NotebookAgentsError:
        return []  # what ended the notebook is the news; what is wrong with the journal comes next
    return [
        info.thread for info in threads if info.notebook == notebook and not info.status.finished
    ]
