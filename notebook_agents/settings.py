"""Where things are, and the few numbers that may be set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast, get_args

from notebook_agents.errors import JournalFormatError, NoJournalError, UsageError

HOME_VARIABLE = "NOTEBOOK_AGENTS_HOME"
KEY_VARIABLE = "NOTEBOOK_AGENTS_KEY"
PASSPHRASE_VARIABLE = "NOTEBOOK_AGENTS_PASSPHRASE"  # noqa: S105 - the variable's name
LEASE_VARIABLE = "NOTEBOOK_AGENTS_LEASE"
AUTO_RESUME_VARIABLE = "NOTEBOOK_AGENTS_AUTO_RESUME"
BACKUP_VARIABLE = "NOTEBOOK_AGENTS_BACKUP_HOURS"
BACKUP_KEEP_VARIABLE = "NOTEBOOK_AGENTS_BACKUP_KEEP"
TTL_VARIABLE = "NOTEBOOK_AGENTS_TTL"
AUTOSAVE_VARIABLE = "NOTEBOOK_AGENTS_AUTOSAVE"
TIMELINE_VARIABLE = "NOTEBOOK_AGENTS_TIMELINE"
NETWORK_VARIABLE = "NOTEBOOK_AGENTS_ON_NETWORK"
VARIABLES_VARIABLE = "NOTEBOOK_AGENTS_VARIABLES_MB"
NOTEBOOK_RUN_VARIABLE = "NOTEBOOK_AGENTS_NOTEBOOK_RUN"
"""Set by whoever runs a notebook without a browser, for its kernel: the thread of this run."""
FOLDER = ".notebook_agents"

LEASE_SECONDS = 30.0
"""For how long the driver of a thread may leave unanswered whether it still drives it."""

VARIABLES_MB = 2000.0
"""Megabytes that a notebook's variables may take, pickled, to be kept behind each cell."""

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


def lease_seconds() -> float:
    """Return LEASE_SECONDS, or what the variable NOTEBOOK_AGENTS_LEASE says instead.

    Raises:
        UsageError: That is no number of seconds.
    """
    said = os.environ.get(LEASE_VARIABLE)
    if not said:
        return LEASE_SECONDS
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not seconds >= 1.0:
        raise UsageError(f"{LEASE_VARIABLE} is {said!r}: give a number of seconds, at least 1")
    return seconds


def variables_bytes() -> int:
    """Return VARIABLES_MB in bytes, or what NOTEBOOK_AGENTS_VARIABLES_MB says; 0 keeps none.

    Raises:
        UsageError: That is no size.
    """
    said = os.environ.get(VARIABLES_VARIABLE) or VARIABLES_MB
    try:
        found = float(said)
        if not 0 <= found < 2**30:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{VARIABLES_VARIABLE} is {said!r}: give a number of megabytes, or 0"
        ) from None
    return round(found * 1e6)


def auto_resume() -> int:
    """Return how often a run whose process died is resumed by itself; 0 is never, the default.

    Raises:
        UsageError: NOTEBOOK_AGENTS_AUTO_RESUME is no such number.
    """
    said = os.environ.get(AUTO_RESUME_VARIABLE) or "0"
    if not said.isdecimal():
        raise UsageError(f"{AUTO_RESUME_VARIABLE} is {said!r}: give a number of attempts, or 0")
    return int(said)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupSchedule:
    """How often backups are made without being asked for.

    Attributes:
        every: A backup is made when the newest one is older.
        keep: So many are kept; older ones go.
    """

    every: timedelta
    keep: int


def backup_schedule() -> BackupSchedule | None:
    """Return what NOTEBOOK_AGENTS_BACKUP_HOURS and …_KEEP (default 7) ask for; None for no backups.

    Raises:
        UsageError: One of them is no number that could be meant.
    """
    hours = os.environ.get(BACKUP_VARIABLE)
    if not hours:
        return None
    keep = os.environ.get(BACKUP_KEEP_VARIABLE) or "7"
    try:
        schedule = BackupSchedule(every=timedelta(hours=float(hours)), keep=int(keep))
    except (ValueError, OverflowError):
        schedule = None
    if schedule is None or schedule.every < timedelta() or schedule.keep < 1:
        raise UsageError(
            f"{BACKUP_VARIABLE}={hours} with {BACKUP_KEEP_VARIABLE}={keep} is no schedule: set the "
            "first to a number of hours and the second to how many backups are kept, at least 1"
        )
    return schedule


def time_to_live() -> timedelta | None:
    """Return what NOTEBOOK_AGENTS_TTL says of how long finished threads live; None for ever.

    Raises:
        UsageError: That is no time.
    """
    said = os.environ.get(TTL_VARIABLE)
    if not said:
        return None
    ttl = duration(said)
    if not ttl:
        raise UsageError(f"{TTL_VARIABLE} is {said!r}: give a time such as 30d, 12h or 90m")
    return ttl


def duration(said: str) -> timedelta | None:
    """Return the time that a number and one of s, m, h, d, w stand for; None if they do not."""
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}.get(said[-1:])
    try:
        found = timedelta(**{unit: float(said[:-1])}) if unit else None
    except (ValueError, OverflowError):
        return None
    return found if found is not None and found >= timedelta() else None


def on_network() -> bool | None:
    """Return what NOTEBOOK_AGENTS_ON_NETWORK (1 or 0) says of the journal's file system, or None.

    For those that cannot be told by their type: a network behind FUSE, or a local one that is not
    known.
    """
    return {"1": True, "0": False}.get(os.environ.get(NETWORK_VARIABLE, ""))


Autosave = Literal["off", "on", "restore"]


def autosave() -> Autosave:
    """Return what NOTEBOOK_AGENTS_AUTOSAVE says of a notebook's variables; "off" is the default.

    "on" keeps them behind each cell, "restore" also brings them back in a fresh kernel.

    Raises:
        UsageError: The variable says something else.
    """
    return cast("Autosave", _chosen(AUTOSAVE_VARIABLE, get_args(Autosave)))


Timeline = Literal["on", "static", "off"]


def timeline() -> Timeline:
    """Return what NOTEBOOK_AGENTS_TIMELINE says of runs in notebooks; "on" is the default.

    "static" shows them without a widget: for notebooks that nobody looks at while they run.

    Raises:
        UsageError: The variable says something else.
    """
    return cast("Timeline", _chosen(TIMELINE_VARIABLE, get_args(Timeline)))


def _chosen(variable: str, words: tuple[str, ...]) -> str:
    """Return which of some words a variable has; the first where it is not set."""
    said = os.environ.get(variable) or words[0]
    if said in words:
        return said
    raise UsageError(f"{variable} is {said!r}: set it to {', '.join(words[:-1])} or {words[-1]}")
