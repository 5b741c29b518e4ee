"""`%agents`: what na.unfinished, na.resume and a run's own display do, in one word of a cell."""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import NotebookAgentsError, UnknownThreadError, UsageError
from notebook_agents.model import VARIABLES
from notebook_agents.ui.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notebook_agents.graph.run import Run
    from notebook_agents.journal import Journal
    from notebook_agents.model import ThreadInfo

HELP = """\
%agents                  the threads of this folder's journal, the newest first (%agents list)
%agents show [THREAD]    the newest run of a thread, step by step
%agents resume [THREAD]  go on with it: what returned is not run again
%agents stop [THREAD]    let no further step begin in a run of this kernel; resume goes on with it
%agents autosave on|off  keep this notebook's variables behind each cell
%agents restore          bring them back, in a fresh kernel; --at N: as they were; --list: when
%agents help             this

Without THREAD it is this notebook's newest run: for resume the newest that is unfinished, for stop
the one that runs. An answer is given by na.resume(THREAD, answer=...), and na.cancel(THREAD) ends a
run for good."""
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def register(shell: Any) -> None:
    """Give a shell `%agents`, with completion; harmless where it has it."""

    def agents(line: str) -> Any:
        from IPython.core.error import UsageError as Said

        try:
            return run(line)
        except NotebookAgentsError as error:  # one sentence, which says what to do; no traceback
            raise Said(str(error)) from None

    agents.__doc__ = HELP
    shell.register_magic_function(agents, "line", "agents")
    shell.set_hook("complete_command", _complete, str_key="%agents")


def run(line: str) -> Any:
    """Do what follows `%agents`.

    Returns:
        What is shown: a `Run`, a `Listing`, or None where something was printed.

    Raises:
        UsageError: There is no such word, thread, or run.
        NotebookAgentsError: What the call raised.
    """
    word, _, rest = line.strip().partition(" ")
    name = _unquoted(rest.strip())
    if word in ("autosave", "restore"):
        return (_autosave if word == "autosave" else _restore)(rest.split())
    command = _COMMANDS.get(word or "list")
    if command is None:
        near = get_close_matches(word, _WORDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(_WORDS)}"
        raise UsageError(f"there is no %agents {word}: {hint}")
    if name is not None and word in ("list", "help"):
        raise UsageError(f"%agents {word} takes no thread: leave {name!r} out")
    return command(name)


class Listing(Table["ThreadInfo"]):
    """Threads, as `na.unfinished` returns them, that show themselves as a table."""

    heads = ("thread", "agent", "status", "steps", "changed", "notebook")
    empty = "no threads yet"
    rest = "notebook-agents list shows all"

    def row(self, one: ThreadInfo) -> tuple[str, ...]:
        """Return what the columns say of a thread."""
        from notebook_agents.runtime.timeline import clean, status_text

        return (
            clean(one.thread),
            clean(one.agent or "–"),
            status_text(one.status) if one.run else "–",
            str(one.returned),
            f"{_age((datetime.now(UTC) - one.updated).total_seconds())} ago",
            clean(_place(one.notebook)),
        )


def _list(_: str | None) -> Listing:
    return Listing(_journal().threads())


def _show(name: str | None) -> Run:
    from notebook_agents.graph.run import Run

    journal = _journal()
    info = journal.thread(name) if name is not None else _newest(journal)
    shown = Run(journal, info.thread, info.run)
    shown.view  # noqa: B018 - read here, so that what is wrong is said in one sentence
    return shown


def _resume(name: str | None) -> Run:
    from notebook_agents.graph.resume import resume

    return resume(name)


def _stop(name: str | None) -> None:
    from notebook_agents.graph.drive import going
    from notebook_agents.journal.claims import busy

    journal = _journal()
    if name is None:
        running = sorted(journal.driving)
        if len(running) != 1:
            what = f"say which: {', '.join(running)}" if running else "there is nothing to stop"
            raise UnknownThreadError(f"this kernel runs {len(running)} threads: {what}")
        name = running[0]
    journal.thread(name)  # raises if there is none
    drive, head = going(journal, name), journal.head(name)
    if drive is not None:
        drive.stop()
        print(  # noqa: T201 - what a magic says
            f"{name} begins no further step: what runs now is let finish, and "
            f"%agents resume {name} goes on behind it"
        )
    elif head is not None and head.driven:
        raise busy(head, "stop it there, or end it for good with na.cancel")
    else:
        raise UnknownThreadError(f"thread {name!r} does not run now: there is nothing to stop")


def _help(_: str | None) -> None:
    print(HELP)  # noqa: T201 - what a magic says


_COMMANDS: dict[str, Callable[[str | None], Any]] = {
    "list": _list,
    "show": _show,
    "resume": _resume,
    "stop": _stop,
    "help": _help,
}


_WORDS = (*_COMMANDS, "autosave", "restore")


def _autosave(words: list[str]) -> None:
    from notebook_agents.ui.autosave import keeper

    if words not in (["on"], ["off"], []):
        raise UsageError(f"%agents autosave {' '.join(words)}: say on or off")
    own = keeper(create=words == ["on"])
    if words:
        own.turn(on=words == ["on"])
    kept = f"are kept behind each cell, in thread {own.thread}" if own.on else "are not kept"
    print(f"This notebook's variables {kept}")  # noqa: T201 - what a magic says


def _restore(words: list[str]) -> Any:
    from notebook_agents.ui import restoring

    if words == ["--list"]:
        return restoring.snapshots()
    if words and (words[0] != "--at" or len(words) != 2):
        raise UsageError(f"%agents restore {' '.join(words)}: it takes --list, or --at N")
    at: int | str | None = None
    if words:
        at = int(words[1]) if words[1].isdecimal() else words[1]
    return restoring.restore(at)


def _journal() -> Journal:
    from notebook_agents.graph.folder import default_journal

    return default_journal(create=False)


def _newest(journal: Journal) -> ThreadInfo:
    """Return the thread of this notebook's newest run; of any, where none is of this notebook."""
    from notebook_agents.runtime.origin import here

    notebook = here().notebook
    runs = [info for info in journal.threads() if info.run and info.agent != VARIABLES]
    if not runs:
        raise UnknownThreadError(f"no agent has run yet with the journal in {journal.home}")
    return next((info for info in runs if info.notebook == notebook), runs[0])


def _complete(_shell: Any, event: Any) -> Sequence[str]:
    """Return the words that may stand where the cursor is."""
    before = event.line[: len(event.line) - len(event.symbol)].split()
    if len(before) == 1:
        return list(_WORDS)
    if before[1:] not in (["show"], ["resume"], ["stop"]):
        return []
    try:
        return [info.thread for info in _journal().threads()]
    except NotebookAgentsError:  # whoever runs the line is told
        return []


def _unquoted(name: str) -> str | None:
    """Return a thread's name as it was typed, also with quotation marks; None if there is none."""
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    return name or None


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _place(notebook: str | None) -> str:
    if notebook is None:
        return ""
    path, folder = Path(notebook), Path.cwd()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
