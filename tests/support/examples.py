"""The example notebooks, each run in a folder of its own, with parameters that make it fast."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from notebook_agents.notebook.headless import run_notebook
from support.openai_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FAST: Mapping[str, Mapping[str, Any]] = {
    "02_chat_with_tools.ipynb": {"MODEL": "openai:gpt-scripted-1", "SECONDS": 0.0},
    "04_fan_out.ipynb": {"SECONDS": 0.0, "DARTS": 1000},
    "05_journal_in_sql.ipynb": {"SECONDS": 0.01},
}
"""Parameters with which a notebook takes no longer than it must; 02 needs a BASE_URL, too."""
PARAMETERS = "parameters"
"""The tag of the cell with a notebook's parameters, as papermill has it."""
VARIES = "varies"
"""The tag of cells that tell of times, attempts, or a question that is not asked again."""


@dataclass
class Example:
    """One of the notebooks in a folder, and what it is run with.

    Attributes:
        name: The file's name.
        folder: Where it runs.
        parameters: What the cell tagged `parameters` says otherwise, besides what is in `FAST`.
        environment: Variables of its kernel.
        pid: The newest kernel's process id.
    """

    name: str
    folder: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0

    def run(self) -> dict[str, str]:
        """Run it in a new kernel; return what its cells show, by their ids."""
        return self._run(read(self.name, {**FAST.get(self.name, {}), **self.parameters}))

    def instead(self, *sources: str) -> dict[str, str]:
        """Run these cells and no other in a new kernel of the notebook, with ids from 0."""
        cells = [new_code_cell(source, id=str(place)) for place, source in enumerate(sources)]
        return self._run(new_notebook(cells=cells))

    def kill(self) -> None:
        """Kill the kernel; it is dead when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # it was waited for already
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def ledger(self) -> list[dict[str, str]]:
        """Return what its agents did outside, each with its idempotency key."""
        lines = (self.folder / "ledger.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def _run(self, nb: NotebookNode) -> dict[str, str]:
        path, out = self.folder / self.name, self.folder / "executed.ipynb"
        path.write_text(nbformat.writes(nb))

        def started(pid: int) -> None:
            self.pid = pid

        run_notebook(path, out=out, on_kernel=started, environment=self.environment, restarts=0)
        cells = nbformat.read(out, as_version=4).cells
        return {cell.id: shown(cell) for cell in cells if cell.cell_type == "code"}


def read(name: str, parameters: Mapping[str, Any]) -> NotebookNode:
    """Return a notebook with other values for its parameters."""
    nb = nbformat.read(NOTEBOOKS / name, as_version=4)
    if parameters:
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        at = next(
            i for i, cell in enumerate(nb.cells) if PARAMETERS in cell.metadata.get("tags", ())
        )
        nb.cells.insert(at + 1, new_code_cell(lines, id="injected-parameters"))
    return nb


def shown(cell: NotebookNode) -> str:
    """Return the text that a cell shows, and the kinds of its pictures; no timelines."""
    parts = []
    for out in cell.outputs:
        if out.output_type == "stream":
            parts.append(out.text if out.name == "stdout" else "")
            continue
        data = out.data
        if any(kind.startswith("application/vnd.") for kind in data):  # it tells of times
            continue
        pictures = [f"<{kind}>\n" for kind in data if kind.startswith("image/")]
        parts += pictures or [data.get("text/markdown") or data.get("text/plain", "")]
    return "".join(parts).strip()


class ShopModel(ModelServer):
    """The model that `02_chat_with_tools.ipynb` talks to: what it asks its tools is scripted."""

    turns = (
        ((("stock", "lamp"), ("stock", "chair")), (("price", "lamp"),)),
        ((("price", "table"),),),
    )
    """For each question and each turn, the tools with the item that each is asked about."""
    answers = (
        "The tools said: 4 pieces; 0 pieces; 35 euros",
        "The tools said: 210 euros",
    )

    def reply(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the message that follows `messages`."""
        question = next(one["content"] for one in messages if one["role"] == "user")
        turns = self.turns["table" in question]
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == len(turns):
            said = "; ".join(str(one["content"]) for one in messages if one["role"] == "tool")
            return {"role": "assistant", "content": f"The tools said: {said}"}
        calls = [
            {
                "id": f"call_{item}_{turn}_{number}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps({"item": item})},
            }
            for number, (name, item) in enumerate(turns[turn])
        ]
        return {"role": "assistant", "content": None, "tool_calls": calls}
