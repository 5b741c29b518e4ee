"""Files and names that outlive a power loss: synced, renamed, and the directory synced.

A file's fsync covers its content. That a name leads to it is on disk only once the directory that
holds the name was synced, and so on upwards for directories that are new.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

LOW_BYTES = 500 * 1024 * 1024
"""Fewer free bytes are soon none."""
_CANNOT = (errno.EINVAL, errno.ENOTSUP)  # file systems on which a directory has no fsync


def fsync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Have a closed file's content on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory that is this user's alone, and those above it, and have their names on disk.

    A directory that is there already may have been made a moment ago by another process, which has
    not synced its name yet: so that is done in any case.
    """
    missing = [path]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for folder in reversed(missing[1:]):
        folder.mkdir(exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    for folder in missing:
        with suppress(PermissionError):  # one that may be entered but not listed: not ours
            fsync_directory(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a private file: after a crash it has the old content or the new, whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    building = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        building.replace(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)
