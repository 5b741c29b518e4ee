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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents import ids
from notebook_agents.errors import CompactedError, FencedError, UsageError
from notebook_agents.graph.folder import default_journal
from notebook_agents.journal import Claim, Draft, Journal
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import pack
from notebook_agents.model import VARIABLES, Kind, RunStatus
from notebook_agents.notebook import namespace
from notebook_agents.notebook.snapshots import Captured, Snapshots, recorded
from notebook_agents.runtime.object_records import INDEXED
from notebook_agents.runtime.origin import here
from notebook_agents.runtime.plain import PlainCodec
from notebook_agents.runtime.timeline import clean
from notebook_agents.saying import say

if TYPE_CHECKING:
    from notebook_agents.errors import NotebookAgentsError
    from notebook_agents.journal import Record
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
    snapshots: Snapshots
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
        offered: The record of the newest one of kernels before; None once it, or one that was asked
            for here, is the one that is meant.
        held: The record of the one that is being restored: it must not go.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.notebook = here().notebook
        self.thread = thread_of(self.notebook)
        self.snapshots = Snapshots(journal, self.thread)
        self.on = False
        self.began = False
        self.number = 0
        self.offered: Record | None = None
        self.held: int | None = None
        self.pid = os.getpid()
        self._life = self._token = self._count = 0
        self._taking = threading.Lock()
        self._taker: int | None = None
        self._tasks: queue.Queue[_Task] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._said: dict[str, str] = {}
        self._took = self._spent = self._when = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._borrowed = False
        self._running = False

    # -- behind each cell ---------------------------------------------------------------------

    def turn(self, *, on: bool) -> None:
        """Begin or end keeping the variables behind each cell."""
        if on != self.on:
            events = namespace.shell().events
            change = events.register if on else events.unregister
            change("pre_run_cell", self._before)
            change("post_run_cell", self._behind)
            self.on = on
            if not on and self._stopped_waiting():
                self._try()
            self.rest()

    def _stopped_waiting(self) -> bool:
        """Have nothing taken later; return whether something was to be."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _before(self, info: Any) -> None:
        if not self._is_cell(info):
            return
        self._running = True
        self._stopped_waiting()
        if self._borrowed:  # the cell may change what is not copied yet
            self.rest()
            self._borrowed = False

    def _behind(self, result: Any) -> None:
        if not self._is_cell(result.info):
            return
        self._running = False
        waited = time.monotonic() - self._when
        if self._took > _CHEAP_SECONDS and waited < _SHARE * self._took and self._put_off():
            return
        self._try()

    def _put_off(self) -> bool:
        """Have the snapshot taken when no cell has run for a while; where there is a loop."""
        if (loop := _loop()) is None:
            return False
        self._timer = loop.call_later(_IDLE_SECONDS, self._idle)
        return True

    def _is_cell(self, info: Any) -> bool:
        """Whether it is a cell that a person ran: others run in subshells, or have no history.

        A child process that a cell forked may run cells, too; they are not the notebook's.
        """
        if os.getpid() != self.pid or threading.current_thread() is not threading.main_thread():
            return False
        return info is not None and bool(info.store_history)

    def _idle(self) -> None:
        self._timer = None
        if self.on and not self._running:
            self._try()

    def _try(self) -> None:
        """Take a snapshot; say once what keeps it from being taken."""
        try:
            self.take(always=False)
        except (KeyboardInterrupt, SystemExit, Exception) as error:  # noqa: BLE001
            # A cell must not seem to have failed for it; what is pickled may raise anything.
            why = str(error) or type(error).__name__
            self._say(why, f"the variables are not kept behind this cell: {why}")

    def take(self, *, always: bool, line: str | None = None) -> None:
        """Take a snapshot and have it recorded.

        Args:
            always: Whether it is recorded where nothing changed.
            line: What lists say of it; None for the cell's first line.

        Raises:
            JournalError: The thread cannot be written to.
            UsageError: One is being taken by the same thread.
        """
        if self._taker == threading.get_ident():  # a signal's handler, or code of what is pickled
            raise UsageError(
                "a snapshot of the variables is being taken in this very moment: ask for another "
                "one when it is done"
            )
        with self._taking:
            self._taker = threading.get_ident()
            try:
                self._take(always=always, line=line)
            finally:
                self._taker = None

    def _take(self, *, always: bool, line: str | None) -> None:
        if not self.began:
            self._begin()
        self._loop = _loop()
        began, snapshots = time.perf_counter(), self.snapshots
        try:
            captured = snapshots.capture()
            self._borrowed = self._borrowed or captured.borrowed
            if self._worker is None:
                self._worker = threading.Thread(
                    target=self._work, name="notebook-agents-variables", daemon=True
                )
                self._worker.start()
                atexit.register(self.close)
            self._tasks.put(_Task(snapshots, captured, self._around(line), always))
        except BaseException:  # also Ctrl-C: the next one must not build on it
            snapshots.begin_again()
            raise
        took = time.perf_counter() - began
        # What was new may be nothing the next time, but hardly if it was much twice.
        self._took = max(took - snapshots.fresh, min(took, self._spent))
        self._spent, self._when = took, time.monotonic()

    def _around(self, line: str | None) -> dict[str, Any]:
        """Return what a snapshot says besides: its cell, and what the journal has by then."""
        # The shell's own count says of a cell that runs what its version of IPython makes of it.
        cells = namespace.shell().history_manager.input_hist_raw
        lines = str(cells[-1]).strip() if line is None else line
        return {
            "cell": len(cells) - 1,
            "line": lines.partition("\n")[0][:_LINE].encode(errors="replace").decode(),
            "seen": self.journal.newest(),
        }

    def rest(self) -> None:
        """Wait until everything taken was recorded, or could not be."""
        self._tasks.join()

    def flush(self) -> None:
        """Wait until everything taken is on disk.

        Raises:
            NotebookAgentsError: The newest could not be recorded.
        """
        self.rest()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Record what was taken; for the kernel's end."""
        if self.pid != os.getpid():
            return
        if self._stopped_waiting() and self.on:
            self._try()
        self.rest()

    # -- recording ----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task.snapshots is self.snapshots:  # else it builds on one that was not recorded
                    self._record(task)
                    self._failure = None
            except (FencedError, CompactedError) as error:
                self._failure = error
                with suppress(Exception):  # the next one meets the same
                    self._begin_again(error)
            except Exception as error:  # noqa: BLE001 - told: the next one has what this one had
                self._failure = error
                self._say(str(error), f"a snapshot of the variables was not recorded: {error}")
            finally:
                del task
                self._tasks.task_done()

    def _begin_again(self, error: NotebookAgentsError) -> None:
        """Go on with another token: another kernel has the thread, or it was deleted."""
        before, head = self.thread, self.journal.head(self.thread)
        what = None
        if head is None:
            what = f"thread {before} was deleted: this notebook's variables are kept anew"
        elif isinstance(error, FencedError):
            self.thread = ids.new_thread_name(f"{_stem(self.notebook)}-variables")
            what = (
                f"another kernel of this notebook has begun, which has thread {before}: the "
                f"variables of this one are kept in thread {self.thread}, until it ends"
            )
        if what is not None:
            self._say(what, what)
        self.snapshots = Snapshots(self.journal, self.thread)
        self.began = False
        if self._loop is not None and self.on:
            self._loop.call_soon_threadsafe(self._idle)

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
            self._say(name, f"the variable {clean(name)} is not kept: {clean(why)}")
        if seq is not None:
            self.number += 1
            self._count += 1
            self._thin()

    def _thin(self) -> None:
        """Have old snapshots deleted; what newer ones refer to in them stays.

        The oldest that stays says where everything is: it needs none before it.
        """
        if self._count < KEPT + _AT_ONCE:
            return
        records = recorded(self.journal, self.thread)
        cut = next(n for n in range(len(records) - KEPT, -1, -1) if records[n].ref == INDEXED)
        old = [record.seq for record in records[:cut]]
        if not old or self.held in old:
            return
        gone = Draft(kind=Kind.DELETION, thread=self.thread, scope=self.thread, token=self._token)
        gone.refs = old
        self.journal.append([gone], durable=False)
        self._count = len(records) - len(old)

    def _begin(self) -> None:
        """Take the notebook's thread: from now on a kernel before this one is refused.

        Raises:
            JournalError: It cannot be written to.
        """
        before = recorded(self.journal, self.thread)
        self._count = len(before)
        self.number = before[-1].attempt or 0 if before else 0
        if not self._life and before:
            self.offered = before[-1]
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

    def _say(self, about: str, line: str) -> None:
        """Say something, unless that was the last that was said about it."""
        if self._said.get(about) != line:
            self._said[about] = line
            say(line)

    # -- restoring ----------------------------------------------------------------------------

    def load(
        self, record: Record, what: str
    ) -> tuple[dict[str, Any], RestoreReport, dict[str, Any]]:
        """Return the variables of a snapshot; the next one is taken as what changed since it."""
        self.rest()
        if not self.began:
            self._begin()
        if record.thread == self.thread:
            found = self.snapshots.load(record.seq, what)
        else:  # another kernel has the notebook's thread by now
            found = Snapshots(self.journal, record.thread).load(record.seq, what)
        self.offered = None
        return found


