"""What a compaction leaves after most threads were deleted, and how long others wait for it."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

import notebook_agents as na
from notebook_agents.journal.compact import compact

from .measure import Bench, quartiles, sandbox
from .size import JUDGED, conversation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from langchain_core.runnables import RunnableConfig

THREADS, STEPS, KEPT = 500, 4, 10
BAR = 1.2


def run(bench: Bench) -> None:
    """Delete nine threads of ten, compact, and compare with a journal of the tenth alone."""
    threads, steps = bench.size(THREADS, KEPT), bench.size(STEPS, 1)
    seed = bench.rng.randrange(2**32)
    every = [f"thread-{n}" for n in range(threads)]
    living = every[::KEPT]
    with sandbox() as folder:
        fresh, home = folder / "fresh", folder / "journal"
        _fill(fresh, living, steps, seed)
        _fill(home, every, steps, seed)
        full = _size(home)
        with na.Journal.open(home) as journal:
            for thread in set(every) - set(living):
                journal.delete_thread(thread)
            appends = _Appends(home, bench.size(2, 1))
            begun = time.monotonic()
            done = compact(journal)
            seconds = time.monotonic() - begun
            waited = appends.end()
            for thread in appends.threads:
                journal.delete_thread(thread)
            compact(journal)
        left, alone = _size(home), _size(fresh)
    bench.say(
        f"  {threads} threads of {steps} steps, {full:,} bytes; {threads - len(living)} deleted: "
        f"{done.records_before:,} to {done.records_after:,} records in {seconds:.1f} s; it says "
        f"that appends paused for {done.pause_ms:.1f} ms at most"
    )
    bench.say(
        f"  durable appends of another journal object meanwhile: median "
        f"{statistics.median(waited):.2f} ms{quartiles(waited)}, longest {max(waited):.1f} ms"
    )
    bench.judge(f"{left:,} bytes afterwards, ÷ {alone:,} of a fresh journal", left / alone, BAR)


def _fill(home: Path, threads: Sequence[str], steps: int, seed: int) -> None:
    """Have each thread hold a conversation of its own; all of it goes to DuckDB."""
    with na.Journal.open(home) as journal:
        saver = na.JournalSaver(journal)
        for thread in threads:
            own = seed + int(thread.rpartition("-")[2])
            graph = conversation(steps, JUDGED, own).compile(checkpointer=saver)
            config: RunnableConfig = {"configurable": {"thread_id": thread}}
            graph.invoke({"n": 0, "messages": []}, config, durability="sync")
        journal.ingest()


def _size(home: Path) -> int:
    """Return the size of all files of a journal that was closed."""
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


class _Appends:
    """Threads of this process that append to the journal, each through an opening of its own."""

    def __init__(self, home: Path, count: int) -> None:
        self.threads = [f"appends-{n}" for n in range(count)]
        self._took: list[float] = []
        self._stop = threading.Event()
        self._workers = [
            threading.Thread(target=self._append, args=(home, t)) for t in self.threads
        ]
        for worker in self._workers:
            worker.start()

    def _append(self, home: Path, thread: str) -> None:
        from notebook_agents.journal import Draft
        from notebook_agents.model import Kind

        with na.Journal.open(home) as journal:
            while not self._stop.is_set() or not self._took:
                begun = time.monotonic()
                draft = Draft(kind=Kind.USAGE, thread=thread, scope=thread, plain=b"x")
                journal.append([draft], durable=True)
                self._took.append(1000 * (time.monotonic() - begun))
                time.sleep(0.002)

    def end(self) -> list[float]:
        """Stop; return how long each append took, in milliseconds."""
        self._stop.set()
        for worker in self._workers:
            worker.join()
        return self._took
