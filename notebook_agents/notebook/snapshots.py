"""A kernel's variables, snapshot by snapshot: what changed is recorded, the rest is referred to.

Taking one is done in the kernel's main thread between two cells and costs what it costs to look at
everything: nothing else tells whether an array was changed in place. Recording it may be done by
another thread. What changed is copied for that, or, where it is too large, read from the variables
themselves and compared with what was seen.

A thread of the user's may change a variable while it is taken. Where there are such threads
everything is taken twice, and kept is what was the same both times: it was so in between.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents import settings
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.journal.chunking import Encoder, Stored
from notebook_agents.journal.copying import hidden
from notebook_agents.journal.values import unpack
from notebook_agents.model import Kind
from notebook_agents.notebook import namespace
from notebook_agents.pickling import modules, snapshot, versions
from notebook_agents.pickling.marks import mark_of
from notebook_agents.pickling.report import RestoreReport
from notebook_agents.pickling.texts import Texts
from notebook_agents.runtime import object_records
from notebook_agents.runtime.object_records import Table
from notebook_agents.runtime.plain import PlainCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from notebook_agents.journal import Journal, Record
    from notebook_agents.pickling.snapshot import Copied, Group

NAME = "variables"
"""The name of a snapshot of a kernel's variables."""
_UNINDEXED = 16
"""Snapshots between two that say where everything is."""
_SMALL = 4096
"""Bytes below which a piece is not looked for among those that are recorded."""
_TOGETHER = 16_000_000
"""Bytes of pieces that are recorded in one transaction: others wait for it."""
_ALWAYS_COPIED = 64_000_000
_SHARE = 4
"""One part in so many of the free memory may be taken by copies."""
_MOST_NODES = 200_000
_TRIES = 3
_OURS = ("notebook_agents", "ipykernel", "IPython", "zmq", "debugpy")
_RUN_CODE = ("ipykernel.subshell", "notebook_agents.graph")
"""Of these, those that run the user's code: cells in subshells, nodes of agents."""
_HELD_SECONDS = 0.2
"""For how long threads of the user's do not get Python's lock while variables are taken."""
_C_MICROSECONDS = 15_000
"""How long is waited for what they do without it."""
_UNSETTLED = "another thread changed it while it was taken"


class Captured(NamedTuple):
    """A kernel's variables at a moment, as far as they are to be recorded.

    Attributes:
        names: Of all variables.
        groups: What changed since the snapshot before.
        copies: Pieces of it, by their marks.
        borrowed: Whether other pieces are still the variables' own.
        refused: What cannot be kept, by name, with why.
        unsettled: What is recorded as it was before, since a thread was changing it.
        around: See `namespace.around`.
        generation: The journal's: what is recorded has its numbers in this one.
        series: The number of the series that it goes on with.
    """

    names: frozenset[str]
    groups: list[Group]
    copies: dict[bytes, bytes]
    borrowed: bool
    refused: dict[str, str]
    unsettled: frozenset[str]
    around: bytes
    generation: int
    series: int


