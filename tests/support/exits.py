"""`python exits.py HOME N`: N forked children end by themselves, busy in every worker thread.

Each child is born while the parent's threads append, feed DuckDB and follow, does the same in its
own threads, and ends as a program ends: the interpreter goes with all of them running. It says how
many appends returned.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import notebook_agents as na
from notebook_agents.errors import NotDurableError
from notebook_agents.journal import Draft
from notebook_agents.model import Kind


def busy(home: Path, thread: str, acknowledged: Path) -> threading.Event:
    """Append, ingest and follow in worker threads; return what is set when all are at it."""
    journal = na.Journal.open(home)
    going = threading.Barrier(4)
    all_going = threading.Event()

    def append() -> None:
        with acknowledged.open("w") as out:
            for number in range(1_000_000):
                draft = Draft(kind=Kind.MESSAGE, thread=thread, scope=thread, name=str(number))
                journal.append([draft], durable=bool(number % 2))
                out.write("x")
                out.flush()
                if not number:
                    going.wait()

    def ingest() -> None:
        going.wait()
        while True:
            journal.ingest()

    def follow() -> None:
        going.wait()
        for _ in journal.follow(since=0):
            pass

    def work(body: object) -> None:
        with suppress(NotDurableError):  # closed under it, as a program ends
            body()

    for body in (append, ingest, follow):
        threading.Thread(target=work, args=(body,), daemon=True).start()
    threading.Thread(target=lambda: (going.wait(), all_going.set()), daemon=True).start()
    return all_going


def main() -> None:
    """Fork, wait for each child, and complain about those that did not end well."""
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    busy(home, "parent", home.parent / "parent.acks").wait()
    bad = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            busy(home, f"child{number}", home.parent / f"child{number}.acks").wait()
            return
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            bad.append((number, status))
    if bad:
        sys.exit(f"children that did not end well: {bad}")


if __name__ == "__main__":
    main()
