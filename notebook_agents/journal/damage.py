"""Which errors mean damage, and how that is said: with the one command that repairs it."""

from __future__ import annotations

import shlex
import sqlite3
from typing import TYPE_CHECKING

from notebook_agents.errors import JournalDamagedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SQLITE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_SQLITE_WORDS = ("malformed", "decode to UTF-8", "no such column", "no such table")
# DuckDB has one class for everything; its messages tell.
_DUCKDB = (
    "checksum",
    "corrupt",
    "does not match",
    "not a valid duckdb",
    "failed to load metadata",
    "failed to deserialize",
    "serialization error",
    "could not read enough bytes",
    "invalid block",
    "internal error",
    "attempted to read",
    "invalid unicode",
    "invalid string encoding",
)


def repair_command(home: Path) -> str:
    """Return the command that repairs the journal in `home`."""
    return shlex.join(["notebook-agents", "journal", "repair", str(home)])


def check_command(home: Path) -> str:
    """Return the command that looks at everything in the journal in `home`."""
    return shlex.join(["notebook-agents", "journal", "check", str(home)])


def found(home: Path, what: str) -> JournalDamagedError:
    """Return the error that says what is damaged and how to repair it."""
    return JournalDamagedError(
        f"the journal in {home} is damaged, {what}: `{repair_command(home)}` says what can be "
        "brought back, and does it"
    )


def of(error: BaseException, home: Path) -> JournalDamagedError | None:
    """Return what to raise for an engine's error that means damage; None for any other."""
    if isinstance(error, JournalDamagedError):
        return error
    text = first_line(error)
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(_SQLITE) or any(sign in text for sign in _SQLITE_WORDS):
            return found(home, f"queue.sqlite cannot be read ({text})")
    elif is_duckdb(error) and any(sign in text.lower() for sign in _DUCKDB):
        return found(home, f"its DuckDB file cannot be read ({first_line(error)})")
    return None


def is_duckdb(error: BaseException) -> bool:
    """Whether DuckDB raised it; without importing DuckDB."""
    return type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; DuckDB adds a stack to some."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def counted(count: int, word: str) -> str:
    """Return a number of things in words: "1 record", "2 records"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def records(seqs: Sequence[tuple[int, int]]) -> str:
    """Return ranges of record numbers with the word before them: "record 3", "records 3, 7–9"."""
    word = "record" if len(seqs) == 1 and seqs[0][0] == seqs[0][1] else "records"
    return f"{word} {numbers(seqs)}"


def numbers(seqs: Sequence[tuple[int, int]], most: int = 8) -> str:
    """Return ranges of record numbers as people write them: "3, 7–9"."""
    shown = [str(low) if low == high else f"{low}–{high}" for low, high in seqs[:most]]
    if len(seqs) > most:
        rest = sum(high - low + 1 for low, high in seqs[most:])
        shown.append(f"and {rest} more")
    return ", ".join(shown)
