"""The objects of a thread in this process: loaded when they are asked for, kept with its steps.

A step's changes are recorded in the transaction of its result. So in a fresh process state and
objects are of the same step: what a step did that has to run again is not among them, and a durable
call that is not run again brings back what it left.

In one process a step that fails, or waits for a person, leaves no changes either: what it asked for
is read again from the journal.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import (
    NotebookAgentsError,
    ObjectNotRestoredError,
    ValueNotKeptError,
)
from notebook_agents.journal.values import unpack
from notebook_agents.pickling import modules, snapshot, versions
from notebook_agents.pickling.report import RestoreReport
from notebook_agents.runtime import object_records
from notebook_agents.runtime.object_records import Table
from notebook_agents.runtime.steps import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from notebook_agents.journal import Draft, Journal
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState
    from notebook_agents.runtime.object_records import Entry, Every

    Before = dict[str, tuple[Entry | None, str | None]]

_MOST = 32
"""Threads whose objects a process holds on to, besides those that it drives."""
_UNINDEXED = 50
"""Steps' snapshots between two that say where everything is."""
_logger = logging.getLogger("notebook_agents.runtime")
_stores: OrderedDict[tuple[str, str], Store] = OrderedDict()
_stores_lock = threading.Lock()


def store(journal: Journal, thread: str, reduce: Callable[[object], Any]) -> Store:
    """Return what keeps a thread's objects in this process; the same one each time.

    Args:
        journal: The journal.
        thread: The thread's name; it need not be there yet.
        reduce: See `snapshot.take`.
    """
    with _stores_lock:
        found = _stores.get((journal.id, thread))
        if found is None or found.journal.closed:
            found = _stores[journal.id, thread] = Store(journal, thread, reduce)
        _stores.move_to_end((journal.id, thread))
        for key in list(_stores)[:-_MOST]:
            if not _stores[key].driven:
                del _stores[key]
        return found


def _forget_all() -> None:
    """In a forked child: the locks may be held by threads that are not there."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_all)


def begin(driver: RunDriver) -> None:
    """Have a driver keep its thread's objects, if this process has any of them."""
    with _stores_lock:
        found = _stores.get((driver.journal.id, driver.thread))
    if found is not None and not found.journal.closed:
        found.begin(driver)


