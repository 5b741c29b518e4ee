"""What the records say about the heads: to check them, and to make them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents.journal.sql import query
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb

    from notebook_agents.journal.queue import Head
    from notebook_agents.journal.records import Record


@dataclass(slots=True)
class Implied:
    """What the records of one thread behind its deletion imply.

    Attributes:
        first: The first record's number.
        opening: That of the first one that is no chunk; a head's `first_seq` is one of the two or
            between them. 0 where all are chunks.
        last: The newest one's.
        records: How many they are.
        deleted: Whether the newest record is a deletion: there need be no head.
        status: Of the newest run.
        intended, returned: How many such records there are, by run.
    """

    thread: str
    scope: str
    first: int
    last: int
    created: int
    updated: int
    records: int = 0
    opening: int = 0
    deleted: bool = False
    agent: str | None = None
    run: int = 0
    session: int = 0
    status: str = str(RunStatus.PENDING)
    intended: dict[int, int] = field(default_factory=dict)
    returned: dict[int, int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take the next record."""
        self.last, self.updated = record.seq, record.ts
        self.records += 1
        if not self.opening and record.kind is not Kind.CHUNK:
            self.opening = record.seq
        run = record.run or 0
        if record.kind is Kind.RUN_STARTED:
            self.agent, self.run, self.session = record.name, run, record.attempt or 1
            self.status = str(RunStatus.RUNNING)
        elif record.kind is Kind.RUN_FINISHED:
            self.status = str(record.name)
        elif record.kind is Kind.DECISION and record.name == "update":
            self.status = str(RunStatus.RUNNING)
        elif record.kind is Kind.STEP_INTENDED:
            self.intended[run] = self.intended.get(run, 0) + 1
        elif record.kind is Kind.STEP_RETURNED:
            self.returned[run] = self.returned.get(run, 0) + 1

    def row(self) -> dict[str, Any]:
        """Return the columns of a head that is made again; nobody drives its thread."""
        return {
            "thread": self.thread,
            "scope": self.scope,
            "agent": self.agent,
            "status": self.status,
            "run": self.run,
            "session": self.session,
            "intended": self.intended.get(self.run, 0),
            "returned": self.returned.get(self.run, 0),
            "records": self.records,
            "first_seq": self.first,
            "last_seq": self.last,
            "created": self.created,
            "updated": self.updated,
            "notebook": None,
            # Larger than that of any driver there was: each wrote at least one record.
            "token": self.records + 1,
        }


def implied(archived: Iterable[Implied], recent: Iterable[Record]) -> dict[str, Implied]:
    """Return what the records of a journal imply, by thread.

    Args:
        archived: What those that only DuckDB has imply.
        recent: Those in the queue, in order.
    """
    found = {one.thread: one for one in archived}
    for record in recent:
        one = found.get(record.thread)
        if one is None or one.deleted:
            one = found[record.thread] = Implied(
                record.thread, record.scope, record.seq, record.seq, record.ts, record.ts
            )
        one.add(record)
        one.deleted = record.kind is Kind.DELETION and not record.refs
    return found


def archived(connection: duckdb.DuckDBPyConnection, before: int) -> list[Implied]:
    """Return what DuckDB's records older than number `before` imply."""
    found: dict[str, Implied] = {}
    for row in connection.execute(query("archive.heads"), {"before": before}).fetchall():
        *columns, status, started, deleted = row
        one = found[row[0]] = Implied(*columns)
        one.deleted = deleted
        if started is not None:
            one.agent, one.run, one.session = started["name"], started["run"], started["attempt"]
        if status is not None:
            one.status = status
    for thread, run, intended, returned in connection.execute(
        query("archive.counts"), {"before": before}
    ).fetchall():
        if thread in found:
            found[thread].intended[run] = intended
            found[thread].returned[run] = returned
    return list(found.values())


def difference(head: Head, one: Implied) -> str | None:
    """Return the column in which a head is not what its thread's records say, or None.

    Counts may lag behind: what a driver appends without fsync is counted with its next durable
    append, and with none when it is killed.
    """
    exact = {
        "scope": (head.scope, one.scope),
        "agent": (head.agent, one.agent),
        "status": (head.status, one.status),
        "run": (head.run, one.run),
        "session": (head.session, one.session),
    }
    for name, (has, should) in exact.items():
        if has != should:
            return name
    if not one.first <= head.first_seq <= (one.opening or one.last):
        return "first_seq"
    if not one.first <= head.last_seq <= one.last:
        return "last_seq"
    return "records" if head.records > one.records else None


def differences(heads: Iterable[Head], all_implied: dict[str, Implied]) -> dict[str, str]:
    """Return what is wrong with a journal's heads: a column's name or "head", by thread."""
    found: dict[str, str] = {}
    there = set()
    for head in heads:
        there.add(head.thread)
        one = all_implied.get(head.thread)
        if one is None:
            found[head.thread] = "head"
        elif not one.deleted and (column := difference(head, one)) is not None:
            found[head.thread] = column
    for thread, one in all_implied.items():
        if thread not in there and not one.deleted:
            found[thread] = "head"
    return found
