"""What is told of conversations and runs, as `openapi.json` has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, hiding
from notebook_agents.errors import UnknownThreadError
from notebook_agents.model import NOTEBOOK, VARIABLES, Kind, RunStatus
from notebook_agents.runtime.timeline import clean
from notebook_agents.runtime.view import closed_by, run_view
from notebook_agents.server.refusals import RefusedError
from notebook_agents.ui.restoring import listed
from notebook_agents.ui.state import moment, run_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from notebook_agents.journal import Journal, Record
    from notebook_agents.model import Driver, RunView, ThreadInfo
    from notebook_agents.server.places import Places
    from notebook_agents.ui.restoring import Snapshot

RUNS = 200
"""Runs of a conversation that are told, the newest."""
_NAMES = 100
"""Names of variables that a snapshot is told with."""
MOST = 1_000
"""Conversations of a page."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Kernels = dict[int, str]
"""The ids of this server's kernels by their processes' ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which conversations are asked for.

    Attributes:
        search: A part of a thread's, an agent's or a notebook's name, in lower case.
        statuses: None for any.
        notebook: The contents path of the notebook that started the newest run; None for any.
        limit: How many at most.
        after: The cursor of the page before.
    """

    search: str = ""
    statuses: frozenset[str] | None = None
    notebook: str | None = None
    limit: int = 100
    after: str | None = None


def page(
    journal: Journal, wanted: Wanted, *, places: Places, kernels: Mapping[int, str]
) -> dict[str, Any]:
    """Return a page of conversations, the newest first; DuckDB is not opened for it.

    Raises:
        RefusedError: The cursor is none.
    """
    version = version_of(journal)
    found = _matching(conversations(journal.threads()), wanted, places)
    counts = Counter(str(info.status) for info in found)
    if wanted.statuses is not None:
        found = [info for info in found if info.status in wanted.statuses]
    start = 0 if wanted.after is None else _behind(found, wanted.after)
    shown = found[start : start + wanted.limit]
    more = start + wanted.limit < len(found)
    return {
        "threads": [thread_row(info, places, kernels) for info in shown],
        "total": len(found),
        "counts": dict(counts),
        "next": _cursor(shown[-1]) if more else None,
        "journal": places.shown(journal.home),
        "version": version,
    }


def conversations(infos: Iterable[ThreadInfo]) -> list[ThreadInfo]:
    """Return those threads that people call conversations, and notebooks' runs."""
    return [info for info in infos if info.agent != VARIABLES]


def _matching(infos: Sequence[ThreadInfo], wanted: Wanted, places: Places) -> Sequence[ThreadInfo]:
    if wanted.notebook is not None:
        files = {info.notebook for info in infos}  # few, of however many conversations
        here = {file for file in files if places.contents(file) == wanted.notebook}
        infos = [info for info in infos if info.notebook in here]
    if not wanted.search:
        return infos
    return [
        info
        for info in infos
        for names in ((info.thread, info.agent, info.notebook),)
        if any(name is not None and wanted.search in name.lower() for name in names)
    ]


def _cursor(info: ThreadInfo) -> str:
    return f"{(info.updated - _EPOCH) // timedelta(microseconds=1)}.{info.thread}"


def _behind(found: Sequence[ThreadInfo], after: str) -> int:
    """Return where the next page begins.

    Behind the conversation that the last page ended with; if that one has moved since or is gone,
    behind where it stood.
    """
    stood, dot, name = after.partition(".")
    if not dot or not stood.isdecimal() or len(stood) > 16:  # microseconds, up to the year 2286
        raise RefusedError("bad_request", "`after` is no cursor: begin with the first page")
    at = _EPOCH + timedelta(microseconds=int(stood))
    for place, info in enumerate(found):
        if info.thread == name and info.updated == at:
            return place + 1
    return next((place for place, info in enumerate(found) if info.updated < at), len(found))


def version_of(journal: Journal) -> str:
    """Return a text that is another one after each commit."""
    return f"{journal.newest()}-{journal.version()[1]}"


def thread_row(info: ThreadInfo, places: Places, kernels: Mapping[int, str]) -> dict[str, Any]:
    """Return a conversation as the API's `Thread`."""
    return {
        "thread": info.thread,
        "agent": info.agent,
        "status": str(info.status),
        "notebook": places.contents(info.notebook),
        "notebook_file": info.notebook,
        "is_notebook": info.agent == NOTEBOOK,
        "run": info.run,
        "returned": info.returned,
        "intended": info.intended,
        "records": info.records,
        "created": moment(info.created),
        "updated": moment(info.updated),
        "driver": None
        if info.driver is None
        else _driver(info.driver, kernels, alive=info.status is RunStatus.RUNNING),
    }


