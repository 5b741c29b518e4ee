"""What people do to conversations from the panel, as far as no graph has to be loaded for it.

Each takes what the command line's commands take and calls what they call. What goes on with a run
is done in a notebook's kernel.
"""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

from notebook_agents.journal import compact as compaction
from notebook_agents.journal import locks
from notebook_agents.journal.damage import counted
from notebook_agents.model import NOTEBOOK, RunStatus
from notebook_agents.runtime.decisions import decide
from notebook_agents.runtime.steps import did, did_not
from notebook_agents.server.refusals import RefusedError

if TYPE_CHECKING:
    from notebook_agents.journal import Journal
    from notebook_agents.journal.queue import Head

_KINDS = {"queue": ("queue.",), "history": ("journal.",)}
_BACKUPS = "backups"


def resolve(journal: Journal, thread: str, asked: dict[str, Any]) -> str:
    """Say whether a step in doubt happened.

    Raises:
        DecisionError: It is not in doubt.
    """
    from notebook_agents.graph.inert import InertCodec

    happened = asked["happened"]
    if not happened and "result" in asked:
        raise RefusedError(
            "bad_request", "what did not happen returned nothing: leave `result` out"
        )
    answer = did(asked.get("result")) if happened else did_not()
    decide(journal, thread, asked["step"], answer, codec=InertCodec())
    return "noted: resume to go on"


def fork(journal: Journal, thread: str, asked: dict[str, Any]) -> str:
    """Make a conversation with the past of another one; return its name."""
    from notebook_agents.graph.fork import fork as make

    name = asked.get("name")
    if name is not None and journal.head(name) is not None:
        raise RefusedError(
            "thread_exists", f"there is a conversation {name!r} already: give another name"
        )
    return make(journal, thread, at=asked.get("at"), name=name)


def cancel(journal: Journal, thread: str) -> str:
    """Finish the newest run: by asking its driver, or where it is a notebook's.

    Raises:
        RefusedError: Nobody drives it: its graph is needed to end it well, and the server loads
            none.
    """
    from notebook_agents.graph.cancel import cancel as end
    from notebook_agents.graph.requests import cancel_elsewhere

    info = journal.thread(thread)
    if info.status.finished:
        return f"run {info.run} is {info.status}: there is nothing to cancel"
    if info.status is RunStatus.RUNNING and cancel_elsewhere(journal, thread):
        return "its driver was asked to cancel it: what runs now comes to its end"
    if info.agent != NOTEBOOK:
        raise RefusedError(
            "needs_kernel",
            f"nobody drives run {info.run} of conversation {thread!r}, so it takes its graph to "
            f"cancel it: run na.cancel({thread!r}) in its notebook",
        )
    end(thread, journal=journal)
    return "cancelled"


def stop(journal: Journal, thread: str) -> Head:
    """Return the head of a conversation whose driver can be interrupted from here.

    Raises:
        RefusedError: Nobody drives it, or a process that cannot be reached.
    """
    journal.thread(thread)
    head = journal.head(thread)
    if head is None or head.driver is None or not head.driven:
        raise RefusedError(
            "not_driven", f"conversation {thread!r} does not run: there is nothing to stop"
        )
    driver = head.driver
    life = locks.life(pid=driver.pid, host=driver.host, boot=driver.boot, started=driver.started)
    if life is not locks.Life.RUNS or driver.pid in (0, 1, os.getpid()):
        raise RefusedError(
            "driven_elsewhere",
            f"conversation {thread!r} is driven by process {driver.pid} on {driver.host}, which "
            "cannot be reached from here: stop it there",
        )
    return head


def interrupt(head: Head) -> None:
    """Do to a conversation's driver what Ctrl-C does."""
    assert head.driver is not None
    try:
        os.kill(head.driver.pid, signal.SIGINT)
    except ProcessLookupError:
        return  # it has ended meanwhile
    except PermissionError:
        raise RefusedError(
            "driven_elsewhere",
            f"conversation {head.thread!r} is driven by another user's process "
            f"{head.driver.pid}: stop it there",
        ) from None


def delete(journal: Journal, thread: str, *, unfinished: bool) -> dict[str, Any]:
    """Delete a conversation.

    Raises:
        RunUnfinishedError: Its run could go on, and `unfinished` is false.
        ThreadBusyError: Somebody drives it.
    """
    from notebook_agents.graph.pruning import delete as remove

    removal = remove(thread, unfinished=unfinished, journal=journal)
    why = [one.why for one in removal.threads if one.why]
    said = "deleted: the files get smaller when the journal is compacted"
    return {
        "thread": thread,
        "said": "; ".join([said, *why]),
        "records": removal.records,
        "bytes": removal.bytes,
    }


def size(journal: Journal) -> dict[str, Any]:
    """Return what a journal's files take."""
    files = dict.fromkeys((*_KINDS, _BACKUPS, "other"), 0)
    for path in journal.home.rglob("*"):
        try:
            taken = path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:  # gone meanwhile
            continue
        inner = path.relative_to(journal.home)
        whose = "other" if len(inner.parts) == 1 else _BACKUPS
        for kind, beginnings in _KINDS.items():
            if len(inner.parts) == 1 and path.name.startswith(beginnings):
                whose = kind
        files[whose] += taken
    infos = journal.threads()
    return {
        "bytes": sum(files.values()),
        "files": files,
        "threads": len(infos),
        "records": sum(info.records for info in infos),
        "free": shutil.disk_usage(journal.home).free,
    }


def compact(journal: Journal, *, dry_run: bool) -> dict[str, Any]:
    """Give back the space of what was deleted."""
    done = compaction.compact(journal, dry_run=dry_run)
    less = max(0, done.bytes_before - done.bytes_after)
    gone = counted(max(0, done.records_before - done.records_after), "record")
    # Beforehand the contents alone are counted, and not the rows and blocks that they lie in.
    said = f"{'would give back about' if dry_run else 'gave back'} {less:,} bytes of {gone}"
    if not done.erased and not dry_run:
        said += "; somebody kept reading, so do it again to have their bytes gone"
    return {
        "dry_run": done.dry_run,
        "records_before": done.records_before,
        "records_after": done.records_after,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "pause_ms": done.pause_ms,
        "erased": done.erased,
        "elsewhere": list(done.elsewhere),
        "said": said,
    }
