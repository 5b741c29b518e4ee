"""What happened outside: lines in a file that no crash of their writers can take back.

The parent opens the file before it forks and the children append to the same descriptor, one
`write` a line. A line is in the operating system's hands when `note` returns, so it survives the
SIGKILL of every process; and since all of them append to one file, their order is one order.
"""

from __future__ import annotations

import json
import os
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


_PAGE = 4096
"""The kernel cuts a write short only where a page of the file ends. What was cut was not said."""


class What(StrEnum):
    """What a line says."""

    EFFECT = "effect"
    """A step reached the outside world, under an idempotency key."""
    ACK = "ack"
    """Somebody was told that a step returned, and what it returned."""
    REPORTED = "reported"
    """The runtime's observers were told that the step with this key returned."""
    LOOKS = "looks"
    """A process is about to read the journal."""
    AUDIT = "audit"
    """It found that the steps with these keys have returned."""
    FIRED = "fired"
    """An armed fault point was reached; what it was armed with comes next."""
    RAISED = "raised"
    """A run ended with this exception."""
    DONE = "done"
    """A run gave its caller this value."""
    COUNTED = "counted"
    """How often a process passed each fault point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the ledger.

    Attributes:
        what: What it says.
        life: Which process of the trial wrote it, from 1.
        thread: The thread's name, or "".
        label: The step's name within its graph, or "".
        key: The idempotency key, or "".
        value: What was returned, found, raised, counted.
    """

    what: What
    life: int
    thread: str = ""
    label: str = ""
    key: str = ""
    value: Any = None


class Ledger:
    """An append-only file of lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def append(self, line: Line) -> None:
        """Append one line; it stands from now on, whatever happens to this process."""
        os.write(self._descriptor, ("\n" + json.dumps(asdict(line)) + "\n").encode())

    def lines(self) -> list[Line]:
        """Return everything that was appended, in the order in which it was."""
        found = []
        at = 0
        for raw in self._path.read_bytes().split(b"\n"):
            end, at = at + len(raw), at + len(raw) + 1
            if not raw:
                continue
            try:
                row = json.loads(raw)
            except json.JSONDecodeError:
                if end % _PAGE:
                    raise
                continue  # SIGKILL in the middle of the write
            found.append(Line(**{**row, "what": What(row["what"])}))
        return found

    def close(self) -> None:
        """Close the descriptor in this process."""
        os.close(self._descriptor)


@dataclass(slots=True)
class _Place:
    ledger: Ledger | None = None
    life: int = 0
    thread: str = ""


_place = _Place()
_life: ContextVar[int] = ContextVar("life")  # steps that Ctrl-C left behind go on in their old one


def write_to(ledger: Ledger, *, life: int, thread: str = "") -> None:
    """Make `ledger` the one that this process notes to, as its life number `life`."""
    _place.ledger, _place.life, _place.thread = ledger, life, thread
    _life.set(life)


def note(what: What, *, label: str = "", key: str = "", value: Any = None) -> None:
    """Append a line of this process to its ledger."""
    assert _place.ledger is not None, "no ledger: call write_to first"
    _place.ledger.append(
        Line(
            what=what,
            life=_life.get(_place.life),
            thread=_place.thread,
            label=label,
            key=key,
            value=value,
        )
    )


def lines() -> list[Line]:
    """Return the lines of the ledger that this process notes to."""
    assert _place.ledger is not None, "no ledger: call write_to first"
    return _place.ledger.lines()
