"""A burst of a reader does not keep other processes from writing."""

from __future__ import annotations

import time

import notebook_agents as na
from notebook_agents import settings
from notebook_agents.journal import Draft
from notebook_agents.model import Kind

RECORDS = 20_000


def test_the_write_lock_is_held_for_moments(home, monkeypatch):
    """Of what a burst of 20,000 records does, nothing keeps writers waiting for 100 ms.

    The holder's processor time is counted: how long it waits for a processor is not its doing.
    """
    monkeypatch.setattr(settings, "INGEST_RECORDS", 10 * RECORDS)
    monkeypatch.setattr(settings, "INGEST_BYTES", 10 * RECORDS * 1000)
    with na.Journal.open(home) as journal:
        for _ in range(0, RECORDS, 500):
            drafts = [
                Draft(kind=Kind.MESSAGE, thread="t", scope="t", plain=bytes(range(256)) * 2)
                for _ in range(500)
            ]
            journal.append(drafts, durable=False)
        lock = journal._writer._file_lock
        wait, release = lock.wait, lock.release
        taken: list[float] = []
        held: list[float] = []

        def timed_wait() -> None:
            wait()
            taken.append(time.thread_time())

        def timed_release() -> None:
            if taken:
                held.append(time.thread_time() - taken.pop())
            release()

        monkeypatch.setattr(lock, "wait", timed_wait)
        monkeypatch.setattr(lock, "release", timed_release)
        assert journal.ingest() == RECORDS
        assert journal._queue.bounds() == (RECORDS, RECORDS)
        assert len(held) > 5
        assert max(held) < 0.1
        assert len(journal.select()) == RECORDS
