"""What can be wrong with an installation, a key or a journal, and how to mend it.

Each check looks and returns a `Check`; none of them changes anything.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from notebook_agents import settings
from notebook_agents.disk import LOW_BYTES
from notebook_agents.errors import NoJournalError, NotebookAgentsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.journal.queue import Queue

_NEEDED = ("notebook-agents", "langgraph", "duckdb", "cryptography", "cloudpickle", "dill")
_OPTIONAL = ("nbclient", "ipykernel", "jupyterlab")
_SYNCED = ("dropbox", "onedrive", "google drive", "googledrive", "mobile documents", "icloud",
           "nextcloud", "owncloud", "seafile", "pcloud", "my drive")  # fmt: skip
_SYNC_MARKS = (".stfolder", ".dropbox", ".sync.ffs_db", ".owncloudsync.log", ".nextcloudsync.log")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    ABSENT = "absent"
    """It is not here; what is said of it tells who needs it."""
    WARNING = "warning"
    """It works; something may hurt later."""
    BAD = "bad"
    """It has to be mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        level: How bad it is, if it is here.
        found: What was found.
        remedy: What to do; "" where nothing is to do, or where `found` is an error that says it.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""


def examine(journal: str | None) -> Iterator[Check]:
    """Look at everything that a run needs.

    Args:
        journal: The journal's directory; None for the one that a run here would use.
    """
    from notebook_agents.cli.doctor_keys import key_file

    yield from _versions()
    yield key_file()
    try:
        home = settings.journal_home(journal, create=False)
    except NoJournalError as error:
        if journal is None and settings.HOME_VARIABLE not in os.environ:
            here = settings.journal_home(create=True)
            found = f"none yet: the first run here makes {here}"
            yield Check(name="journal", level=Level.OK, found=found)
            yield from _place(here.parent)
        else:
            yield Check(name="journal", level=Level.BAD, found=str(error))
        return
    from notebook_agents.cli.doctor_files import examine_files

    yield from _place(home)
    yield from examine_files(home)
    yield from _journal(home)


def _versions() -> Iterator[Check]:
    python = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Check(
        name="python",
        level=Level.BAD if old else Level.OK,
        found=f"{python} ({sys.executable})",
        remedy="use Python 3.11 or newer" if old else "",
    )
    for name in _NEEDED:
        try:
            yield Check(name=name, level=Level.OK, found=version(name))
        except PackageNotFoundError:
            remedy = f"install it: {sys.executable} -m pip install notebook-agents"
            yield Check(name=name, level=Level.BAD, found="not installed", remedy=remedy)
    yield Check(name="sqlite", level=Level.OK, found=_sqlite_version())
    for name in _OPTIONAL:
        try:
            yield Check(name=name, level=Level.OK, found=version(name))
        except PackageNotFoundError:
            extra = "lab" if name == "jupyterlab" else "notebook"
            found = f"not needed here; pip install 'notebook-agents[{extra}]' adds it"
            yield Check(name=name, level=Level.ABSENT, found=found)
    yield _extension()
    yield _panel()


def _extension() -> Check:
    """Whether Jupyter Server here loads what the side panel asks."""
    if find_spec("jupyter_server") is None:
        return Check(name="extension", level=Level.ABSENT, found="there is no Jupyter Server here")
    from jupyter_core.paths import jupyter_config_path

    for folder in map(Path, jupyter_config_path()):
        enabling = folder / "jupyter_server_config.d" / "notebook_agents.json"
        if enabling.is_file():
            return Check(name="extension", level=Level.OK, found=f"enabled by {enabling}")
    how = "`jupyter server extension enable notebook_agents.server`"
    return Check(
        name="extension",
        level=Level.ABSENT,
        found=f"JupyterLab's side panel needs it: {how} enables it",
    )


def _panel() -> Check:
    """Whether JupyterLab here finds the side panel."""
    if find_spec("jupyterlab") is None:
        return Check(name="side panel", level=Level.ABSENT, found="there is no JupyterLab here")
    from jupyter_core.paths import jupyter_path

    for folder in map(Path, jupyter_path("labextensions")):
        if (folder / "@notebook-agents" / "jupyterlab" / "package.json").is_file():
            return Check(name="side panel", level=Level.OK, found=f"in {folder}")
    found = (
        "not in this installation: a released wheel has it, in a checkout `make lab` builds it for "
        "the checkout's .venv"
    )
    return Check(name="side panel", level=Level.ABSENT, found=found)


def _sqlite_version() -> str:
    """Return the version of the SQLite that the journal uses; only the journal may import it."""
    import notebook_agents.journal  # noqa: F401 - loads sqlite3

    return str(sys.modules["sqlite3"].sqlite_version)