class _Series:
    """Snapshots of which each has what changed since the one before, and the first has all.

    Attributes:
        number: Those of a later series do not build on this one.
        digests: What was seen last of each group.
        coming: Marks of the copies that wait for being recorded.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.digests: dict[tuple[str, ...], bytes] = {}
        self.coming = set[bytes]()


class Snapshots:
    """The snapshots of one thread, in the kernel whose variables they are.

    Args:
        journal: The journal.
        thread: The thread's name.

    Attributes:
        table: What is recorded.
        fresh: Seconds that `capture` spent last on what was new: the next one need not.
    """

    def __init__(self, journal: Journal, thread: str) -> None:
        self.journal = journal
        self.thread = thread
        self.table = Table()
        self.fresh = 0.0
        self._texts = Texts()
        self._series = _Series(0)
        self._valid_from = 0
        self._around = b""
        self._refused: dict[str, tuple[Any, str]] = {}
        self._nodes: OrderedDict[bytes, Stored] = OrderedDict()
        self._recorded: Mapping[bytes, Stored] = self._nodes  # as far as one that is taken may say
        self._generation = journal.generation
        self._unindexed = _UNINDEXED
        self._unsettled: set[str] = set()
        self._absent: set[str] = set()  # what is recorded and could not be loaded here
        self._writing = threading.Lock()

    # -- taking -------------------------------------------------------------------------------

    def capture(self) -> Captured:
        """Look at the kernel's variables; return what changed since this was asked last.

        Whoever does not hand it to `write`, for whatever reason, calls `begin_again`.
        """
        # The other thread may begin another series meanwhile: what is seen here is none of it.
        series, now = self._series, namespace.now()
        generation = self.journal.generation
        # Without a lock, which Ctrl-C could leave taken. It is the writer who notes a new one.
        self._recorded = self._nodes if generation == self._generation else {}
        self.fresh = 0.0
        if strangers():
            taken, changed, copies, borrowed, unsettled = self._settled(now, series)
        else:
            taken, unsettled = self._take(now, series), frozenset()
            changed = _changed(taken, series)
            copies, borrowed = self._copied(changed, series)
        self._refused = {name: (now.variables[name], why) for name, why in taken.refused.items()}
        for group in changed:
            series.digests[group.names] = group.digest
        # A small piece is not looked for among the recorded ones: each snapshot has its own.
        series.coming.update(mark for mark, copy in copies.items() if len(copy) >= _SMALL)
        known = {group.names for group in taken.groups}
        for names in series.digests.keys() - known:
            del series.digests[names]
        return Captured(
            names=frozenset(now.variables),
            # Who holds on to an array's buffer keeps it from being resized, and from being freed.
            groups=changed if borrowed else [one._replace(raw=[]) for one in changed],
            copies=copies,
            borrowed=borrowed,
            refused=taken.refused,
            unsettled=unsettled,
            around=namespace.around(now.imports),
            generation=generation,
            series=series.number,
        )

    def _settled(
        self, now: namespace.Namespace, series: _Series
    ) -> tuple[snapshot.Taken, list[Group], dict[bytes, bytes], bool, frozenset[str]]:
        """Take everything until it is the same twice, while threads of the user's may change it.

        Returns:
            What was taken, what of it changed and came to rest, its copies, whether some are not
            made, and the names of what did not come to rest.
        """
        unsettled: frozenset[str] = frozenset()
        with held_up() as wait:
            taken = self._take(now, series)
            changed = _changed(taken, series)
            copies, borrowed = self._copied(changed, series)
            for left in reversed(range(_TRIES)):
                wait()
                again = self._take(now, series)
                seen = {group.names: group.digest for group in taken.groups}
                moving = [one for one in again.groups if seen.get(one.names) != one.digest]
                taken = again
                if not moving:
                    break
                if not left:
                    unsettled = frozenset(name for one in moving for name in one.names)
                changed = [
                    one for one in _changed(taken, series) if unsettled.isdisjoint(one.names)
                ]
                copies, borrowed = self._copied(changed, series)
        return taken, changed, copies, borrowed, unsettled

    def begin_again(self) -> None:
        """Have the next snapshot say of everything what it is: what was taken last is lost."""
        self._series = _Series(self._series.number + 1)

    def _refuse(self) -> None:
        """Do so, and have those refused that were taken as what changed since one that failed."""
        self.begin_again()
        self._valid_from = self._series.number

    def _take(self, now: namespace.Namespace, series: _Series) -> snapshot.Taken:
        limit = settings.variables_bytes()
        self._texts.begin()
        taken = snapshot.take(
            now.variables,
            self._reduce,
            known=now.variables.keys() | now.given,
            together=list(series.digests),
            refused=self._refused,
            limit=limit,
        )
        self.fresh += self._texts.seconds
        total = sum(group.size for group in taken.groups)
        groups = sorted(taken.groups, key=lambda group: group.size)
        while total > limit:
            largest = groups.pop()
            total -= largest.size
            why = (
                f"it takes {largest.size / 1e6:.3g} MB, and all variables together may take "
                f"{limit / 1e6:g} MB ({settings.VARIABLES_VARIABLE})"
            )
            taken.refused.update(dict.fromkeys(largest.names, why))
        return snapshot.Taken(groups, taken.refused)

    def _reduce(self, value: object) -> Any:
        found = self._texts.reduce(value)
        return _reduce(value) if found is None else found

    def _copied(self, groups: Iterable[Group], series: _Series) -> tuple[dict[bytes, bytes], bool]:
        """Return copies of the pieces that are not recorded, by mark; and whether some are not."""
        wanted = {
            mark: piece
            for group in groups
            for raw, marks in zip(group.raw, group.marks, strict=True)
            for mark, piece in zip(marks, snapshot.pieces_of(raw), strict=True)
            if mark not in self._recorded and mark not in series.coming
        }
        size = sum(map(len, wanted.values()))
        if size > _ALWAYS_COPIED and size > free_memory() // _SHARE:
            return {}, True
        begun = time.perf_counter()
        copies = {mark: bytes(piece) for mark, piece in wanted.items()}
        self.fresh += time.perf_counter() - begun
        return copies, False

    # -- recording ----------------------------------------------------------------------------

    def write(
        self,
        captured: Captured,
        *,
        columns: dict[str, Any],
        more: dict[str, Any],
        always: bool = True,
        durable: bool = True,
    ) -> int | None:
        """Record what was taken, in the order in which it was.

        Args:
            captured: What `capture` returned.
            columns: The record's columns: at least its scope and token.
            more: What the snapshot says besides, plain data.
            always: Whether there is a record where nothing changed.
            durable: Whether it has to outlive a power loss.

        Returns:
            The record's number, or None where nothing had changed.

        Raises:
            JournalError: It could not be recorded; then the next one has what this one had.
            NotebookAgentsError: One that it builds on was not; the same holds.
        """
        with self._writing:
            if captured.series < self._valid_from:
                raise NotebookAgentsError(
                    "the snapshot before it was not recorded, and it has only what changed since: "
                    "the next one has all"
                )
            try:
                return self._write(captured, columns, more, always=always, durable=durable)
            except BaseException:
                self._nodes.clear()  # first: one that is being taken leaves out what is in it
                self._refuse()
                raise
            finally:
                if (series := self._series).number == captured.series:
                    series.coming.difference_update(captured.copies)

    def _write(
        self,
        captured: Captured,
        columns: dict[str, Any],
        more: dict[str, Any],
        *,
        always: bool,
        durable: bool,
    ) -> int | None:
        self._look_again()
        if captured.generation != self._generation and not captured.borrowed:
            raise NotebookAgentsError(
                "the journal was compacted meanwhile, and some of what it refers to may be gone: "
                "the next snapshot has all"
            )
        scope, columns = columns["scope"], {"thread": self.thread, **columns}
        del columns["scope"]
        encoder = Encoder(
            PlainCodec(),
            self.journal.chunks(scope),
            thread=self.thread,
            scope=scope,
            token=columns["token"],
        )
        groups, unsettled = self._all_stored(encoder, captured)
        before = self.table
        refused = captured.refused | {
            name: _UNSETTLED for name in unsettled if name not in before.entries
        }
        refused = {name: why for name, why in refused.items() if before.of(name)[1] != why}
        self._absent -= captured.names
        here = captured.names | self._absent
        gone = sorted((before.entries.keys() | before.refused.keys()) - here)
        if not (always or groups or refused or gone or captured.around != self._around):
            return None
        self._unsettled = unsettled
        whole = self._unindexed >= _UNINDEXED
        found, meta = object_records.drafts(
            self.journal,
            before,
            groups,
            refused=refused,
            gone=gone,
            whole=whole,
            scope=scope,
            columns=columns,
            called=NAME,
            more={**more, "around": captured.around, "unsettled": sorted(unsettled)},
        )
        self.journal.append(found, durable=durable)
        refs = [ref if isinstance(ref, int) else ref.seq for ref in found[-1].refs]
        before.apply(meta, refs, found[-1].seq)
        self._around = captured.around
        self._unindexed = 1 if whole else self._unindexed + 1
        while len(self._nodes) > _MOST_NODES:
            self._nodes.popitem(last=False)
        return found[-1].seq

    def _all_stored(self, encoder: Encoder, captured: Captured) -> tuple[list[Copied], set[str]]:
        """Return the groups whose pieces are recorded, and the names of what has not settled."""
        unsettled, groups = set(captured.unsettled), []
        for group in captured.groups:
            stored = self._stored(encoder, group, captured.copies)
            if stored is None:
                self._refuse()
                unsettled.update(group.names)
            else:
                groups.append(stored)
        self._append(encoder, 0)
        return groups, unsettled

    def _stored(self, encoder: Encoder, group: Group, copies: dict[bytes, bytes]) -> Copied | None:
        """Return a group whose pieces are recorded; None if it is not what it was any more."""
        data = memoryview(group.data)
        kept = [
            [
                self._piece(encoder, mark, bytes(piece))
                for mark, piece in zip(
                    snapshot.marks_of(data), snapshot.pieces_of(data), strict=True
                )
            ]
        ]
        for place, marks in enumerate(group.marks):
            own = iter(snapshot.pieces_of(group.raw[place])) if group.raw else None
            pieces: list[Any] = []
            for mark in marks:
                piece = None if own is None else next(own)
                copy = None
                if mark not in self._nodes:
                    copy = copies.get(mark) if piece is None else bytes(piece)
                    if copy is None or mark_of(copy) != mark:
                        return None
                pieces.append(self._piece(encoder, mark, copy))
            kept.append(pieces)
        return snapshot.Copied(group.names, kept[0], kept[1:], group.modules, group.digest)

    def _piece(self, encoder: Encoder, mark: bytes, copy: bytes | None) -> Any:
        """Return what stands for a piece; it is recorded already where there is no copy."""
        if mark in self._nodes:
            self._nodes.move_to_end(mark)
            return self._nodes[mark]
        assert copy is not None
        if len(copy) < _SMALL:
            return copy
        stored = self._nodes[mark] = Stored(encoder.leaf("b", copy), len(copy))
        self._append(encoder, _TOGETHER)
        return stored

    def _append(self, encoder: Encoder, least: int) -> None:
        """Record the chunks that were made, if they are so many bytes."""
        if encoder.new and sum(len(draft.plain) for draft in encoder.new) >= least:
            self.journal.append(encoder.new, durable=False)
            encoder.new = []

    def _look_again(self) -> None:
        """Forget what is known by number after a compaction: what nothing refers to is gone."""
        now = self.journal.generation
        if now != self._generation:
            self._nodes, self._generation = OrderedDict(), now

    def missing(self) -> dict[str, str]:
        """Return the variables that the newest snapshot has not, or not as they were, with why."""
        return {**dict.fromkeys(sorted(self._unsettled), _UNSETTLED), **self.table.refused}

    # -- restoring ----------------------------------------------------------------------------

    def load(self, seq: int, what: str) -> tuple[dict[str, Any], RestoreReport, dict[str, Any]]:
        """Do what was done around the variables, and load them, as a snapshot has them.

        Args:
            seq: Its record's number.
            what: Names them in the report.

        Returns:
            The variables by name, what came back, and what the snapshot says besides.

        Raises:
            NotebookAgentsError: The snapshot itself does not open, or is not of this version.
        """
        with self._writing, self.journal.reading():
            records = [one for one in recorded(self.journal, self.thread) if one.seq <= seq]
            if not records or records[-1].seq != seq:
                raise NotebookAgentsError(
                    f"record {seq} of thread {self.thread!r} is no snapshot of variables that this "
                    "version can read: run the cells again"
                )
            table = object_records.table(self.journal, records)
            more = said(self.journal, seq)
            variables, failed, notes = namespace.go_back(more["around"])
            digests = self._give(table, variables, failed, notes)
            self._refuse()
            self.table, self._series.digests = table, digests
            self._refused, self._unsettled = {}, set()
            self._absent = failed.keys() & table.entries.keys()
            self._unindexed = _UNINDEXED  # the next one says what of these is still there
        report = RestoreReport(
            what=what,
            restored=tuple(sorted(variables)),
            refused=dict(sorted(table.refused.items())),
            failed=dict(sorted(failed.items())),
            notes=tuple(dict.fromkeys(notes)),
        )
        return variables, report, more

    def _give(
        self, table: Table, variables: dict[str, Any], failed: dict[str, str], notes: list[str]
    ) -> dict[tuple[str, ...], bytes]:
        """Load what is recorded into `variables`, or say in `failed` why not; return the digests.

        What `on_restore` calls may use a variable that is loaded later: it is tried again then.
        """
        digests: dict[tuple[str, ...], bytes] = {}
        left, before = list(dict.fromkeys(table.entries.values())), -1
        while left and len(left) != before:
            before, todo, left = len(left), left, []
            with _among_globals(variables):
                for entry in todo:
                    names = [name for name in entry.names if table.entries.get(name) == entry]
                    try:
                        kept = object_records.read(self.journal, entry)
                        notes += versions.mismatches(kept.versions)
                        notes += modules.install(kept.modules)
                        found = snapshot.give(kept.data, kept.buffers)
                    except NotebookAgentsError as error:
                        failed.update(dict.fromkeys(names, str(error)))
                        if "(NameError: " in str(error):
                            left.append(entry)
                        continue
                    digests[entry.names] = kept.digest
                    for name in names:
                        failed.pop(name, None)
                        # Interned as names in code are: the next pickle is the same bytes then.
                        variables[sys.intern(name)] = found[name]
        return digests


@contextmanager
def _among_globals(variables: dict[str, Any]) -> Iterator[None]:
    """Let functions of `__main__` find, for a while, what was loaded and is not there yet."""
    own = vars(sys.modules["__main__"])
    added = {name: value for name, value in variables.items() if name not in own}
    own.update(added)
    try:
        yield
    finally:
        for name in added:
            own.pop(name, None)


def _changed(taken: snapshot.Taken, series: _Series) -> list[Group]:
    return [one for one in taken.groups if series.digests.get(one.names) != one.digest]


def recorded(journal: Journal, thread: str) -> list[Record]:
    """Return the snapshots of a thread's variables that were not deleted, in order."""
    gone = hidden(journal.select(thread=thread, kinds=[Kind.DELETION]))
    found = object_records.snapshots(journal, thread, name=NAME)
    return [record for record in found if record.seq not in gone]


