"""queue.sqlite: opening, checking and reading it. `writer.py` is the only one that writes to it."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, settings
from notebook_agents.disk import fsync_directory
from notebook_agents.errors import JournalError, NoJournalError
from notebook_agents.journal import (
    compacted,
    damage,
    integrity,
    keycopy,
    locks,
    mark,
    presence,
    unsynced,
)
from notebook_agents.journal.failures import writing
from notebook_agents.journal.listing import STATUSES, undriven
from notebook_agents.journal.queue_file import (
    FILE,
    checked_meta,
    connect,
    lost_of,
    make,
    make_home,
    make_small,
)
from notebook_agents.journal.records import Record, record_of
from notebook_agents.journal.sql import filtered, query
from notebook_agents.model import Driver, RunStatus, ThreadInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path


class Queue:
    """One process's view of queue.sqlite: what is in it, and the thread heads."""

    def __init__(self, home: Path, *, create: bool) -> None:
        self.home = home
        self.path = home / FILE
        if (
            not create
            and not self.path.exists()
            and not presence.exchanging(home)
            and integrity.remains(home) is None
        ):
            raise _missing(home)
        self.reading = threading.RLock()
        self._presence = presence.Presence(home)
        self._reader: sqlite3.Connection | None = None
        self._opened = 0
        self.after_kill = False
        """Whether the last process that used the journal did not close it."""
        self.trusted = False
        """Whether this process knows that queue.sqlite is as it was written."""
        with writing(home):
            if not self.path.exists():
                make_home(home)
            with self._presence.entering() as alone:
                self._enter(alone=alone, create=create)

    def _enter(self, *, alone: bool, create: bool) -> None:
        """Find the files as they should be, or make them; nobody else opens or closes them now."""
        if alone:
            presence.finish_exchange(self.home)
        if not self.path.exists():
            integrity.refuse_without_queue(self.home)
            if not create:
                raise _missing(self.home)
            make(self.home)
        integrity.refuse_half_repaired(self.home)
        integrity.refuse_empty(self.home)
        known = alone and integrity.at_rest(self.home)
        try:
            self._meta = checked_meta(self._usable(), self.path, as_left=known)
            self.journal_id = str(self._meta["journal"])
            self.after_kill = alone and not known and self.bounds()[1] > 0
            self.trusted = alone and not self.after_kill
            integrity.behind(self)
            if alone:
                compacted.sweep(self.home)
            if alone and unsynced.marked(self.home):
                self._write_again()
        except BaseException:
            self.rest()
            raise

    def _write_again(self) -> None:
        """Have on disk what can be read, after a sync that failed; nobody else uses the journal."""
        with closing(connect(self.path)) as connection:
            unsynced.fold(self.home, connection)
        mark.begin(
            self.home,
            journal_id=self.journal_id,
            newest=self.bounds()[1],
            generation=self.generation(),
        )
        unsynced.unmark(self.home)

    def journal_mode(self) -> str:
        """Return SQLite's word for how the file is written: "wal", or "delete" on a network."""
        with self.reading:
            return str(self._usable().execute("PRAGMA journal_mode").fetchone()[0])

    def generation(self) -> int:
        """Return the number of the DuckDB file that is current."""
        return int(self._all("queue.generation")[0][0])

    def compacted(self) -> list[tuple[int, int]]:
        """Return the ranges of numbers that compactions left out, as it is now."""
        return compacted.of(dict(self._all("queue.meta")))

    def lost(self) -> list[tuple[int, int]]:
        """Return the ranges of numbers that a repair found nowhere."""
        return lost_of(self._meta)

    def keyless(self) -> set[str]:
        """Return the scopes whose keys a repair found nowhere."""
        return set(json.loads(self._meta.get("keyless", "[]")))

    def trouble(self, *, thorough: bool = False) -> str | None:
        """Return what SQLite's own check finds wrong with the file's structure, or None."""
        pragma = "integrity_check" if thorough else "quick_check"
        try:
            with self.reading:
                row = self._usable().execute(f"PRAGMA {pragma}(1)").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            return str(error)
        if row != ("ok",):
            return str(row[0]).splitlines()[-1]
        missing = {"records", "threads", "keys", "requests", "key_deleted"} - {
            name for (name,) in self._all("queue.schema")
        }
        return f"it has no {min(missing)}" if missing else None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that is read in the block be of one moment, whatever others commit."""
        with self.reading:
            reader = self._usable()
            if reader.in_transaction:  # the block stands in another one
                yield
                return
            reader.execute("BEGIN")
            try:
                yield
            finally:
                reader.execute("COMMIT")

    def every(self) -> Iterator[Record]:
        """Return every record in the queue in order, with its payload, from one snapshot."""
        return map(self._record, self._each("queue.every"))

    def keys(self) -> dict[str, bytes]:
        """Return the wrapped data keys by scope."""
        return {scope: bytes(wrapped) for scope, wrapped in self._all("queue.keys")}

    def bounds(self) -> tuple[int, int]:
        """Return the first and the last sequence number in the queue, (0, 0) when it is empty."""
        first, last = self._all("queue.bounds")[0]
        return int(first), int(last)

    def last(self) -> int:
        """Return the last sequence number, 0 when the queue is empty."""
        return int(self._all("queue.last")[0][0])

    def backlog_bytes(self) -> int:
        """Return the size of the queue's file and log in bytes."""
        log = self.path.with_name(FILE + "-wal")
        return self.path.stat().st_size + (log.stat().st_size if log.exists() else 0)

    def select(self, **filters: Any) -> tuple[list[Record], int]:
        """Return the matching records without payloads, and the first number in the queue.

        Both come from one snapshot: what is older than that number was in DuckDB before it left.
        """
        statement, parameters = filtered("queue.select", filters)
        for name in {"any_ref", "steps", "parents"} & parameters.keys():
            parameters[name] = json.dumps(parameters[name])
        return self._found(statement, parameters)

    def newest(self, **filters: Any) -> tuple[list[Record], int]:
        """Return a thread's newest checkpoints, and the first number in the queue; see `select`."""
        return self._found(*filtered("queue.newest", filters))

    def _found(self, statement: str, parameters: dict[str, Any]) -> tuple[list[Record], int]:
        with self.snapshot():
            first, _ = self.bounds()
            rows = self._run(statement, parameters)
        return [self._record(row) for row in rows], first

    def by_seq(self, seqs: Iterable[int]) -> list[tuple[Any, ...]]:
        """Return the rows of those of the numbered records that are still in the queue."""
        return self._all("queue.by_seq", {"seqs": json.dumps(list(seqs))})

    def batch(self, *, after: int, limit: int) -> list[Record]:
        """Return up to `limit` records behind number `after`, with payloads."""
        rows = self._all("queue.batch", {"after": after, "limit": limit})
        return [self._record(row) for row in rows]

    def head(self, thread: str) -> Head | None:
        """Return a thread's head, or None."""
        rows = self._all("queue.thread", {"thread": thread, "boot": locks.boot_id()})
        return Head(rows[0]) if rows else None

    def heads(self) -> list[Head]:
        """Return every thread's head, the one with the newest record first."""
        heads = self._heads()
        heads.sort(key=attrgetter("last_seq"), reverse=True)  # SQLite carries whole rows about
        return heads

    def _heads(self, *, driven: bool | None = None) -> list[Head]:
        asked = {"boot": locks.boot_id(), "driven": driven}
        return [Head(row) for row in self._run(*filtered("queue.threads", asked))]

    def infos(self) -> list[ThreadInfo]:
        """Return what is listed of every thread, the one with the newest record first."""
        with self.snapshot():
            infos, newest = undriven(self._each("queue.undriven"))
            driven = self._heads(driven=True)
        infos += [head.info() for head in driven]
        newest += [head.last_seq for head in driven]
        order = sorted(range(len(infos)), key=newest.__getitem__, reverse=True)
        return [infos[n] for n in order]

    def untouched(self, before: int) -> list[Head]:
        """Return the threads that nobody drives and whose newest record is older, oldest first."""
        asked = {"boot": locks.boot_id(), "before": before}
        return [Head(row) for row in self._all("queue.untouched", asked)]

    def weigh(self, seqs: Iterable[int]) -> tuple[int, int]:
        """Return how many of the numbered records are here, and the bytes of their payloads."""
        count, size = self._all("queue.weigh", {"seqs": json.dumps(list(seqs))})[0]
        return int(count), int(size)

    def asked(self) -> list[tuple[str, int, str]]:
        """Return what is asked of this process: thread, token, "answer" or "cancel"."""
        return [(row[0], row[1], row[2]) for row in self._all("queue.asked", locks.this_process())]

    def requested(self, thread: str, token: int, what: str) -> bool:
        """Whether something is asked of a thread's driver and not answered yet."""
        asked = {"thread": thread, "token": token, "what": what, "boot": locks.boot_id()}
        return bool(self._all("queue.requested", asked))

    def key(self, scope: str) -> bytes | None:
        """Return a scope's wrapped data key, or None."""
        rows = self._all("queue.key", {"scope": scope})
        return bytes(rows[0][0]) if rows else None

    def any_key(self) -> bytes | None:
        """Return some wrapped data key, or None where there is none yet."""
        rows = self._all("queue.any_key")
        return bytes(rows[0][1]) if rows else None

    def master(self) -> str | None:
        """Return the id of the master key that a rotation named for all data keys, or None."""
        return dict(self._all("queue.meta")).get("master")

    def scope_born(self, scope: str) -> int:
        """Return the first number of a scope's oldest thread, 0 where no thread uses it.

        That is the thread whose name the scope has, unless it was deleted and its forks live on.
        """
        head = self.head(scope)
        if head is not None and head.scope == scope:
            return int(head.first_seq)
        return int(self._all("queue.scope_born", {"scope": scope})[0][0])

    def version(self) -> tuple[int, int]:
        """Return what changes when anybody commits through another connection."""
        with self.reading:
            seen = self._usable().execute("PRAGMA data_version").fetchone()[0]
            return self._opened, int(seen)

    def close(self) -> None:
        """Close; the last one of all processes folds the log back and notes how it was left."""
        with self.reading, self._presence.leaving() as last:
            try:
                if last and self.trusted and not unsynced.marked(self.home):
                    self._leave()
            finally:
                self.rest()

    def _leave(self) -> None:
        """Fold the log back and say how the file was left; what fails looks as after a kill."""
        said = mark.read(self.home)
        with suppress(OSError, sqlite3.Error, JournalError):
            seq, generation = self.bounds()[1], self.generation()
            if said is None or said.digest is None:  # others that wrote may have been killed
                keycopy.complete(self.home, self.journal_id, self.keys)
            self.rest()
            with closing(connect(self.path)) as connection:  # its end folds the log back
                if said is None or said.digest is None:
                    make_small(connection)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if said is None or said.digest is None:  # somebody wrote
                fsync_directory(self.home)  # that the log is gone is on disk before that it is
                mark.rest(
                    self.home,
                    journal_id=self.journal_id,
                    seq=seq,
                    generation=generation,
                    digest=mark.digest_of(self.path),
                )

    def rest(self) -> None:
        """Close the connection until it is needed again."""
        with self.reading:
            reader, self._reader = self._reader, None
            if reader is None:
                return
            if unsynced.marked(self.home):
                unsynced.close_unfolded(self.path, reader)
            else:
                reader.close()

    def before_fork(self) -> None:
        """Close the connection, and have the child be among those that use the journal."""
        self.reading.acquire()
        self.rest()
        self._presence.before_fork()

    def in_parent(self) -> None:
        """Go on after a fork."""
        self._presence.in_parent()
        self.reading.release()

    def renew(self) -> None:
        """Be usable in a forked child, whose parent's threads may have held the lock."""
        self.reading = threading.RLock()
        self._presence.in_child()

    def _usable(self) -> sqlite3.Connection:
        if self._reader is None:  # at first, and after a fork
            if not self.path.exists():
                raise NoJournalError(f"{self.path} is gone: put it back, or open another journal")
            # A reader that may not write leaves a log that is not to be trusted as it is: closing
            # any other connection would fold it back, and with it end what a repair can bring back.
            self._reader = connect(self.path, reads=True)
            self._opened += 1
        return self._reader

    def _all(self, name: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._run(query(name), parameters or {})

    def _each(self, name: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows one by one: many at a time keep the garbage collector busy."""
        with self.reading, self._told_as_damage():
            yield from self._usable().execute(query(name))

    def _run(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self.reading, self._told_as_damage():
            return self._usable().execute(statement, parameters).fetchall()

    @contextmanager
    def _told_as_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise damage.of(error, self.home) or error from error
        except UnicodeDecodeError as error:  # SQLite quotes a schema that it cannot read
            raise damage.found(self.home, f"{FILE} cannot be read ({error})") from error

    def _record(self, row: tuple[Any, ...]) -> Record:
        return record_of(row, self.home)


def _missing(home: Path) -> NoJournalError:
    return NoJournalError(
        f"there is no journal in {home}: it has no {FILE}; run an agent there to make one, or name "
        "the directory of another journal"
    )


class Head:
    """A thread's row in queue.sqlite: what `list` shows and what a driver needs first."""

    COLUMNS = (
        *("thread", "scope", "agent", "status", "run", "session", "intended", "returned"),
        *("records", "first_seq", "last_seq", "created", "updated", "notebook", "token"),
        *("driver_pid", "driver_host", "driver_boot", "driver_started", "driver_since"),
    )

    def __init__(self, row: tuple[Any, ...]) -> None:
        (
            self.thread,
            self.scope,
            self.agent,
            self.status,
            self.run,
            self.session,
            self.intended,
            self.returned,
            self.records,
            self.first_seq,
            self.last_seq,
            self._created,
            self._updated,
            self.notebook,
            self.token,
            self._pid,
            self._host,
            self._boot,
            self._started,
            self._since,
            self._asked,
        ) = row

    @property
    def driver(self) -> Driver | None:
        """The process that took the thread and has not given it back, dead or alive."""
        if self._pid is None:
            return None
        return Driver(
            pid=self._pid,
            host=self._host,
            boot=self._boot,
            started=self._started,
            notebook=self.notebook,
            since=clock.from_us(self._since),
        )

    @property
    def sane(self) -> bool:
        """Whether each of its columns has a value that such a column can have."""
        numbers = (self.intended, self.returned, self._created, self._updated, self.token)
        try:
            self.info()
        except (TypeError, ValueError, OverflowError, OSError):
            return False
        return all(isinstance(one, int) and one >= 0 for one in numbers)

    @property
    def claim_whole(self) -> bool:
        """Whether what is said of the driver is complete."""
        said = (self._pid, self._host, self._boot, self._started, self._since)
        return self._pid is None or (self.token > 0 and None not in said)

    @property
    def driven(self) -> bool:
        """Whether that process still has the thread.

        It has for as long as it runs. Of a process that cannot be judged from here one asks whether
        it is there (`leases.py`): it has the thread until it has left that unanswered for too long.
        """
        life = self._life()
        return life is locks.Life.RUNS or (life is locks.Life.UNSURE and self._left() > 0)

    @property
    def expires(self) -> datetime | None:
        """From when on another may take the thread if nothing is heard of its driver.

        None where the driver is known to run, or to be gone.
        """
        if self._life() is not locks.Life.UNSURE:
            return None
        return clock.from_us(clock.now_us() + self._left())

    def _life(self) -> locks.Life:
        if self._pid is None:
            return locks.Life.GONE
        return locks.life(pid=self._pid, host=self._host, boot=self._boot, started=self._started)

    def _left(self) -> int:
        """Return for how many microseconds more the driver need not have answered."""
        lease = round(settings.lease_seconds() * 1e6)
        waited = 0 if self._asked is None else clock.ticking_us() - self._asked
        return lease if waited < 0 else max(0, lease - waited)

    def info(self) -> ThreadInfo:
        """Return the public view: a running thread without a living driver is orphaned."""
        status = STATUSES.get(self.status) or RunStatus(self.status)
        if status is RunStatus.RUNNING and not self.driven:
            status = RunStatus.ORPHANED
        return ThreadInfo(
            thread=self.thread,
            agent=self.agent,
            status=status,
            run=self.run,
            returned=self.returned,
            intended=self.intended,
            created=clock.from_us(self._created),
            updated=clock.from_us(self._updated),
            notebook=self.notebook,
            driver=self.driver,
            records=self.records,
        )
