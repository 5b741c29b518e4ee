"""Small journals to be spoilt, each left by a real process that closed it or was killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from crash.processes import fork
from support.checks import add, ask, chain

import notebook_agents as na
from notebook_agents import faults
from notebook_agents.faults import Fault
from notebook_agents.journal import Draft
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "5a" * 32


def _work(journal: na.Journal, n: int) -> None:
    """Do some of everything: runs, an open question, values in chunks."""
    na.Agent(chain(add), "counter", journal).run({"n": n}, thread=f"counter-{n}")
    na.Agent(chain(add, ask), "asker", journal).run(
        {"n": n, "items": [f"{n}-{i} " * 60 for i in range(3)]}, thread=f"asker-{n}"
    )
    plain = Draft(kind=Kind.CHECKPOINT, thread=f"saved-{n}", scope=f"saved-{n}", ns="", ref=f"c{n}")
    plain.plain = os.urandom(2000)
    journal.append([plain], durable=True)


def _in_both(home: Path, *, mode: Any = "shared") -> na.Journal:
    journal = na.Journal.open(home, mode)
    _work(journal, 1)
    journal.ingest()
    _work(journal, 2)
    return journal


def closed(home: Path) -> None:
    """Leave records in both files, and close."""
    _in_both(home).close()


def killed(home: Path) -> None:
    """Leave records in both files and in the queue's log, and die."""
    _in_both(home)
    os.kill(os.getpid(), signal.SIGKILL)


def killed_early(home: Path) -> None:
    """Die before anything is in DuckDB."""
    _work(na.Journal.open(home), 1)
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_burst(home: Path) -> None:
    """Die when DuckDB has committed and its log is not folded back; the queue has all of it."""
    journal = _in_both(home, mode="exclusive")
    faults.arm(lambda fault: fault is Fault.INGEST_COMMITTED and os.kill(os.getpid(), 9))
    journal.ingest()


def killed_after_burst(home: Path) -> None:
    """Die when the queue is trimmed: of some records DuckDB's log has the only copy."""
    journal = _in_both(home, mode="exclusive")
    faults.arm(lambda fault: fault is Fault.INGEST_TRIMMED and os.kill(os.getpid(), 9))
    journal.ingest()


def deleting(home: Path) -> None:
    """Die behind the deletion of a thread, whose key an older page still has."""
    journal = _in_both(home)
    journal.delete_thread("counter-1")
    na.Agent(chain(add), "counter", journal).run({"n": 5}, thread="counter-5")
    os.kill(os.getpid(), signal.SIGKILL)


SPECIMENS: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (closed, killed, killed_early, killed_in_burst, killed_after_burst, deleting)
}


def make(name: str, folder: Path) -> Path:
    """Make a specimen in a process of its own; return its directory."""
    home = folder / name
    code = fork(lambda: SPECIMENS[name](home), folder / f"{name}.log").end()
    expected = 0 if name == "closed" else -signal.SIGKILL
    assert code == expected, (folder / f"{name}.log").read_text()
    return home
