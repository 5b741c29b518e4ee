"""Ctrl-C while DuckDB works, or is waited for: it is told as Ctrl-C, and no lock stays taken."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import notebook_agents as na


def in_function(thread: int | None, name: str) -> bool:
    """Whether a function of that name is the innermost that a thread runs."""
    frame = sys._current_frames().get(thread or 0)
    return frame is not None and frame.f_code.co_name == name


def test_ctrl_c_while_a_burst_is_waited_for_takes_no_lock_with_it(journal: na.Journal) -> None:
    """As a notebook does, the traceback is held on to; the other threads get at DuckDB."""
    main, begun = threading.main_thread().ident, threading.Event()

    def burst() -> None:
        with journal.burst():
            begun.set()
            while not in_function(main, "lingering"):
                pass
            # Another thread takes the signal: the system does not wake the main one for it.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    for _ in range(5):
        begun.clear()
        worker = threading.Thread(target=burst)
        worker.start()
        begun.wait()
        with pytest.raises(KeyboardInterrupt) as held, journal.reading():
            pass
        worker.join()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(journal._archive.bursting.acquire, timeout=5).result(), held
            other.submit(journal._archive.bursting.release).result()


def test_ctrl_c_in_a_statement_is_ctrl_c(journal: na.Journal) -> None:
    """DuckDB says "Query interrupted" and drops what the signal's handler raised."""
    main = threading.main_thread().ident
    assert main is not None
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(main, signal.SIGINT)

    worker = threading.Thread(target=interrupt)
    worker.start()
    with pytest.raises(KeyboardInterrupt), journal.burst() as connection:
        begun.set()
        connection.execute("SELECT sum(sqrt(i)) FROM range(1000000000000) t(i)").fetchall()
    worker.join()
    assert journal.sql("SELECT 1") == [(1,)]
