"""What a timeline's buttons do, in the kernel.

A button's request is executed like a cell (`request`, or `stop` and `detail` through a subshell,
which a busy kernel still answers), or comes over a widget's comm (`handle`). What goes wrong is
one sentence in the reply; the component shows it.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import NotebookAgentsError, UsageError
from notebook_agents.graph.drive import going
from notebook_agents.graph.folder import default_journal, journal_at
from notebook_agents.graph.resume import resolve as graph_resolve
from notebook_agents.graph.resume import resume as graph_resume
from notebook_agents.model import RunStatus
from notebook_agents.runtime import leaving
from notebook_agents.runtime.driver import describe
from notebook_agents.runtime.steps import did, did_not
from notebook_agents.runtime.stopping import RunStopped
from notebook_agents.runtime.timeline import status_text
from notebook_agents.settings import journal_home
from notebook_agents.ui import details
from notebook_agents.ui.bundles import answer_text, publish
from notebook_agents.ui.live import asked_by_button, shows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from notebook_agents.journal import Journal

REPLY = "application/vnd.notebook-agents.reply.v1+json"
_logger = logging.getLogger("notebook_agents.ui")


def request(said: str) -> None:
    """Do what a button asks, as JSON, and display the reply for the component that asked.

    Args:
        said: `{"action": "stop" | "resume" | "answer" | "resolve" | "detail", "thread": …, …}`;
            besides, what that action's function below takes, and `journal`, a path or null.
    """
    publish({REPLY: handle(json.loads(said))})


def handle(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a button asks and return the reply: `ok`, what to say, and what was asked for."""
    options = dict(asked)
    action = _ACTIONS.get(str(options.pop("action", None)))
    try:
        if action is None:
            raise UsageError(f"no button does {asked.get('action')!r}: reload the page")
        journal = _journal(options["thread"], options.pop("journal", None))
        return {"ok": True, "said": None, **action(journal=journal, **options)}
    except NotebookAgentsError as error:
        return {"ok": False, "said": str(error)}
    except (KeyboardInterrupt, RunStopped):
        return {"ok": True, "said": "stopped: what returned is kept"}
    except Exception as error:
        _logger.info("a button's request failed", exc_info=True)
        return {"ok": False, "said": describe(error)}


def stop(thread: str, *, journal: Journal | None = None) -> dict[str, Any]:
    """Stop a run that this process drives, as Ctrl-C does; it can be resumed.

    No further step begins. What runs on an event loop is cancelled, what blocks the main thread is
    interrupted; what runs in a worker thread comes to its end behind it.

    Args:
        thread: Its thread's name.
        journal: Where it is recorded; None: the journal of this folder.
    """
    journal = journal or default_journal(create=False)
    drive = going(journal, thread)
    if drive is None:
        head = journal.head(thread)
        if head is not None and head.driven and head.driver is not None:
            raise UsageError(
                f"thread {thread!r} is driven by process {head.driver.pid} on {head.driver.host}, "
                "not by this notebook: stop it there"
            )
        return {"said": "it does not run: there is nothing to stop"}
    main = threading.main_thread().ident
    if drive.stop():
        return {"said": "stopped: what returned is kept"}
    if drive.runner is not None and drive.runner == main:
        signal.pthread_kill(main, signal.SIGINT)
        return {"said": "stopped: what returned is kept"}
    names = drive.workers.names if drive.driver.under_way else "the step that runs"
    return {"said": f"no other step begins; it ends when {names} has returned"}


def resume(
    thread: str, *, run: int | None = None, journal: Journal | None = None
) -> dict[str, Any]:
    """Go on with a thread's newest run, if that is the run whose button it was."""
    return _driven(thread, run, journal)


def answer(
    thread: str,
    answers: Mapping[str, Any],
    *,
    run: int | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Answer what a run asks, by interrupt, and go on with it."""
    return _driven(thread, run, journal, answers=answers)


def resolve(
    thread: str,
    step: str,
    *,
    happened: bool,
    result: Any = None,
    run: int | None = None,  # noqa: ARG001 - the step says which run it is
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Say whether a step in doubt happened, and with which result; the run waits for a resume."""
    said = did(result) if happened else did_not()
    of = graph_resolve(thread, step, said, journal=journal)
    live = shows.of(of)
    live.run = of
    live.show_now()
    return {"said": "noted: resume to go on", "state": live.state}


def detail(
    thread: str, step: str, *, run: int | None = None, journal: Journal | None = None
) -> dict[str, Any]:
    """Return what a step was given and returned."""
    journal = journal or default_journal(create=False)
    number = journal.thread(thread).run if run is None else run
    return {"detail": details.detail(journal, thread, number, step)}


def _driven(
    thread: str, number: int | None, journal: Journal | None, **options: Any
) -> dict[str, Any]:
    journal = journal or default_journal(create=False)
    newest = journal.thread(thread).run
    if number not in (None, newest):
        raise UsageError(
            f"run {number} of thread {thread!r} was followed by run {newest}, which a button of "
            "that one goes on with: nothing was done"
        )
    leaving.wait_for(journal.id, thread)
    live = shows.known(thread)
    token = asked_by_button.set(live is None or not live.has_widget)
    try:
        run = graph_resume(thread, journal=journal, **options)
    finally:
        asked_by_button.reset(token)
    said = status_text(run.status)
    if run.status is RunStatus.SUCCEEDED and (text := answer_text(run)):
        said = f"Answer: {text}"
    return {"said": said, "state": shows.of(run).state}


def _journal(thread: str, path: str | None) -> Journal:
    """Return the journal that has a thread: the open one that its display is of, if there is one.

    Args:
        thread: The thread's name.
        path: Where the journal is, None for that of this folder.
    """
    home = journal_home(path, create=False)
    live = shows.known(thread)
    if (
        live is not None
        and not live.run.journal.closed
        and live.run.journal.home.resolve() == home.resolve()
    ):
        return live.run.journal
    return journal_at(home)


_ACTIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "answer": answer,
    "detail": detail,
    "resolve": resolve,
    "resume": resume,
    "stop": stop,
}
