"""A kernel's variables as they were, and with them its agents' threads: restore and undo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from notebook_agents import clock
from notebook_agents.errors import (
    NotebookAgentsError,
    UnknownThreadError,
    UsageError,
)
from notebook_agents.graph.fork import fork
from notebook_agents.model import NOTEBOOK, VARIABLES, Kind
from notebook_agents.notebook import namespace
from notebook_agents.notebook.snapshots import recorded, said
from notebook_agents.runtime.timeline import clean
from notebook_agents.ui import autosave
from notebook_agents.ui.tables import Table

if TYPE_CHECKING:
    from datetime import datetime

    from notebook_agents.journal import Journal, Record
    from notebook_agents.pickling.report import RestoreReport

_MOST_NAMES = 6
"""Names of what changed in a snapshot, in a list."""
_WENT_ON = (Kind.RUN_STARTED, Kind.STEP_INTENDED, Kind.CHECKPOINT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A moment to which the variables can be brought back.

    Attributes:
        number: What `restore` takes.
        taken: When it was recorded.
        kernel: The how manieth kernel of the notebook took it, from 1.
        cell: The number in that cell's prompt, `In [7]`.
        line: The cell's first line.
        changed: The variables that it changed.
    """

    number: int
    taken: datetime
    kernel: int
    cell: int
    line: str
    changed: tuple[str, ...]


class Snapshots(Table[Snapshot]):
    """Snapshots, the newest first, that show themselves as a table."""

    heads = ("--at", "taken", "kernel", "cell", "changed", "first line")
    empty = "no variables are kept yet"
    rest = "na.snapshots() has them all"

    def row(self, one: Snapshot) -> tuple[str, ...]:
        """Return what the columns say of a snapshot."""
        return (
            str(one.number),
            f"{one.taken.astimezone():%m-%d %H:%M:%S}",
            str(one.kernel),
            f"[{one.cell}]",
            clean(_names(one.changed)),
            clean(one.line),
        )


def snapshots() -> Snapshots:
    """Return this notebook's snapshots, the newest first.

    Raises:
        NoJournalError: There is no journal in this folder.
        UsageError: This is no kernel.
    """
    own = autosave.keeper(create=False)
    own.rest()
    return listed(own.journal, own.thread)


def listed(journal: Journal, thread: str) -> Snapshots:
    """Return the snapshots of a thread, the newest first; nothing is unpickled."""
    found = Snapshots()
    with journal.reading():
        for record in reversed(recorded(journal, thread)):
            more = said(journal, record.seq)
            found.append(
                Snapshot(
                    number=record.attempt or 0,
                    taken=clock.from_us(record.ts),
                    kernel=record.run or 0,
                    cell=more["cell"],
                    line=more["line"],
                    changed=(*more["changed"], *more["gone"]),
                )
            )
    return found


def restore(at: int | str | None = None) -> RestoreReport:
    """Bring this notebook's variables back as a snapshot has them.

    Without `at` it is the newest: what a fresh kernel begins with, where the one before died. Its
    agents' threads stay as they are, `na.resume()` goes on with them. With `at` it is an undo, of
    both: variables that came later are removed, and each thread of this notebook's agents that has
    gone on since is forked at that moment. The report names the forks. Nothing is lost by either:
    variables that there are now are kept first, as one more snapshot, those that cannot be kept
    are left as they are, and the threads stay.

    Args:
        at: A snapshot's number, as `na.snapshots()` has it; or a step's id: the newest snapshot
            before that step, whose thread is forked at the step itself.

    Returns:
        What came back, what was refused when it was kept, and what does not load here; one that
        fails does not stop the others.

    Raises:
        UsageError: There is no such snapshot or step, or none at all.
        NoJournalError: There is no journal in this folder.
    """
    own = autosave.keeper(create=False)
    own.rest()
    journal = own.journal
    step = _step(journal, at) if isinstance(at, str) else None
    record = _chosen(own, at, step)
    number = record.attempt or 0
    has = own.began or bool(namespace.now().variables)
    lost: set[str] = set()
    if has:
        own.held = record.seq  # while one more may be one too many
        try:
            autosave.keep(own, f"(what there was before {number} came back)")
        finally:
            own.held = None
        lost = own.snapshots.missing().keys() & namespace.now().variables.keys()
    taken = clock.from_us(record.ts).astimezone()
    before = own.snapshots.table
    variables, report, more = own.load(
        record,
        f"the variables of snapshot {number}, cell [{more_cell(journal, record)}], "
        f"{taken:%Y-%m-%d %H:%M:%S}",
    )
    later: set[str] = set()
    if at is not None:
        later = before.entries.keys() | before.refused.keys()
        later -= variables.keys() | report.refused.keys() | report.failed.keys()
    notes = [*report.notes, *_put(variables, later, lost)]
    if at is not None:
        notes += _forked(own, more["seen"], step)
    if has and not report.failed:  # whoever restores next wants this; older ones have what failed
        autosave.keep(own, f"({number} came back)")
    if not own.on:
        notes.append("%agents autosave on keeps what changes from now on: here it is off")
    restored = tuple(name for name in report.restored if name not in lost)
    return replace(report, restored=restored, notes=tuple(notes))


