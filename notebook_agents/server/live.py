"""What changes in a journal, told to those who look at it while it happens.

One thread looks at a journal for all who watch it: `PRAGMA data_version` says in microseconds
whether anybody committed. A driver that dies commits nothing, so whoever runs is looked at, too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents.journal.follow import LOOK_SECONDS
from notebook_agents.model import Kind, RunStatus
from notebook_agents.server.answers import MOST, version_of
from notebook_agents.server.following import Followed, whole_event
from notebook_agents.server.refusals import RefusedError, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_agents.journal import Journal, Record
    from notebook_agents.model import ThreadInfo
    from notebook_agents.server.opened import Journals

STREAMS = 64
"""How many may watch at once."""
_LIFE_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
"""Between two events of one kind."""
_SHARE = 2
"""To read a run may take one part in so many of the time."""
_QUEUED = 64
_KINDS = tuple(kind for kind in Kind if kind is not Kind.CHUNK)
_logger = logging.getLogger("notebook_agents.server")

RunKey = tuple[str, int | None]
"""A thread, and a run's number; None for the newest."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Conversations that changed.

    Attributes:
        infos: Those that there are.
        gone: The names of those that were deleted.
        reload: More changed than are told.
        version: See `answers.version_of`.
    """

    infos: tuple[ThreadInfo, ...]
    gone: tuple[str, ...]
    reload: bool
    version: str


Event = Changed | RefusedError | dict[str, Any]
"""What a stream is given: a dict is the API's `RunEvent`."""


