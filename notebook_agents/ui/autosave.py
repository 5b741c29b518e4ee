"""A kernel's variables behind each cell: taken in the main thread, recorded by another one.

All kernels of a notebook record into one thread, one after the other. It is nobody's while it
rests, which is always: what keeps two kernels of one notebook apart is the fencing token that each
takes when it begins. The one before is refused from then on, and gets a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents import ids
from notebook_agents.errors import FencedError, UsageError
from notebook_agents.graph.folder import default_journal
from notebook_agents.journal import Claim, Draft, Journal
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import pack
from notebook_agents.model import VARIABLES, Kind, RunStatus
from notebook_agents.notebook import namespace
from notebook_agents.notebook.snapshots import Captured, Snapshots, recorded
from notebook_agents.runtime.origin import here
from notebook_agents.runtime.plain import PlainCodec
from notebook_agents.saying import say

if TYPE_CHECKING:
    from notebook_agents.pickling.report import RestoreReport

KEPT = 50
"""The newest so many snapshots of a notebook stay."""
_AT_ONCE = 16
"""How many older ones go together."""
_CHEAP_SECONDS = 0.1
"""A snapshot that takes no longer is taken behind each cell, whatever the cells take."""
_SHARE = 20
"""One that takes longer waits until so many times that long has passed, or the kernel is idle."""
_IDLE_SECONDS = 1.0
_LINE = 80


class _Task(NamedTuple):
    captured: Captured
    more: dict[str, Any]
    always: bool


class Keeper:
    """Keeps the variables of this kernel; there is one.

    Attributes:
        journal: Where.
        notebook: The notebook's path, or None where nothing tells.
        thread: The thread that has the snapshots.
        on: Whether there is one behind each cell.
        began: Whether this kernel has recorded or restored anything.
        number: That of the newest snapshot.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.notebook = here().notebook
        self.thread = thread_of(self.notebook)
        self.snapshots = Snapshots(journal, self.thread)
        self.on = False
        self.began = False
        self.number = 0
        self._pid = os.getpid()
        self._life = self._token = 0
        self._live: list[int] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._resting = threading.Event()
        self._resting.set()
        self._failure: BaseException | None = None
        self._said: set[str] = set()
        self._took = self._when = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._borrowed = False
        self._running = False
        self._line = ""

    # -- behind each cell ---------------------------------------------------------------------

    def turn(self, *, on: bool) -> None:
        """Begin or end keeping the variables behind each cell."""
        if on != self.on:
            events = namespace.shell().events
            change = events.register if on else events.unregister
            change("pre_run_cell", self._before)
            change("post_run_cell", self._behind)
            self.on = on
            if not on:
                self.flush()

    def _before(self, info: Any) -> None:
        if not _is_cell(info):
            return
        self._running = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._borrowed:  # the cell may change what is not copied yet
            self._resting.wait()
            self._borrowed = False

    def _behind(self, result: Any) -> None:
        if not _is_cell(result.info):
            return
        self._running = False
        self._line = str(result.info.raw_cell or "").strip().partition("\n")[0][:_LINE]
        waited = time.monotonic() - self._when
        if self._took > _CHEAP_SECONDS and waited < _SHARE * self._took and self._put_off():
            return
        self._try()

    def _put_off(self) -> bool:
        """Have the snapshot taken when no cell has run for a while; where there is a loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._timer = loop.call_later(_IDLE_SECONDS, self._idle)
        return True

    def _idle(self) -> None:
        self._timer = None
        if self.on and not self._running:
            self._try()

    def _try(self) -> None:
        """Take a snapshot; say once what keeps it from being taken."""
        try:
            self.take(always=False)
        except Exception as error:  # noqa: BLE001 - a cell must not seem to have failed for it
            self._say(f"the variables are not kept behind this cell: {error}")

    def take(self, *, always: bool) -> None:
        """Take a snapshot and have it recorded.

        Raises:
            JournalError: The thread cannot be written to.
        """
        began = time.perf_counter()
        if not self.began:
            self._begin()
        shell = namespace.shell()
        captured = self.snapshots.capture()
        more = {
            "cell": shell.execution_count - (not self._running),
            "line": self._line,
            "seen": self.journal.newest(),
        }
        self._borrowed = self._borrowed or captured.borrowed
        self._resting.clear()
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(
                target=self._work, name="notebook-agents-variables", daemon=True
            )
            self._worker.start()
            atexit.register(self.close)
        self._tasks.put(_Task(captured, more, always))
        self._took, self._when = time.perf_counter() - began, time.monotonic()

    def flush(self) -> None:
        """Wait until everything taken is on disk.

        Raises:
            NotebookAgentsError: Some of it could not be recorded.
        """
        self._resting.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Record what was taken; for the kernel's end."""
        if self._pid != os.getpid():
            return
        if self._timer is not None and self.on:
            self._try()
        self._resting.wait()

    # -- recording ----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            try:
                self._record(task)
            except FencedError as error:
                # Another kernel of this notebook has begun, or the thread was deleted.
                self._failure = error
                self.began = False
                self.thread = ids.new_thread_name(f"{_stem(self.notebook)}-variables")
                self.snapshots = Snapshots(self.journal, self.thread)
            except Exception as error:  # noqa: BLE001 - told: the next one has what this one had
                self._failure = error
                self._say(f"a snapshot of the variables was not recorded: {error}")
            finally:
                del task
                if self._tasks.empty():
                    self._resting.set()

    def _record(self, task: _Task) -> None:
        columns = {
            "scope": self.thread,
            "token": self._token,
            "run": self._life,
            "attempt": self.number + 1,
        }
        seq = self.snapshots.write(
            task.captured, columns=columns, more=task.more, always=task.always
        )
        for name, why in self.snapshots.missing().items():
            self._say(f"the variable {name} is not kept: {why}")
        if seq is not None:
            self.number += 1
            self._live.append(seq)
            self._thin()

    def _thin(self) -> None:
        """Have old snapshots deleted; what newer ones refer to in them stays."""
        if len(self._live) < KEPT + _AT_ONCE:
            return
        old = self._live[:-KEPT]
        gone = Draft(kind=Kind.DELETION, thread=self.thread, scope=self.thread, token=self._token)
        gone.refs = old
        self.journal.append([gone], durable=False)
        del self._live[: len(old)]

    def _begin(self) -> None:
        """Take the notebook's thread: from now on a kernel before this one is refused.

        Raises:
            JournalError: It cannot be written to.
        """
        before = recorded(self.journal, self.thread)
        self._live = [record.seq for record in before]
        self.number = before[-1].attempt or 0 if before else 0
        head = self.journal.head(self.thread)
        self._life = 1 if head is None else head.run + 1
        claim = Claim(agent=VARIABLES, run=self._life, session=1, notebook=self.notebook)
        place: dict[str, Any] = {"thread": self.thread, "scope": self.thread, "run": self._life}
        begun = Draft(kind=Kind.RUN_STARTED, name=VARIABLES, attempt=1, claim=claim, **place)
        begun.plain = pack({})
        done = Draft(kind=Kind.RUN_FINISHED, name=str(RunStatus.SUCCEEDED), attempt=1, **place)
        encoder = Encoder(
            PlainCodec(),
            self.journal.chunks(self.thread),
            thread=self.thread,
            scope=self.thread,
            token=None,
        )
        told = encoder.placed(encoder.encode({"notebook": self.notebook}, "the notebook's path"))
        done.plain, done.refs = pack((told, None)), encoder.refs
        self.journal.append([begun, *encoder.new, done], durable=True)
        self.journal.release(self.thread, claim.token)
        self._token = claim.token
        self.began = True

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            say(line)

    # -- restoring ----------------------------------------------------------------------------

    def load(self, seq: int, what: str) -> tuple[dict[str, Any], RestoreReport, dict[str, Any]]:
        """Return the variables of a snapshot; the next one is taken as what changed since it."""
        self._resting.wait()
        if not self.began:
            self._begin()
        return self.snapshots.load(seq, what)