def _place(folder: Path) -> Iterator[Check]:
    """Look at where the journal lies: rights, room, network file systems, synced folders."""
    from notebook_agents.journal.queue_file import file_system, on_network

    blocked = [
        path
        for path in (folder, *(folder.glob("queue.sqlite*")), *(folder.glob("journal.*")))
        if not os.access(path, os.R_OK | os.W_OK)
    ]
    if blocked:
        yield Check(
            name="access",
            level=Level.BAD,
            found=f"this user cannot read and write {blocked[0]}",
            remedy=f"chown or chmod it, or set {settings.HOME_VARIABLE} to another directory",
        )
    else:
        yield Check(name="access", level=Level.OK, found=f"{folder} can be read and written")
    kind = file_system(folder) or "unknown"
    network = on_network(folder)
    yield Check(
        name="file system",
        level=Level.WARNING if network else Level.OK,
        found=f"{kind}: a network file system, without SQLite's write-ahead log"
        if network
        else kind,
        remedy=f"set {settings.HOME_VARIABLE} to a local directory" if network else "",
    )
    if (synced := _synced_by(folder)) is not None:
        yield Check(
            name="synced folder",
            level=Level.WARNING,
            found=f"{synced} may be copied by a sync client while it is written",
            remedy=f"set {settings.HOME_VARIABLE} to a directory outside, or exclude {folder}",
        )
    free = shutil.disk_usage(folder).free
    low = free < LOW_BYTES
    yield Check(
        name="disk",
        level=Level.WARNING if low else Level.OK,
        found=f"{size(free)} free",
        remedy="make room: a run stops when nothing can be appended" if low else "",
    )


def _synced_by(folder: Path) -> Path | None:
    """Return the folder that a sync client watches, by its name or by what lies in it."""
    for parent in (folder, *folder.parents):
        name = parent.name.lower()
        if any(name == known or name.startswith(f"{known} ") for known in _SYNCED):
            return parent
        if name.startswith(("onedrive -", "googledrive-", "nextcloud", "dropbox (")):
            return parent
        if any((parent / mark).exists() for mark in _SYNC_MARKS):
            return parent
    return None


def _journal(home: Path) -> Iterator[Check]:
    """Look at the journal's two files, its backlog, and whether the key here opens it."""
    from notebook_agents.cli.doctor_files import examine_queue, total_of
    from notebook_agents.journal import damage
    from notebook_agents.journal.queue import Queue

    try:
        queue = Queue(home, create=False)
    except NotebookAgentsError as error:
        yield Check(name="journal", level=Level.BAD, found=str(error))
        return
    try:
        total = total_of(path for path in home.iterdir() if path.is_file())
        threads = [head.info() for head in queue.heads()]
        open_ = sum(not info.status.finished for info in threads)
        found = (
            f"{home}: {damage.counted(len(threads), 'thread')}, {open_} unfinished, {size(total)}"
        )
        yield Check(name="journal", level=Level.OK, found=found)
        yield from examine_queue(queue)
        yield _backlog(queue)
        yield _history(queue)
        yield _opens(home)
    finally:
        queue.close()


def _backlog(queue: Queue) -> Check:
    from notebook_agents.journal import damage

    first, last = queue.bounds()
    records = damage.counted(last - first + 1 if last else 0, "record")
    large = queue.backlog_bytes() > 8 * settings.INGEST_BYTES
    return Check(
        name="queue",
        level=Level.WARNING if large else Level.OK,
        found=f"{records} ({size(queue.backlog_bytes())}) not yet in DuckDB",
        remedy="close the process that has the journal open in exclusive mode, and run an agent"
        if large
        else "",
    )


def _history(queue: Queue) -> Check:
    from notebook_agents.journal.archive import Archive

    archive = Archive(queue, exclusive=False)
    try:
        if not archive.path.exists():
            return Check(name="history", level=Level.OK, found="nothing in DuckDB yet")
        with archive.burst() as connection:
            mark = archive.watermark(connection)
    except NotebookAgentsError as error:
        return Check(name="history", level=Level.BAD, found=str(error))
    finally:
        archive.close()
    return Check(name="history", level=Level.OK, found=f"{archive.path.name} up to record {mark}")


def _opens(home: Path) -> Check:
    """Say whether the keys here open the journal's newest thread."""
    from notebook_agents.journal import Journal

    with Journal.open(home, create=False, scheduled=False) as journal:
        threads = journal.threads()
        head = journal.head(threads[0].thread) if threads else None
        if head is None:
            return Check(name="seal", level=Level.OK, found="nothing is sealed yet")
        try:
            journal.data_key(head.scope, create=False)
        except NotebookAgentsError as error:
            return Check(name="seal", level=Level.BAD, found=str(error))
    return Check(name="seal", level=Level.OK, found="the key here opens it")


def size(count: int) -> str:
    """Return a number of bytes as people say it: "3.4 MB"."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError
