"""What came back, and what did not: `RestoreReport`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreReport:
    """What of some objects came back. It shows itself as text, and in a notebook as a table.

    Attributes:
        what: What was to come back: "the objects of thread 't'".
        restored: The names of what is there.
        refused: What could not be kept, by name, with why.
        failed: What was kept and does not come back here, by name, with why. Its bytes stay.
        notes: What is to be known besides: other versions, modules that are not what they were.
    """

    what: str
    restored: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return not self.refused and not self.failed

    def to_json(self) -> str:
        """Return it as a JSON object with these attributes, and `complete`."""
        return json.dumps(
            {
                "what": self.what,
                "complete": self.complete,
                "restored": list(self.restored),
                "refused": dict(self.refused),
                "failed": dict(self.failed),
                "notes": list(self.notes),
            }
        )

    def to_html(self) -> str:
        """Return it as HTML; everything in it is escaped."""
        rows = "".join(
            f"<tr><td>{escape(state)}</td><td>{escape(name)}</td><td>{escape(why)}</td></tr>"
            for state, name, why in self._rows()
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<p>{escape(self._summary())}</p>"
            + (f"<ul>{notes}</ul>" if notes else "")
            + (f"<table><tbody>{rows}</tbody></table>" if rows else "")
        )

    def __str__(self) -> str:
        lines = [self._summary(), *(f"  note: {note}" for note in self.notes)]
        lines += [f"  {state} {name}{why and f': {why}'}" for state, name, why in self._rows()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_html()

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # noqa: FBT001 - IPython's own
        printer.text(str(self))

    def _summary(self) -> str:
        counts = [f"{len(self.restored)} restored"]
        counts += [f"{len(self.refused)} refused"] if self.refused else []
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        return f"{self.what}: {', '.join(counts)}"

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [("restored", name, "") for name in self.restored]
        rows += [("refused", name, why) for name, why in self.refused.items()]
        rows += [("failed", name, why) for name, why in self.failed.items()]
        return rows