class Store:
    """One thread's objects; see `store`."""

    def __init__(self, journal: Journal, thread: str, reduce: Callable[[object], Any]) -> None:
        self.journal = journal
        self.thread = thread
        self.notes: dict[str, None] = {}
        self._reduce = reduce
        self._lock = threading.RLock()
        self._driver: RunDriver | None = None
        self._table = Table()
        self._live: dict[str, Any] = {}
        self._gone: set[str] = set()
        self._failed: dict[str, str] = {}
        self._digests: dict[tuple[str, ...], tuple[bytes, Entry]] = {}
        self._touched: dict[str, set[str]] = {}
        self._inside: dict[str, list[tuple[str, Draft | int, Before]]] = {}
        self._pending: dict[str, list[int]] = {}
        self._every_changed = False
        self._seen: tuple[int, int] | None = None
        self._unindexed = 0
        self._steps = 0
        self._when = time.monotonic()

    # -- as a mapping -------------------------------------------------------------------------

    @property
    def driven(self) -> bool:
        """Whether a run of this process keeps them now."""
        driver = self._driver
        return driver is not None and self.thread in self.journal.driving

    def names(self) -> list[str]:
        """Return the names of all objects, those that do not come back included."""
        with self._lock:
            self._look()
            known = {**self._table.entries, **self._table.refused, **self._live}
            return sorted(known.keys() - self._gone)

    def get(self, name: str) -> Any:
        """Return an object.

        Raises:
            KeyError: There is none of that name.
            ObjectNotRestoredError: It was refused, or does not come back here.
        """
        with self._lock:
            self._look()
            self._touch(name)
            if name in self._gone:
                raise KeyError(name)
            if name not in self._live:
                self._load(name)
            return self._live[name]

    def put(self, name: str, value: Any) -> None:
        """Put an object in; outside a run it is on disk when this returns.

        Raises:
            ValueNotKeptError: It cannot be kept. Inside a run this is said when its step returns.
            ThreadBusyError: Another process drives the thread.
        """
        with self._lock:
            self._look()
            self._touch(name)
            before = dict(self._live), set(self._gone)
            self._live[name] = value
            self._gone.discard(name)
            self._failed.pop(name, None)
            self._save_outside(name, before)

    def remove(self, name: str) -> None:
        """Take an object out.

        Raises:
            KeyError: There is none of that name.
            ThreadBusyError: Another process drives the thread.
        """
        with self._lock:
            if name not in self.names():
                raise KeyError(name)
            self._touch(name)
            before = dict(self._live), set(self._gone)
            self._live.pop(name, None)
            self._gone.add(name)
            self._save_outside(None, before)

    def save(self) -> None:
        """Record what was changed outside a run."""
        with self._lock:
            self._look()
            self._save_outside(None, (dict(self._live), set(self._gone)))

    def restore(self) -> RestoreReport:
        """Load everything and say what came back."""
        with self._lock:
            for name in self.names():
                if name not in self._live and name not in self._table.refused:
                    try:
                        self._load(name)
                    except ObjectNotRestoredError:
                        continue  # it is in `_failed`
            return RestoreReport(
                what=f"the objects of thread {self.thread!r}",
                restored=tuple(sorted(self._live.keys() - self._table.refused.keys())),
                refused=dict(sorted(self._table.refused.items())),
                failed=dict(sorted(self._failed.items())),
                notes=tuple(self.notes),
            )

    @property
    def every(self) -> Every:
        """How often there is a snapshot."""
        with self._lock:
            self._look()
            return self._table.every

    @every.setter
    def every(self, every: Every) -> None:
        with self._lock:
            self._look()
            self._table.every = object_records.checked(every)
            self._every_changed = True
            self._save_outside(None, (dict(self._live), set(self._gone)))

    # -- as a driver's keeper -----------------------------------------------------------------

    def begin(self, driver: RunDriver) -> None:
        """Have a run keep them; what was changed since the last one is recorded."""
        with self._lock:
            if self._driver is driver:
                return
            self._forget_touched()
            self._driver, self.journal = driver, driver.journal
            driver.objects = self
            self._read()
            found = self._drafts(None, self._all(), whole=True)
            if found:
                driver.journal.append(found, durable=False)

    def kept(self, attempt: Attempt) -> list[Draft]:
        """Return the snapshot of what an attempt that returned has changed."""
        with self._lock:
            step = attempt.step
            if attempt.late:
                self.dropped(attempt)
                return []
            mine = self._touched.pop(step.id, set())
            inside = self._inside.pop(step.id, [])
            if step.parent is not None:
                # The step around it goes on: what this one left belongs to both.
                self._inside.setdefault(step.parent, []).extend(inside)
                if not mine:
                    return []
                self._touched.setdefault(step.parent, set()).update(mine)
                return self._drafts(attempt, self._mates(mine), whole=False)
            self._steps += 1
            if not self._due():
                return []
            # Where another step has some in its hands now, only what this one asked for is kept.
            look = self._mates(mine) if self._touched else self._all()
            index = self._index() if self._unindexed >= _UNINDEXED and not self._inside else []
            found = self._drafts(attempt, look, whole=False)
            if found:
                self._unindexed = 0 if index else self._unindexed + 1
            return [*index, *found] if found else []

    def dropped(self, attempt: Attempt) -> None:
        """Have what an attempt changed read again that did not return."""
        with self._lock:
            step = attempt.step
            mine = self._touched.pop(step.id, set())
            self._undo(step.id)
            if step.parent is None:
                # What another step has in its hands stays, or what that one does would be lost.
                self._forget(mine.difference(*self._touched.values()))
            elif mine:
                self._touched.setdefault(step.parent, set()).update(mine)

    def replayed(self, step: StepState) -> None:
        """Have what a durable call left that is not made again."""
        with self._lock:
            for seq in self._pending.pop(step.id, ()):
                self._apply(step, seq)

    def ended(self, driver: RunDriver) -> list[Draft]:
        """Return the last snapshot of a run; what no step returned with is not in it."""
        with self._lock:
            if self._driver is not driver:
                return []
            self._forget_touched()
            if not all(entry.seq for entry in self._table.entries.values()):
                self._read()  # what a step returned with was not recorded: it was cut off there
            found = self._drafts(None, self._all(), whole=True)
            if not found and self._unindexed:
                found = self._index()
            self._unindexed = 0
            self._driver = self._seen = None
            return found

    # -- reading ------------------------------------------------------------------------------

    def _look(self) -> None:
        """See what other processes did, unless this one drives the thread."""
        if self.driven:
            return
        if self._driver is not None:  # it was put down without a word, or nobody could hear it
            self._forget_touched()
            self._driver = self._seen = None
        head = self.journal.head(self.thread)
        seen = None if head is None else (head.first_seq, head.last_seq)
        if seen != self._seen:
            if seen is None or (self._seen is not None and seen[0] > self._seen[0]):
                self._live.clear()  # the thread was deleted; its name may be another's
            self._read()
            self._seen = seen

    def _read(self) -> None:
        """Read what the snapshots say; forget objects that are not what they were."""
        journal = self.journal
        with journal.reading():
            records = object_records.snapshots(journal, self.thread)
            undone = object_records.undone(journal, self.thread, records)
            past = [record for record in records if record.step not in undone]
            self._pending = {}
            for record in records:
                if record.step in undone:
                    self._pending.setdefault(record.step or "", []).append(record.seq)
            found = object_records.table(journal, past)
        before, self._table = self._table, found
        if not records:
            found.every = before.every
        for name, entry in before.entries.items():
            now = found.entries.get(name)
            if now is None or not now.same(entry):
                self._live.pop(name, None)
        self._failed.clear()
        driver = self._driver
        for step, seqs in list(self._pending.items()):
            known = None if driver is None else driver.known(step)
            if known is not None and known.used and known.returned is not None:
                del self._pending[step]
                for seq in seqs:
                    self._apply(known, seq)

    def _apply(self, step: StepState, seq: int) -> None:
        """Take what a durable call left, for as long as the step around it may return."""
        refs, payload = self.journal.parts([seq])[seq]
        meta = unpack(payload)[0]
        self._take_inside(step, seq, meta, refs)
        names = object_records.names_in(meta)
        for name in names:
            self._live.pop(name, None)
            self._gone.discard(name)
        self._touched.setdefault(step.parent or step.id, set()).update(names)

    def _take_inside(
        self, step: StepState, record: Draft | int, meta: dict[str, Any], refs: Any
    ) -> None:
        """Have the table say what a call's snapshot says, so that it can be taken back."""
        before = {name: self._table.of(name) for name in object_records.names_in(meta)}
        self._inside.setdefault(step.parent or "", []).append((step.id, record, before))
        self._table.apply(meta, refs, record)

    def _undo(self, step: str) -> None:
        """Have the table as it was before the calls of a step that did not return."""
        for inner, record, before in reversed(self._inside.pop(step, [])):
            seq = record if isinstance(record, int) else record.seq
            self._pending.setdefault(inner, []).insert(0, seq)
            for name, (entry, why) in before.items():
                self._table.put(name, entry, why)

    def _load(self, name: str) -> None:
        """Load an object and those that were kept together with it."""
        if (why := self._table.refused.get(name)) is not None:
            raise ObjectNotRestoredError(
                self.thread, name, f"it was not kept, because {why.partition('; ')[0]}"
            )
        if (why := self._failed.get(name)) is not None:
            raise ObjectNotRestoredError(self.thread, name, why)
        entry = self._table.entries[name]
        try:
            kept = object_records.read(self.journal, entry)
            self._say(versions.mismatches(kept.versions))
            self._say(modules.install(kept.modules))
            found = snapshot.give(kept.data, kept.buffers)
        except NotebookAgentsError as error:
            self._failed.update(dict.fromkeys(entry.names, str(error)))
            raise ObjectNotRestoredError(self.thread, name, str(error)) from error
        self._digests[entry.names] = (kept.digest, entry)
        for other, value in found.items():
            if self._table.entries.get(other) == entry and other not in self._live:
                self._live[other] = value

    def _say(self, news: Iterable[str]) -> None:
        for note in news:
            if note not in self.notes:
                self.notes[note] = None
                sys.stderr.write(f"objects of thread {self.thread!r}: {note}\n")

    # -- who changed what ---------------------------------------------------------------------

    def _touch(self, name: str) -> None:
        inside = current()
        if inside is not None and inside[0] is self._driver:
            inside[0].announce(inside[1].step.id)  # a conditional edge is a step from here on
            self._touched.setdefault(inside[1].step.id, set()).add(name)

    def _mates(self, names: Iterable[str]) -> set[str]:
        """Return names and those of what was kept together with them."""
        found = set(names)
        for name in names:
            if (entry := self._table.entries.get(name)) is not None:
                found.update(entry.names)
        return found

    def _forget(self, names: Iterable[str]) -> None:
        """Have objects read again when they are next asked for."""
        for name in self._mates(names):
            self._live.pop(name, None)
            self._gone.discard(name)

    def _forget_touched(self) -> None:
        for step in list(self._inside):
            self._undo(step)
        for names in self._touched.values():
            self._forget(names)
        self._touched.clear()

    def _all(self) -> set[str]:
        return self._live.keys() | self._gone

    # -- writing ------------------------------------------------------------------------------

    def _due(self) -> bool:
        every = self._table.every
        if isinstance(every, timedelta):
            return time.monotonic() - self._when >= every.total_seconds()
        return every == "step" or (isinstance(every, int) and self._steps >= every)

    def _save_outside(self, name: str | None, before: tuple[dict[str, Any], set[str]]) -> None:
        """Record what was changed outside a run; a run's step records its own.

        Raises:
            ValueNotKeptError: The object of that name cannot be kept; all is as it was.
        """
        if self.driven:
            return
        try:
            head = self.journal.at_rest(self.thread, then="change its objects")
            scope = self.thread if head is None else head.scope
            token = None if head is None else head.token
            found = self._drafts(
                None,
                self._all(),
                whole=True,
                columns={"thread": self.thread, "token": token, "scope": scope},
            )
            if name is not None and (why := self._table.refused.get(name)) is not None:
                raise ValueNotKeptError(
                    f"object {name!r} of thread {self.thread!r} cannot be kept: {why}"
                )
            if found:
                self.journal.append(found, durable=True)
        except BaseException:
            self._live, self._gone = before
            self._seen = None
            self._table = Table()
            raise
        head = self.journal.head(self.thread)
        self._seen = None if head is None else (head.first_seq, head.last_seq)

    def _drafts(
        self,
        attempt: Attempt | None,
        names: Iterable[str],
        *,
        whole: bool,
        columns: dict[str, Any] | None = None,
    ) -> list[Draft]:
        """Return the snapshot of those objects of these names that changed."""
        outside = columns is not None
        columns = columns or self._columns(attempt)
        scope = columns.pop("scope")
        look = {name: self._live[name] for name in names if name in self._live}
        gone = [name for name in names if name in self._gone]
        taken = snapshot.take(look, self._reduce)
        changed = [group.copied() for group in taken.groups if self._is_news(group)]
        refused = {
            name: why for name, why in taken.refused.items() if self._table.of(name)[1] != why
        }
        self._steps, self._when = 0, time.monotonic()
        if not (changed or gone or refused or self._every_changed):
            return []
        found, meta = object_records.drafts(
            self.journal,
            self._table,
            changed,
            refused=refused,
            gone=gone,
            whole=whole,
            scope=scope,
            columns=columns,
        )
        if attempt is not None and attempt.step.parent is not None:
            self._take_inside(attempt.step, found[-1], meta, found[-1].refs)
        else:
            self._table.apply(meta, found[-1].refs, found[-1])
        for group in changed:
            self._digests[group.names] = (group.digest, self._table.entries[group.names[0]])
        self._gone.difference_update(gone)
        self._every_changed = False
        for name, why in () if outside else refused.items():
            _logger.warning("object %r of thread %r is not kept: %s", name, self.thread, why)
        return found

    def _is_news(self, group: snapshot.Group) -> bool:
        """Whether a group is not what was recorded of it last."""
        digest, before = self._digests.get(group.names, (b"", None))
        if before is None or digest != group.digest:
            return True
        entries = [self._table.entries.get(name) for name in group.names]
        return not all(entry is not None and entry.same(before) for entry in entries)

    def _index(self) -> list[Draft]:
        """Return a snapshot that says of every object where it is, and nothing else.

        It belongs to no step: a fork may undo one of those that are behind it.
        """
        columns = self._columns(None)
        scope = columns.pop("scope")
        found, _ = object_records.drafts(
            self.journal,
            self._table,
            [],
            refused={},
            gone=(),
            whole=True,
            scope=scope,
            columns=columns,
        )
        return found

    def _columns(self, attempt: Attempt | None) -> dict[str, Any]:
        driver = self._driver
        assert driver is not None
        columns: dict[str, Any] = {
            "thread": driver.thread,
            "scope": driver.scope,
            "run": driver.number,
            "token": driver.claim.token,
        }
        if attempt is not None:
            step = attempt.step
            columns |= {"step": step.id, "parent": step.parent, "ns": step.ns or None}
            columns["attempt"] = attempt.number
        return columns
