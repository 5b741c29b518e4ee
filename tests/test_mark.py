"""queue.mark after a kill: what it says is of the queue that is there."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from crash.processes import fork
from test_journal import names, note

from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal import Journal, locks, mark, unsynced
from notebook_agents.journal.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from notebook_agents.journal import Record

    Dies = Callable[[Callable[[], object]], None]


def die() -> None:
    """End like a kernel that is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_a_lost_sync_the_mark_begins_anew(home: Path, dies: Dies) -> None:
    """What the disk dropped was never acknowledged: no later opening may miss it."""

    def loses() -> None:
        journal = Journal.open(home)
        journal.append([note("a")], durable=True)
        shutil.copy(home / "queue.sqlite-wal", home / "synced")
        journal.append([note("b")], durable=False)
        unsynced.mark(home)  # the sync of that failed, as a failing disk would have it
        die()

    def mends() -> None:
        Journal.open(home)
        die()

    dies(loses)
    shutil.move(home / "synced", home / "queue.sqlite-wal")  # the pages are dropped
    dies(mends)
    assert not (home / "queue.unsynced").exists()
    with Journal.open(home) as journal:
        assert names(journal) == ["a"]


def test_after_a_restart_of_the_host_the_mark_begins_anew(
    home: Path, dies: Dies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that outlived its process is missed again, not only one that was synced."""

    def writes(name: str) -> None:
        journal = Journal.open(home)
        journal.append([note(name)], durable=True)
        shutil.copy(home / "queue.sqlite-wal", home / "before")
        journal.append([note(name + name)], durable=False)
        die()

    dies(lambda: writes("a"))
    monkeypatch.setattr(locks, "boot_id", lambda: "another boot/1")
    dies(lambda: writes("b"))
    said = mark.read(home)
    assert said is not None
    assert (said.floor, said.synced) == (4, 3)
    shutil.move(home / "before", home / "queue.sqlite-wal")
    with pytest.raises(JournalDamagedError, match="newest records"):
        Journal.open(home)


def test_an_opening_after_a_kill_looks_while_others_write(
    home: Path, tmp_path: Path, dies: Dies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens second need not wait for the look, and what it appends is no damage."""

    def writes() -> None:
        journal = Journal.open(home)
        journal.append([note("a")], durable=True)
        die()

    dies(writes)
    (looked, looks), (written, writing) = os.pipe(), os.pipe()

    def appends() -> None:
        os.read(looked, 1)
        with Journal.open(home) as journal:
            journal.append([note("b", thread="another")], durable=True)
        os.write(writing, b".")

    child = fork(appends, tmp_path / "child.log")
    read = Queue.every

    def every(self: Queue) -> Iterator[Record]:
        yield from read(self)
        os.write(looks, b".")
        os.read(written, 1)

    monkeypatch.setattr(Queue, "every", every)
    with Journal.open(home) as journal:
        assert [head.thread for head in journal.queue.heads()] == ["another", "t"]
    assert child.end() == 0
