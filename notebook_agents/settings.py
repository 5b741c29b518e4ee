"""Where things are, and the few numbers that may be set."""

from __future__ import annotations

import os
from pathlib import Path

from notebook_agents.errors import JournalFormatError, NoJournalError

HOME_VARIABLE = "NOTEBOOK_AGENTS_HOME"
KEY_VARIABLE = "NOTEBOOK_AGENTS_KEY"
FOLDER = ".notebook_agents"

INGEST_RECORDS = 20_000
"""Records in the queue above which a burst moves them to DuckDB by itself."""
INGEST_BYTES = 16 * 1024 * 1024
"""Size of the queue in bytes above which a burst moves its records to DuckDB by itself."""


def journal_home(path: str | os.PathLike[str] | None = None, *, create: bool = True) -> Path:
    """Return the directory of the journal that a call without a path means.

    In this order: `path`, the variable NOTEBOOK_AGENTS_HOME, the nearest `.notebook_agents` here or
    in a folder above, and, when `create` is true, a new `.notebook_agents` here.

    Raises:
        NoJournalError: There is none and `create` is false.
        JournalFormatError: The path is a file.
    """
    if path is not None:
        home = Path(path).expanduser().absolute()
        looked = str(home)
    elif configured := os.environ.get(HOME_VARIABLE):
        home = Path(configured).expanduser().absolute()
        looked = f"{home} (from {HOME_VARIABLE})"
    else:
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / FOLDER).is_dir():
                return folder / FOLDER
        home = here / FOLDER
        looked = f"{here} and every folder above it"
    if home.exists() and not home.is_dir():
        raise JournalFormatError(f"{home} is a file: a journal is a directory, name another path")
    if not create and not home.is_dir():
        raise NoJournalError(
            f"there is no journal here: looked for {FOLDER} in {looked}; run an agent there to "
            f"make one, or say where it is with --journal DIR or {HOME_VARIABLE}"
        )
    return home


def config_home() -> Path:
    """Return the folder of this user's own files: the master key lies there."""
    if data := os.environ.get("JUPYTER_DATA_DIR"):
        return Path(data) / "notebook_agents"
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "jupyter" / "notebook_agents"
    return Path.home() / ".local" / "share" / "jupyter" / "notebook_agents"