def _put(variables: dict[str, Any], later: set[str], lost: set[str]) -> list[str]:
    """Change the kernel's namespace; return what to say of it.

    Args:
        variables: What comes back.
        later: What came later, and goes.
        lost: What there is and cannot be kept: it is left as it is.
    """
    user, notes = namespace.shell().user_ns, []
    gone = sorted(later & namespace.now().variables.keys() - lost)
    for name in gone:
        del user[name]
    if gone:
        notes.append(f"removed, since they came later: {', '.join(gone)}")
    user.update({name: value for name, value in variables.items() if name not in lost})
    if lost:
        notes.append(
            f"left as they are, since what they are now cannot be kept: {', '.join(sorted(lost))}; "
            "del them first to have others in their place"
        )
    return notes


def more_cell(journal: Journal, record: Record) -> int:
    """Return the number in the prompt of the cell behind which a snapshot was taken."""
    return int(said(journal, record.seq)["cell"])


def _chosen(own: autosave.Keeper, at: int | str | None, step: Record | None) -> Record:
    """Return the snapshot that is meant.

    Raises:
        UsageError: There is none.
    """
    records = recorded(own.journal, own.thread)
    if not records:
        raise UsageError(
            f"no variables of {own.notebook or 'this folder'} are kept in {own.journal.home}: "
            "%agents autosave on keeps them from now on"
        )
    if at is None:
        there = own.offered is not None and own.offered.seq in {one.seq for one in records}
        return own.offered if own.offered is not None and there else records[-1]
    if step is not None:
        for record in reversed(records):
            if said(own.journal, record.seq)["seen"] < step.seq:
                return record
        raise UsageError(
            f"no variables were kept before step {at!r}: na.snapshots() has what there is"
        )
    found = [record for record in records if record.attempt == at]
    if not found:
        raise UsageError(
            f"there is no snapshot {at} of this notebook's variables: it has "
            f"{records[0].attempt} to {records[-1].attempt}, na.snapshots() lists them"
        )
    return found[-1]


def _step(journal: Journal, step: str) -> Record:
    """Return the record with which a step began.

    Raises:
        UsageError: There is no such step.
    """
    found = journal.select(step=step, kinds=[Kind.STEP_INTENDED], limit=1)
    if not found:
        raise UsageError(
            f"there is no step {step!r} in {journal.home}: `notebook-agents show THREAD --json` "
            "has the steps' ids, na.snapshots() the snapshots' numbers"
        )
    return found[0]


def _forked(own: autosave.Keeper, seen: int, step: Record | None) -> list[str]:
    """Fork the threads of this notebook that went on behind a record; return what to say of it."""
    journal = own.journal
    notes = []
    for head in journal.heads():
        name = head.thread
        if head.agent in (None, NOTEBOOK, VARIABLES) or head.first_seq > seen:
            continue
        mine = step is not None and step.thread == name
        ours = head.notebook is not None and head.notebook == own.notebook
        if not (mine or (ours and _went_on(journal, name, seen))):
            continue
        try:
            if mine:
                assert step is not None
                made = fork(journal, name, at=step.step)
            else:
                made = fork(journal, name, until=seen)
        except UnknownThreadError as error:
            notes.append(f"thread {name!r} has gone on since, and stays so: {error}")
            continue
        except NotebookAgentsError as error:
            notes.append(f"thread {name!r} was not forked: {error}")
            continue
        what = "what it was before that step" if mine else "what it was then"
        notes.append(f"thread {name!r} has gone on since: {what} is thread {made!r}")
    return notes


def _went_on(journal: Journal, thread: str, seen: int) -> bool:
    return bool(journal.select(thread=thread, since=seen, kinds=_WENT_ON, limit=1))


def offer(journal: Journal, notebook: str | None) -> str | None:
    """Return one line on the variables that are kept of a notebook; None where none are."""
    thread = autosave.thread_of(notebook)
    if journal.head(thread) is None:
        return None
    records = recorded(journal, thread)
    if not records:
        return None
    cell = more_cell(journal, records[-1])
    when = clock.from_us(records[-1].ts).astimezone()
    return (
        f"This notebook's variables are kept as of cell [{cell}], {when:%Y-%m-%d %H:%M}; "
        "%agents restore brings them back"
    )


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
