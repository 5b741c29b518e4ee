"""Taking a thread, in the transaction that begins to write to it, and being refused.

A thread has at most one driver. A claim gives it a fencing token, one more than the last driver's;
every write of a driver is compared with the thread's token in its own transaction. So it is safe to
take a thread from a driver that may still live: it cannot write any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_agents.errors import FencedError, ThreadBusyError
from notebook_agents.journal import locks
from notebook_agents.journal.queue import Head
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    import sqlite3

    from notebook_agents.journal.records import Claim, Draft


def head_of(connection: sqlite3.Connection, thread: str) -> Head | None:
    """Return a thread's head as the transaction sees it."""
    row = connection.execute(
        query("queue.thread"), {"thread": thread, "boot": locks.boot_id()}
    ).fetchone()
    return None if row is None else Head(row)


def take(
    connection: sqlite3.Connection,
    draft: Draft,
    claim: Claim,
    *,
    seq: int,
    ts: int,
    driving: set[str],
) -> ThreadBusyError | None:
    """Give a thread to this process.

    Args:
        connection: In a transaction.
        draft: The record that the claim came with.
        claim: What is claimed; its token is set.
        seq: The record's number.
        ts: The transaction's time.
        driving: The threads that this process drives now.

    Returns:
        Why it was not taken, or None.
    """
    head = head_of(connection, draft.thread)
    if head is None:
        connection.execute(
            query("queue.add_thread"),
            {"thread": draft.thread, "scope": draft.scope, "seq": seq, "ts": ts},
        )
    elif claim.fresh or (head.driven and not left_behind(head, driving)):
        return busy(head, "wait for it, stop it there, or use another thread")
    connection.execute(
        query("queue.claim_thread"),
        {
            "thread": draft.thread,
            "agent": claim.agent,
            "run": claim.run,
            "session": claim.session,
            "notebook": claim.notebook,
            "ts": ts,
            **locks.this_process(),
        },
    )
    if head is not None:  # what was asked of the one before
        connection.execute(
            query("queue.answered"), {"thread": draft.thread, "token": 0, "what": None}
        )
    claim.token = 1 if head is None else head.token + 1
    return None


def forget(connection: sqlite3.Connection, draft: Draft) -> None:
    """Delete a thread's head, and its data key unless another thread has it too."""
    connection.execute(query("queue.forget_thread"), {"thread": draft.thread})
    connection.execute(query("queue.answered"), {"thread": draft.thread, "token": 0, "what": None})
    connection.execute(query("queue.delete_key"), {"scope": draft.scope})


def busy(head: Head, then: str) -> ThreadBusyError:
    """Return the error that says who drives a thread, and until when at the latest.

    Args:
        head: The thread's head.
        then: What to do about it.
    """
    expires = head.expires
    until = ""
    if expires is not None:
        until = (
            "; it cannot be told from here whether it still does, so unless it answers another may "
            f"take the thread from {expires:%Y-%m-%d %H:%M:%S} UTC on"
        )
    error = ThreadBusyError(
        f"thread {head.thread!r} is being driven by {describe(head)}: {then}{until}"
    )
    error.thread, error.token, error.expires = head.thread, head.token, expires
    if head.driver is not None:
        error.pid, error.host = head.driver.pid, head.driver.host
        error.notebook, error.since = head.driver.notebook, head.driver.since
    return error


def fenced(thread: str, head: Head | None) -> FencedError:
    """Return the error of a process that drives a thread no more."""
    by = "it was deleted" if head is None else describe(head)
    return FencedError(
        f"this process no longer drives thread {thread!r} ({by}): nothing it does from now on "
        "is recorded, stop it and look at the other one"
    )


def describe(head: Head) -> str:
    """Say which process drives a thread, where, and since when."""
    driver = head.driver
    if driver is None:
        return "nobody now"
    where = f" in {driver.notebook}" if driver.notebook else ""
    return (
        f"process {driver.pid} on {driver.host}{where} since {driver.since:%Y-%m-%d %H:%M:%S} UTC"
    )


def left_behind(head: Head, driving: set[str]) -> bool:
    """Whether a claim is this process's own, left behind by a run that was cut off."""
    driver = head.driver
    ours = locks.this_process()
    return (
        driver is not None
        and (driver.pid, driver.host, driver.boot) == (ours["pid"], ours["host"], ours["boot"])
        and head.thread not in driving
    )