_keeper: Keeper | None = None


def keeper(*, create: bool = True) -> Keeper:
    """Return what keeps this kernel's variables.

    Args:
        create: Whether the folder gets a journal, where it has none.

    Raises:
        UsageError: This is no kernel, and no IPython shell; or a child process that a cell forked.
        NoJournalError: There is no journal, and none may be made.
    """
    global _keeper
    if namespace.shell() is None:
        raise UsageError(
            "variables are kept of notebooks and of IPython, and this is neither: in a script give "
            "objects to a thread, agent.thread(…).objects"
        )
    if _pid not in (None, os.getpid()):
        raise UsageError(
            "this is a process that a cell forked: the variables are kept of the kernel itself"
        )
    begin()
    if _keeper is None or _keeper.journal.closed:
        on = _keeper is not None and _keeper.on
        if _keeper is not None:
            _keeper.turn(on=False)
        _keeper = Keeper(default_journal(create=create))
        _keeper.turn(on=on)
    return _keeper


def begin() -> None:
    """Note how this kernel is, unless that is known: what its cells change is told from that."""
    global _pid
    if _pid is None:
        namespace.begin()
        _pid = os.getpid()


_pid: int | None = None


def thread_of(notebook: str | None) -> str:
    """Return the name of the thread that has a notebook's variables."""
    place = notebook or str(Path.cwd())
    return ids.thread_name(
        f"{_stem(notebook)}-variables", hashlib.blake2b(place.encode(), digest_size=6).digest()
    )


def _stem(notebook: str | None) -> str:
    return Path(notebook).stem if notebook else "kernel"


def _loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs the cells; None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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
    own.offered = None
    keep(own)
    return own.number


def keep(own: Keeper, line: str | None = None) -> None:
    """Have a snapshot on disk; `line` is what lists say of it, in place of the cell's first.

    Raises:
        NotebookAgentsError: It could not be recorded.
    """
    own.rest()  # one that waits may fail: then this one must have what it had
    own.take(always=True, line=line)
    try:
        own.flush()
    except (FencedError, CompactedError):  # said; it goes on, with another token
        own.take(always=True, line=line)
        own.flush()