def _driver(driver: Driver, kernels: Mapping[int, str], *, alive: bool) -> dict[str, Any]:
    return {
        "pid": driver.pid,
        "host": driver.host,
        "alive": alive,
        "since": moment(driver.since),
        "kernel": kernels.get(driver.pid) if alive else None,
    }


def one_thread(
    journal: Journal, thread: str, *, places: Places, kernels: Mapping[int, str]
) -> dict[str, Any]:
    """Return a conversation with its runs."""
    info = journal.thread(thread)
    runs = list(_runs(journal, info))
    closed = closed_by(journal, thread)
    return {
        "thread": thread_row(info, places, kernels),
        "runs": runs[::-1][:RUNS],
        "cut": max(0, len(runs) - RUNS),
        "closed": closed,
        "closed_code": None if closed is None else "key_missing",
    }


def _runs(journal: Journal, info: ThreadInfo) -> Iterator[dict[str, Any]]:
    kinds = (Kind.RUN_STARTED, Kind.RUN_FINISHED)
    by_run: dict[int, list[Record]] = {}
    for record in journal.select(thread=info.thread, kinds=kinds):
        by_run.setdefault(record.run or 0, []).append(record)
    for number, records in sorted(by_run.items()):
        starts = [record for record in records if record.kind is Kind.RUN_STARTED]
        if not starts:
            continue
        end = records[-1] if records[-1].kind is Kind.RUN_FINISHED else None
        status = RunStatus(end.name) if end is not None and end.name else RunStatus.ORPHANED
        if number == info.run:
            status = info.status
        yield {
            "run": number,
            "status": str(status),
            "agent": starts[0].name or "",
            "started": moment(clock.from_us(starts[0].ts)),
            "ended": None if end is None else moment(clock.from_us(end.ts)),
            "sessions": len(starts),
        }


def read_run(journal: Journal, thread: str, number: int | None) -> RunView:
    """Return a run with what it asks people; what is a pickle is told and not loaded.

    Raises:
        UnknownThreadError: There is no such thread.
        RefusedError: It has no such run.
    """
    from notebook_agents.graph.inert import InertCodec
    from notebook_agents.graph.people import interrupts

    journal.thread(thread)
    try:
        view = run_view(journal, thread, number)
    except UnknownThreadError as error:
        raise RefusedError("unknown_run", str(error)) from None
    if view.status.finished or view.closed is not None:
        return view
    asked = interrupts(journal, thread, view.number, codec=InertCodec())
    return replace(view, interrupts=asked)


def state_of(journal: Journal, view: RunView) -> dict[str, Any]:
    """Return a run's state as the component takes it; see `ui/state.py`."""
    from notebook_agents.graph.inert import InertCodec
    from notebook_agents.ui import details

    steps = {step.id for step in view.steps}
    head = journal.head(view.thread)
    driven = head is not None and head.driven and head.run == view.number
    return run_state(
        view,
        arguments=details.arguments(journal, view.thread, view.number, steps),
        results={}
        if view.closed is not None
        else details.results(journal, view, codec=InertCodec()),
        driver=head.driver if head is not None and driven else None,
        journal=str(journal.home),
    )


def variables(journal: Journal, *, places: Places, notebook: str) -> dict[str, Any]:
    """Return what is kept of a notebook's variables as the API's `Variables`.

    Args:
        journal: The journal.
        places: Where things are.
        notebook: The notebook's contents path.
    """
    here = notebook.strip("/")
    of = (
        info.thread
        for info in journal.threads()
        if info.agent == VARIABLES and info.notebook and places.contents(info.notebook) == here
    )
    thread = next(of, None)
    found = [] if thread is None else listed(journal, thread)
    return {"thread": thread, "snapshots": [_snapshot(one) for one in found]}


def _snapshot(one: Snapshot) -> dict[str, Any]:
    names = [hiding.hidden(clean(name)) for name in one.changed[:_NAMES]]
    return {
        "number": one.number,
        "taken": moment(one.taken),
        "kernel": one.kernel,
        "cell": one.cell,
        "line": hiding.hidden(clean(one.line)),
        "changed": names,
        "more": len(one.changed) - len(names),
    }
