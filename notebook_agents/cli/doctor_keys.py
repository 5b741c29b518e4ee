"""What can be wrong with the key file, and with where it lies."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from notebook_agents import settings
from notebook_agents.cli.doctor import Check, Level
from notebook_agents.errors import NotebookAgentsError

if TYPE_CHECKING:
    from notebook_agents.sealing import KeyRing

_MEMORY = ("tmpfs", "ramfs")
_LAYERS = ("overlay", "aufs", "fuse.fuse-overlayfs")
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - looked for, not used
_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))


def key_file() -> Check:
    """Look at the ring: whether it can be trusted and read, and whether it will stay."""
    from notebook_agents.sealing.keys import load_ring, ring_path

    path = ring_path()
    configured = settings.KEY_VARIABLE in os.environ
    if not path.exists() and not configured:
        return _staying(path, f"none yet: the first run makes {path}")
    if path.exists() and os.name == "posix":
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            return Check(
                name="key",
                level=Level.BAD,
                found=f"{path} has mode {mode:04o}: others can reach it",
                remedy=f"chmod 600 {path}; if somebody may have read it, `notebook-agents key "
                "rotate`, and keep what it sealed away",
            )
    try:
        ring = load_ring(create=False)
    except NotebookAgentsError as error:
        return Check(name="key", level=Level.BAD, found=str(error))
    if configured:
        found = f"{', '.join(ring.ids)} in {settings.KEY_VARIABLE}"
        return Check(name="key", level=Level.OK, found=found)
    return _staying(path, f"{', '.join(ring.ids)} in {path} (mode 0600{_protected(ring)})")


def _protected(ring: KeyRing) -> str:
    stored = ring.stored.keys.values() if ring.stored else ()
    return ", protected by a passphrase" if any(key.kdf for key in stored) else ""


def _staying(path: Path, found: str) -> Check:
    why = ephemeral(path)
    return Check(
        name="key",
        level=Level.OK if why is None else Level.WARNING,
        found=found if why is None else f"{found}, {why}: journals that outlive it stay closed",
        remedy=""
        if why is None
        else "`notebook-agents key export FILE` to a disk that stays, or set JUPYTER_DATA_DIR to "
        f"one, or {settings.KEY_VARIABLE}",
    )


def ephemeral(path: Path) -> str | None:
    """Return why a file may not be there tomorrow, or None where nothing says so."""
    from notebook_agents.journal.queue_file import file_system

    place = path.absolute()
    while not place.exists():
        place = place.parent
    place = place.resolve()
    kind = file_system(place)
    if kind in _MEMORY:
        return f"which is in memory ({kind})"
    temporary = (*_TEMPORARY, os.path.realpath(tempfile.gettempdir()))
    if any(place.is_relative_to(folder) for folder in temporary):
        return "which is a folder for temporary files"
    if kind in _LAYERS or (any(mark.exists() for mark in _CONTAINERS) and _is_root(place)):
        return "which goes with the container"
    return None


def _is_root(place: Path) -> bool:
    """Whether a path lies on the file system of the root directory."""
    return place.stat().st_dev == Path("/").stat().st_dev