def said(journal: Journal, seq: int) -> dict[str, Any]:
    """Return what a snapshot says besides, and the names of what changed as `changed`."""
    _, payload = journal.parts([seq])[seq]
    meta = unpack(payload)[0]
    more: dict[str, Any] = meta["more"]
    changed = {name for names in meta["groups"] for name in names} | set(meta["refused"])
    return {**more, "changed": sorted(changed), "gone": meta["gone"]}


def strangers() -> list[str]:
    """Return the names of the threads that may run the user's code beside this one."""
    main, here = threading.main_thread(), threading.current_thread()
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not here and (thread is main or not _is_ours(thread))
    ]


def _is_ours(thread: threading.Thread) -> bool:
    """Whether a thread is one of those that every kernel has."""
    target = getattr(thread, "_target", None)
    for of in (target, type(thread)):
        module = str(getattr(of, "__module__", None) or "")
        if module.startswith(_RUN_CODE):
            return False
        if module.partition(".")[0] in _OURS:
            return True
    return False


@contextmanager
def held_up() -> Iterator[Callable[[], object]]:
    """Hold other threads up while something is taken, as far as Python can.

    What they have begun in C without Python's lock (to fill an array, say) goes on. So first it is
    waited without giving the lock away: then it has ended, and they wait for the lock.

    Yields:
        What waits so again: between two takings, of which the first may have met such a thing.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_HELD_SECONDS)
    wait = functools.partial(ctypes.pythonapi.usleep, _C_MICROSECONDS)
    try:
        wait()  # who has asked for the lock by the old interval gets it behind this
        wait()
        yield wait
    finally:
        sys.setswitchinterval(before)


def free_memory() -> int:
    """Return how many bytes this process may still take, or a careful guess."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        _, _, rest = Path("/proc/meminfo").read_text().partition("MemAvailable:")
        found.append(int(rest.split()[0]) * 1024)
    with suppress(OSError, ValueError):  # of a container; it says "max" where there is none
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        found.append(most - int((group / "memory.current").read_text()))
    return max(min(found, default=2**30), 0)


def _reduce(value: object) -> Any:
    # Only a kernel that has an agent needs to know how to keep one.
    if "notebook_agents.graph.agent" not in sys.modules:
        return None
    return import_module("notebook_agents.graph.kinds").reduce(value)
