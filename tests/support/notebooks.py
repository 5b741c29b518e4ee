"""Notebooks for tests: written by code, run by real kernels, what they did counted in a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = """\
import os, signal
from pathlib import Path

def note(what):
    with open("ledger", "a") as file:
        file.write(f"{what}\\n")

def die(times=1):
    note(f"death {os.getpid()}")
    if Path("ledger").read_text().count("death") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""The first cell of a notebook that notes what it does, and dies the first time that it is told."""

AGENT = """\
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na

class State(TypedDict):
    x: int

@na.step
def effect(x):
    note(f"effect {na.idempotency_key()}")
    return x + 1

def first(state: State) -> State:
    return {"x": effect(state["x"])}

def second(state: State) -> State:
    if DEADLY:
        die()
    return {"x": state["x"] * 10}

graph = StateGraph(State)
graph.add_node(first)
graph.add_node(second)
graph.add_edge(START, "first")
graph.add_edge("first", "second")
agent = na.Agent(graph, name="worker")
"""
"""An agent with one effect, whose second node kills the kernel where DEADLY is true."""


def written(path: Path, *sources: str, tags: dict[int, str] | None = None) -> Path:
    """Write a notebook whose kernel spec nobody has installed and whose outputs are old.

    Args:
        path: Where.
        sources: Of its code cells. A cell's id is its number, from 1.
        tags: Of cells, by their place, from 0.
    """
    cells = [new_code_cell(source, id=f"c{n}") for n, source in enumerate(sources, 1)]
    for index, cell in enumerate(cells):
        cell.execution_count = 7
        cell.outputs = [nbformat.v4.new_output("stream", text="from another time")]
        if tags and index in tags:
            cell.metadata["tags"] = [tags[index]]
    nb = new_notebook(cells=[new_markdown_cell("# Title", id="title"), *cells])
    nb.metadata["kernelspec"] = {"name": "no-such", "display_name": "?", "language": "python"}
    path.write_text(nbformat.writes(nb), encoding="utf-8")
    return path


def outputs(path: Path) -> list[str]:
    """Return the text that each code cell of a saved notebook shows."""
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    return [
        "".join(
            out.get("text") or out.get("ename") or out.get("data", {}).get("text/plain") or ""
            for out in cell.outputs
        )
        for cell in nb.cells
        if cell.cell_type == "code"
    ]


def counts(path: Path) -> list[int | None]:
    """Return the execution counts of a saved notebook's code cells, outputs' included."""
    nb = nbformat.read(path, as_version=4)
    found = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            of_outputs = {
                out["execution_count"] for out in cell.outputs if "execution_count" in out
            }
            assert of_outputs <= {cell.execution_count}
            found.append(cell.execution_count)
    return found


def ledger(folder: Path) -> Counter[str]:
    """Return how often each thing was noted, by its first word."""
    lines = (folder / "ledger").read_text().splitlines() if (folder / "ledger").exists() else []
    return Counter(line.partition(" ")[0] for line in lines)


def gone(pid: int) -> bool:
    """Say whether no process of this id runs; one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"
