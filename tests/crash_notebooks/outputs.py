"""What a notebook shows, without what may differ between two runs of it: times, names, numbers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OURS = "application/vnd.notebook-agents."
_TIMELINE = re.compile(r"^[\w.-]+ · thread \S+ · run \d+ · |^\S \w+ · ")
_VARIES = "varies"
"""The tag of a cell that shows something else after a kill: times, attempts."""
_VARYING = (
    (
        re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?( ?UTC|Z|[+-]\d\d:?\d\d)?"),
        "<time>",
    ),
    (re.compile(r"\b\d+(\.\d+)? ?(µs|ms|s|min|h)\b"), "<duration>"),
    (re.compile(r"\b[a-z]+-[a-z]+-[0-9a-f]{8}\b"), "<name>"),
    (re.compile(r"\bna-[0-9a-f]{24}\b|\b[0-9a-f]{24}\b"), "<key>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<address>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\bpid \d+\b"), "<pid>"),
)


def shown(path: Path, folder: Path) -> list[str]:
    """Return what each code cell of a saved notebook shows, as text to compare.

    The timeline of a run says how often it was resumed, so of that only that it is there counts;
    what is written to stderr, such as the names of threads, does not count, nor what cells show
    that are tagged so.

    Args:
        path: The notebook.
        folder: Where it ran: paths in there look the same in all folders.
    """
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    return [
        json.dumps([cell.execution_count, *_outputs(cell)], indent=1).replace(str(folder), "<here>")
        for cell in cells
    ]


def _outputs(cell: Any) -> Iterator[Any]:
    said = ""
    for output in () if _VARIES in cell.metadata.get("tags", ()) else cell.outputs:
        if output.output_type == "stream":
            said += output.text if output.name == "stdout" else ""
            continue
        if said:  # what stderr had in between does not cut it
            yield _plain(said)
            said = ""
        if output.output_type == "error":
            yield [output.ename, _plain(output.evalue)]
        elif _is_timeline(output.data):
            yield "<timeline>"
        else:
            yield {kind: _plain(value) for kind, value in sorted(output.data.items())}
    if said:
        yield _plain(said)


def _is_timeline(data: Any) -> bool:
    text = str(data.get("text/plain", ""))
    return any(kind.startswith(_OURS) for kind in data) or _TIMELINE.match(text) is not None


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text
