"""What an attempt asks a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an attempt asks a person.

    Attributes:
        checkpoint: The id of the checkpoint that its task belongs to.
        task: The task's id: what an answer is stored for.
        interrupts: Of each interrupt its id, whether this very task raised it (not a graph that it
            called), and what was asked.
    """

    checkpoint: str
    task: str
    interrupts: tuple[tuple[str, bool, Any], ...]
