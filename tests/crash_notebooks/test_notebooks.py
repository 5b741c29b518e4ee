"""A few kills of each kind in the suite, and that the harness sees what it is there to see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nbformat
import pytest
from support.notebooks import written

from .outputs import shown
from .trial import Reference, run_trial, undisturbed

if TYPE_CHECKING:
    from pathlib import Path

CELLS = (
    """\
import json
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na

class State(TypedDict):
    x: int

@na.step
def effect(x):
    with open("ledger.jsonl", "a") as file:
        file.write(json.dumps({"key": na.idempotency_key(), "x": x}) + "\\n")
    return x + 1

def node(state: State) -> State:
    return {"x": sum(effect(number) for number in range(state["x"]))}""",
    """\
graph = StateGraph(State)
graph.add_node(node)
graph.add_edge(START, "node")
agent = na.Agent(graph, name="worker")
seen = []""",
    "run = agent.run({'x': 40})\nseen.append(run.value)\nrun",
    "run = agent.run({'x': 20})\nseen.append(run.value)\nseen",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    """Write a notebook with sixty effects, and run it once."""
    folder = tmp_path_factory.mktemp("reference")
    notebook = written(folder / "notebook.ipynb", *CELLS)
    return notebook, undisturbed(notebook, folder / "undisturbed")


@pytest.mark.crash
def test_outputs_and_effects_are_as_undisturbed(
    reference: tuple[Path, Reference], tmp_path: Path
) -> None:
    """Kernels and runners are killed at moments that follow from a seed."""
    notebook, undisturbed = reference
    assert undisturbed.keys == 60

    for number in range(3):
        tally = run_trial(str(number), notebook, tmp_path / str(number), 3, undisturbed)

        assert tally.violations == []
        assert tally.effects == 60


@pytest.mark.crash
def test_a_promise_that_is_broken_is_seen(
    reference: tuple[Path, Reference], tmp_path: Path
) -> None:
    """An output that differs, an effect too many, and a notebook that fails."""
    notebook, undisturbed = reference
    other = Reference(
        seconds=0.0,
        shown=[*undisturbed.shown[:3], "something else"],
        keys=undisturbed.keys + 1,
        asked=1,
    )
    folder = tmp_path / "seen"
    folder.mkdir()
    (folder / "ledger.jsonl").write_text(json.dumps({"key": "na-nobody's"}) + "\n")

    found = run_trial("seen", notebook, folder, 1, other).violations

    assert ["code cell 4 shows" in one for one in found] == [True, False, False]
    assert "0 replies were asked for, and 1 undisturbed" in found[1]
    assert "the effect na-nobody's happened 1 times, in 0 attempts" in found[2]
    failing = written(tmp_path / "failing.ipynb", "1 / 0")
    (failed,) = run_trial("failed", failing, tmp_path / "failed", 1, other).violations
    assert "ZeroDivisionError" in failed


def test_what_differs_between_any_two_runs_does_not_count(tmp_path: Path) -> None:
    """Times, durations, names of threads and what is told on stderr; all else does."""

    def notebook(text: str, told: str) -> list[str]:
        path = written(tmp_path / "a.ipynb", "1")
        nb = nbformat.read(path, as_version=4)
        nb.cells[1].outputs = [
            nbformat.v4.new_output("stream", name="stdout", text=text[:5]),
            nbformat.v4.new_output("stream", name="stderr", text=told),
            nbformat.v4.new_output("stream", name="stdout", text=text[5:]),
        ]
        nbformat.write(nb, path)
        return shown(path, tmp_path)

    one = notebook("at 2026-11-21 20:00:01 UTC in 3.1 s: a-calm-river-1234abcd", "thread: x")
    two = notebook("at 2026-11-22 08:10:59 UTC in 17 ms: a-keen-brook-ffff0000", "x")

    assert one == two
    assert notebook("3 files", "") != notebook("4 files", "")