_keeper: Keeper | None = None


def keeper(*, create: bool = True) -> Keeper:
    """Return what keeps this kernel's variables.

    Args:
        create: Whether the folder gets a journal, where it has none.

    Raises:
        UsageError: This is no kernel, and no IPython shell.
        NoJournalError: There is no journal, and none may be made.
    """
    global _keeper
    if namespace.shell() is None:
        raise UsageError(
            "variables are kept of notebooks and of IPython, and this is neither: in a script give "
            "objects to a thread, agent.thread(…).objects"
        )
    begin()
    if _keeper is None or _keeper.journal.closed or _keeper._pid != os.getpid():
        _keeper = Keeper(default_journal(create=create))
    return _keeper


def begin() -> None:
    """Note how this kernel is, unless that is known: what its cells change is told from that."""
    global _begun
    if not _begun:
        namespace.begin()
        _begun = True


_begun = False


def thread_of(notebook: str | None) -> str:
    """Return the name of the thread that has a notebook's variables."""
    place = notebook or str(Path.cwd())
    return ids.thread_name(
        f"{_stem(notebook)}-variables", hashlib.blake2b(place.encode(), digest_size=6).digest()
    )


def _stem(notebook: str | None) -> str:
    return Path(notebook).stem if notebook else "kernel"


def _is_cell(info: Any) -> bool:
    """Whether it is a cell that a person ran: others run in subshells, or have no history."""
    ours = threading.current_thread() is threading.main_thread()
    return ours and info is not None and bool(info.store_history)


def snapshot() -> int:
    """Record this kernel's variables now, in thread and journal of this notebook.

    Recorded is what changed since the snapshot before; what cannot be kept is named.

    Returns:
        The snapshot's number, for `restore`. It is on disk.

    Raises:
        UsageError: This is no kernel.
        NotebookAgentsError: It could not be recorded.
    """
    own = keeper()
    own.take(always=True)
    own.flush()
    return own.number
