"""A notebook's file and its cells: reading, saving, and what is said of a cell."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from notebook_agents import ids
from notebook_agents.notebook.errors import MissingPartError, NotebookFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nbformat import NotebookNode


class CellState(StrEnum):
    """What happened to a cell."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It had finished before; its outputs were kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellEvent:
    """What a progress display needs to know.

    Attributes:
        number: The cell's number among the code cells, from 1.
        total: How many code cells there are.
        line: The first line of its code that is not empty.
        state: What happened to it.
        seconds: How long it took; 0.0 when it starts, and where it is skipped.
    """

    number: int
    total: int
    line: str
    state: CellState
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A code cell that is to run.

    Attributes:
        number: Its number among the code cells, from 1.
        index: Its place among all cells, from 0.
        id: Its id in the notebook, or what stands for one.
        chain: A digest of its source and that of all code cells before it.
        node: The cell itself.
    """

    number: int
    index: int
    id: str
    chain: str
    node: NotebookNode

    @property
    def name(self) -> str:
        """What the journal calls it. Names can be read there without a key, so no source."""
        return f"cell {self.number}"

    @property
    def line(self) -> str:
        """The first line of its code that is not empty."""
        return str(self.node.source).strip().partition("\n")[0]


def code_cells(nb: NotebookNode) -> list[Cell]:
    """Return the code cells that have code, in order."""
    found: list[Cell] = []
    chain = ""
    for index, node in enumerate(nb.cells):
        if node.cell_type != "code" or not node.source.strip():
            continue
        chain = ids.digest_id("source", chain, node.source)
        name = node.get("id") or f"cell-{index}"  # there are no ids before format 4.5
        found.append(Cell(number=len(found) + 1, index=index, id=name, chain=chain, node=node))
    return found


def read(path: Path, *, any_language: bool) -> NotebookNode:
    """Read a notebook and take its old outputs out.

    Raises:
        NotebookFileError: It cannot be read, or is not written in Python.
    """
    nbformat = need("nbformat")
    try:
        nb: NotebookNode = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise NotebookFileError(f"there is no notebook {path}; check the path") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotebookFileError(f"{path} cannot be read ({reason}); check the path") from error
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise NotebookFileError(
            f"{path} is no Jupyter notebook; give the path of an .ipynb file"
        ) from error
    language = nb.metadata.get("kernelspec", {}).get("language") or "python"
    if not any_language and language != "python":
        raise NotebookFileError(
            f"{path} is written in {language}, and only Python notebooks can be run here; "
            "give the name of an installed kernel to use that one"
        )
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def save(nb: NotebookNode, path: Path) -> None:
    """Write a notebook."""
    text = need("nbformat").writes(nb)
    write_atomic(path, text if text.endswith("\n") else text + "\n")


def outputs_of(cell: Cell) -> dict[str, Any]:
    """Return what running a cell put into it."""
    return {
        "outputs": cell.node.outputs,
        "count": cell.node.execution_count,
        "execution": cell.node.metadata.get("execution"),
    }


def put_outputs(cell: Cell, kept: Mapping[str, Any]) -> None:
    """Put into a cell what running it did before."""
    from_dict = need("nbformat").from_dict
    cell.node.outputs = [from_dict(output) for output in kept["outputs"]]
    cell.node.execution_count = kept["count"]
    if kept["execution"]:
        cell.node.metadata["execution"] = from_dict(kept["execution"])


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that, whatever dies, it has its old content or all of the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def need(module: str) -> Any:
    """Import one of Jupyter's packages, or say what to install.

    Raises:
        MissingPartError: It is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPartError(
            f"running a notebook needs {module}, which is not installed for {sys.executable}; "
            "install it with: python -m pip install 'notebook-agents[notebook]'"
        ) from error