class Stream:
    """One who watches.

    Args:
        run: The run that is watched, or None.
    """

    def __init__(self, run: RunKey | None) -> None:
        self.run = run
        self.fresh = True
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event | None) -> None:
        """Give it an event, from any thread; None ends it."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:
            return  # the server has ended

    def _put(self, event: Event | None) -> None:
        if self._queue.qsize() >= _QUEUED:  # it does not read: it comes again and asks for all
            event = None
        self._queue.put_nowait(event)

    async def next(self, seconds: float) -> Event | None:
        """Return the next event; None where it is over.

        Raises:
            TimeoutError: Nothing happened for so long.
        """
        return await asyncio.wait_for(self._queue.get(), seconds)


@dataclass(slots=True)
class _Threads:
    """Which conversations are to be told of."""

    touched: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    due: float = 0.0
    life: float = 0.0


class Watchers:
    """Those who watch, by journal.

    Args:
        journals: Opens them.
    """

    def __init__(self, journals: Journals) -> None:
        self._journals = journals
        self._lock = threading.Lock()
        self._watchers: dict[Path, _Watcher] = {}

    def add(self, home: Path, stream: Stream) -> None:
        """Have a stream told what changes in the journal in a directory.

        Raises:
            RefusedError: Too many watch.
        """
        with self._lock:
            if sum(len(one.streams) for one in self._watchers.values()) >= STREAMS:
                raise RefusedError("refused", "too many pages watch this server: close some")
            watcher = self._watchers.get(home)
            if watcher is None:
                watcher = self._watchers[home] = _Watcher(self._journals, home)
                watcher.streams.append(stream)
                threading.Thread(
                    target=self._watch, args=(watcher,), name="notebook-agents-watch", daemon=True
                ).start()
            else:
                watcher.streams.append(stream)

    def remove(self, home: Path, stream: Stream) -> None:
        """Tell a stream no more."""
        with self._lock:
            watcher = self._watchers.get(home)
            if watcher is not None and stream in watcher.streams:
                watcher.streams.remove(stream)

    def _watch(self, watcher: _Watcher) -> None:
        problem: RefusedError | None = None
        try:
            watcher.watch(self._over)
        except Exception as error:
            problem = refusal(error)
            if problem is None:
                _logger.exception("a journal cannot be watched any more")
                problem = RefusedError("failed", "the server's log says what happened: ask again")
        with self._lock:
            if self._watchers.get(watcher.home) is watcher:
                del self._watchers[watcher.home]
            streams = list(watcher.streams)
        for stream in streams:
            if problem is not None:
                stream.put(problem)
            stream.put(None)

    def _over(self, watcher: _Watcher) -> bool:
        """Whether nobody watches any more; whoever comes from then on gets a thread of his own."""
        with self._lock:
            if watcher.streams:
                return False
            del self._watchers[watcher.home]
            return True


class _Watcher:
    """Looks at one journal."""

    def __init__(self, journals: Journals, home: Path) -> None:
        self.home = home
        self.streams: list[Stream] = []
        self._journals = journals
        self._threads = _Threads()
        self._runs: dict[RunKey, Followed] = {}
        self._seen = 0
        self._version: tuple[int, int] | None = None

    def watch(self, over: Any) -> None:
        """Look until `over` says that nobody watches."""
        with self._journals.using(self.home) as journal:
            inode = (self.home / "queue.sqlite").stat().st_ino
            self._seen = journal.newest()
            infos = journal.threads()
            self._threads.running = {i.thread for i in infos if i.status is RunStatus.RUNNING}
            while not over(self):
                try:
                    if (self.home / "queue.sqlite").stat().st_ino != inode:
                        raise FileNotFoundError
                except FileNotFoundError:
                    raise RefusedError(
                        "no_journal", "the journal's files were taken away: load the page again"
                    ) from None
                self._look(journal)
                time.sleep(LOOK_SECONDS)

    def _look(self, journal: Journal) -> None:
        now = time.monotonic()
        version = journal.version()
        if version != self._version:
            self._version = version
            newest = journal.newest()
            if newest > self._seen:
                for record in journal.select(since=self._seen, kinds=_KINDS):
                    newest = max(newest, record.seq)
                    self._take(record)
            self._seen = newest
        if now >= self._threads.life:
            self._threads.life = now + _LIFE_SECONDS
            self._look_at_drivers(journal)
        streams = list(self.streams)
        self._greet(journal, streams)
        if self._threads.touched and now >= self._threads.due:
            self._threads.due = now + _PAUSE_SECONDS
            self._tell_threads(journal, streams)
        self._tell_runs(journal, streams)

    def _take(self, record: Record) -> None:
        self._threads.touched.add(record.thread)
        for (thread, _), run in self._runs.items():
            if thread == record.thread:
                run.take(record)

    def _look_at_drivers(self, journal: Journal) -> None:
        """Find those of the conversations that ran whose drivers died, or put them down."""
        for thread in self._threads.running:
            head = journal.head(thread)
            if head is None or head.info().status is not RunStatus.RUNNING:
                self._threads.touched.add(thread)
                for (name, _), run in self._runs.items():
                    if name == thread:
                        run.look_again()

    def _greet(self, journal: Journal, streams: list[Stream]) -> None:
        """Tell those who came a moment ago to ask for a page, and give them the watched run."""
        for stream in streams:
            if stream.fresh:
                stream.fresh = False
                stream.put(Changed((), (), reload=True, version=version_of(journal)))
                if stream.run is not None:
                    known = self._runs.setdefault(stream.run, Followed(*stream.run))
                    if known.state is not None:
                        stream.put(whole_event(known.state))
        wanted = {stream.run for stream in streams}
        for key in self._runs.keys() - wanted:
            del self._runs[key]

    def _tell_threads(self, journal: Journal, streams: list[Stream]) -> None:
        touched, self._threads.touched = self._threads.touched, set()
        infos, gone = [], []
        for thread in sorted(touched):
            head = journal.head(thread)
            if head is None:
                gone.append(thread)
                self._threads.running.discard(thread)
                continue
            info = head.info()
            infos.append(info)
            if info.status is RunStatus.RUNNING:
                self._threads.running.add(thread)
            else:
                self._threads.running.discard(thread)
        infos.sort(key=lambda info: info.updated, reverse=True)
        version = version_of(journal)
        much = len(infos) + len(gone) > MOST
        event = Changed(
            () if much else tuple(infos), () if much else tuple(gone), reload=much, version=version
        )
        for stream in streams:
            stream.put(event)

    def _tell_runs(self, journal: Journal, streams: list[Stream]) -> None:
        for key, run in self._runs.items():
            began = time.monotonic()
            if not run.dirty or began < run.due:
                continue
            event = run.renew(journal)
            run.due = began + max(_PAUSE_SECONDS, _SHARE * (time.monotonic() - began))
            for stream in streams if event is not None else ():
                if stream.run == key:
                    stream.put(event)
