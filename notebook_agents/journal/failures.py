"""What the operating system and the engines say when they cannot write, in one sentence."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from notebook_agents.errors import JournalWriteError
from notebook_agents.journal import damage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "free some space on that disk, then try again",
    errno.EDQUOT: "your quota there is used up: free some space, then try again",
    errno.EROFS: "it lies on a read-only file system: mount it writable, or set "
    "NOTEBOOK_AGENTS_HOME to another directory",
    errno.EACCES: "make it writable for this user, or set NOTEBOOK_AGENTS_HOME to another "
    "directory",
    errno.EPERM: "make it writable for this user, or set NOTEBOOK_AGENTS_HOME to another directory",
    errno.EIO: "the disk fails: save what you can to another one, then look at the system's log",
    errno.EFBIG: "a limit on the size of files was met: raise it (ulimit -f), then try again",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), then try again",
}


_WORDS = (
    (errno.ENOSPC, ("disk is full", "No space left")),
    (errno.EDQUOT, ("quota",)),
    (errno.EROFS, ("readonly database", "Read-only file system")),
    (errno.EACCES, ("unable to open database file", "Permission denied")),
    (errno.EIO, ("disk I/O error", "Input/output error")),
)


def cause(error: BaseException) -> int | None:
    """Return the number of the system's error that is behind an error, None where it is another."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    return next((number for number, words in _WORDS if any(w in text for w in words)), None)


def reason(error: BaseException) -> str:
    """Return what happened and what to do about it, for the end of a sentence."""
    number = cause(error)
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    advice = _ADVICE.get(number or 0, "free some space or mend the disk, then try again")
    return f"({text}): {advice}"


def from_engine(error: BaseException) -> bool:
    """Whether SQLite, DuckDB or the operating system raised an error."""
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | sqlite3.Error) or module in ("duckdb", "_duckdb")


def write_error(error: BaseException, path: Path) -> BaseException:
    """Return what a caller is told whose append did not commit."""
    if (found := damage.of(error, path.parent)) is not None:
        return found
    if isinstance(error, sqlite3.Error | OSError):
        return JournalWriteError(
            f"the journal in {path.parent} could not be written and nothing of this step was "
            f"recorded {reason(error)}; resume when it is mended"
        )
    return error


def unsynced_error(error: OSError, path: Path) -> JournalWriteError:
    """Return what a caller is told whose records may not be on disk."""
    return JournalWriteError(
        f"the disk did not take what was written to the journal in {path.parent} "
        f"({error.strerror}), so nothing that this process records is durable any more: look at "
        "the system's log, close every process that has the journal open, then resume in a new one"
    )


def unknown_error(path: Path) -> JournalWriteError:
    """Return what a caller is told when the disk does not even say what it has."""
    return JournalWriteError(
        f"the journal in {path.parent} could not be written, nor read to see what of this step is "
        "in it: close it, look at the system's log, then resume"
    )


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system and the engines raise in the block into a `JournalWriteError`."""
    try:
        yield
    except Exception as error:
        if not from_engine(error):
            raise
        raise JournalWriteError(f"{place} could not be written {reason(error)}") from error
