"""What a notebook shows while a run works, in a real kernel."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from support.kernels import GRAPHS, Kernel, kernel

from notebook_agents.notebook.headless import run_notebook
from notebook_agents.runtime import showing
from notebook_agents.ui.bundles import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"
THREAD = """
hand = threading.Thread(target=worker.run, args=({{"n": 0}},), kwargs={{"thread": "{name}"}})
hand.start()
hand.join()
"""
TREE = "step   "  # the heading of the tree in text


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Start one kernel for the tests of this module, with agents and a journal of its own."""
    folder = tmp_path_factory.mktemp("cells")
    patch = pytest.MonkeyPatch()
    patch.setenv("NOTEBOOK_AGENTS_HOME", str(folder / "journal"))
    patch.setenv("JUPYTER_DATA_DIR", str(folder / "data"))
    with kernel(folder) as made:
        assert made.run('QUESTION = "sure?"' + GRAPHS) == []
        yield made
    patch.undo()


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)


def test_run_has_a_record_and_a_live_view(cells: Kernel) -> None:
    """A record in JSON, HTML and text stands as the run ended; the widget is a display of its own.

    A bundle with a widget whose model is gone shows nothing else.
    """
    shown = cells.run('run = worker.run({"n": 0}, thread="shapes")')
    output, live = [one for one in shown if one["kind"] != "stream"]
    assert set(output["data"]) == {MEDIA_TYPE, "text/html", "text/plain"}
    assert set(live["data"]) == {WIDGET, "text/html"}
    cell = new_code_cell(outputs=[new_output("display_data", data=live["data"])])
    HTMLExporter().from_notebook_node(new_notebook(cells=[cell]))  # a warning would be an error
    state = output["data"][MEDIA_TYPE]
    assert (state["status"], state["counts"]["returned"]) == ("succeeded", 2)
    assert [row["name"] for row in state["steps"]] == ["work", "fetch"]
    assert "✓ succeeded" in output["data"]["text/plain"]


def test_markup_in_arguments_is_inert(cells: Kernel) -> None:
    """What looks like a script in an argument or a result is text wherever it is shown."""
    request = cells.begin('run = worker.run({"n": 0}, thread="<script>alert(2)</script>")')
    cells.end(request)
    (state,) = cells.states(request)
    assert state["steps"][1]["args"] == "'<script>alert(1)</script>', deep={'a': [1, 2]}"
    assert "<script>" in state["steps"][1]["result"]
    output, _ = [one for one in cells.outputs(request) if one["kind"] == "display_data"]
    assert not Tags(output["data"]["text/html"]).found & {"script", "img"}


def test_display_moves_while_a_blocking_cell_works(cells: Kernel) -> None:
    """Steps come by messages of the widget while the cell still runs, then the whole at its end."""
    request = cells.begin('run = holder.run({"n": 0}, thread="moves")')
    deltas = []
    while not any(row["name"] == "wait" for delta in deltas for row in delta["steps"]):
        message = cells.hear(lambda message: message["msg_type"] == "comm_msg")
        content = message["content"]["data"].get("content") or {}
        deltas += [content["delta"]] if content.get("kind") == "delta" else []
    assert not (cells.folder / "free").exists()
    assert deltas[-1]["status"] == "running"
    (cells.folder / "free").touch()
    whole: dict[str, Any] = {}
    while whole.get("status") != "succeeded":
        message = cells.hear(lambda message: message["msg_type"] == "comm_msg")
        whole = message["content"]["data"].get("state", {}).get("state", {})
    cells.end(request)
    (state,) = cells.states(request)
    assert state == whole
    (cells.folder / "free").unlink()


@pytest.mark.parametrize(
    "code",
    [
        'await worker.arun({{"n": 0}}, thread="{name}")',
        'for _ in worker.stream({{"n": 0}}, thread="{name}"): pass',
        'async for _ in worker.astream({{"n": 0}}, thread="{name}"): pass',
        THREAD,
    ],
    ids=["arun", "stream", "astream", "thread"],
)
def test_every_way_to_run_is_shown(cells: Kernel, code: str, request: object) -> None:
    """Async cells, streams and worker threads have the same display, and it ends as they do."""
    asked = cells.begin(code.format(name=f"way {abs(hash(code))}") + "\nNone")
    cells.end(asked)
    assert [state["status"] for state in cells.states(asked)] == ["succeeded"]


def test_several_runs_at_once_have_a_display_each(cells: Kernel) -> None:
    """Two runs side by side do not mix their steps."""
    request = cells.begin(
        "import asyncio\n"
        'await asyncio.gather(*(worker.arun({"n": n}, thread=f"side {n}") for n in range(2)))\n'
        "None"
    )
    cells.end(request)
    states = sorted(cells.states(request), key=lambda state: str(state["thread"]))
    assert [state["thread"] for state in states] == ["side 0", "side 1"]
    assert [state["counts"]["returned"] for state in states] == [2, 2]


def test_many_runs_of_one_cell_do_not_flood_it(cells: Kernel) -> None:
    """Of twenty runs twelve have a display; a line counts the others."""
    request = cells.begin(
        'for n in range(20):\n    worker.run({"n": n}, thread=f"many {n}", new=True)'
    )
    cells.end(request)
    assert len(cells.states(request)) == 12
    said = [output.get("data", {}).get("text/plain", "") for output in cells.outputs(request)]
    assert any(text.startswith("and 8 more runs") for text in said)


def test_value_of_the_cell_does_not_repeat_the_tree(cells: Kernel) -> None:
    """Where the run is the cell's value too, it says its status and its answer only."""
    display, _, value = [
        output
        for output in cells.run('worker.run({"n": 0}, thread="value")')
        if output["kind"] != "stream"
    ]
    assert TREE in display["data"]["text/plain"]
    assert list(value["data"]) == ["text/plain"]
    assert value["data"]["text/plain"].startswith("✓ succeeded · 2 steps returned\n{")
    assert TREE not in value["data"]["text/plain"]


def test_run_in_another_cell_shows_the_whole_again(cells: Kernel) -> None:
    """A run that is the value of a later cell has its timeline there."""
    cells.run('kept = worker.run({"n": 0}, thread="later")')
    record, live, value = cells.run("kept")
    assert TREE in record["data"]["text/plain"]
    assert WIDGET in live["data"]
    assert value["kind"] == "execute_result"
    assert TREE not in value["data"]["text/plain"]


def test_stored_answer_is_marked(cells: Kernel) -> None:
    """The same request again shows its timeline at once, and says that nothing was run."""
    code = 'run = worker.run({"n": 0}, thread="stored", key="k")'
    cells.run(code)
    request = cells.begin(code)
    cells.end(request)
    (state,) = cells.states(request)
    assert state["stored"]
    assert state["told"] == "the stored answer was given: nothing was run"


def test_failed_run_is_shown_with_its_error(cells: Kernel) -> None:
    """An error reaches the caller as ever, and the display says it."""
    request = cells.begin(
        "def bad(state):\n    raise ValueError('no <b>report</b>')\n"
        'chain("failing", bad).run({"n": 0}, thread="failing")'
    )
    cells.end(request)
    (state,) = cells.states(request)
    assert (state["status"], state["error"]) == ("failed", "ValueError: no <b>report</b>")
    assert "error" in [output["kind"] for output in cells.outputs(request)]


def test_what_cannot_be_shown_does_not_fail_the_run(cells: Kernel) -> None:
    """A display that raises is logged once; the run ends as it would."""
    shown = cells.run(
        "import notebook_agents.ui.live as live\n"
        "was, live.run_state = live.run_state, None\n"
        'first = worker.run({"n": 0}, thread="harmless")\n'
        'second = worker.run({"n": 0}, thread="harmless too")\n'
        "live.run_state = was\n"
        "print(first.status, second.status)"
    )
    said = "".join(output.get("text", "") for output in shown)
    assert "succeeded succeeded" in said
    assert said.count("could not be shown") == 1


@pytest.mark.parametrize("how", ["off", "show"])
def test_display_can_be_turned_off(cells: Kernel, how: str) -> None:
    """NOTEBOOK_AGENTS_TIMELINE=off and `Agent(..., show=False)` show nothing."""
    off = 'os.environ["NOTEBOOK_AGENTS_TIMELINE"] = "off"'
    code = off if how == "off" else "worker.show = False"
    request = cells.begin(f'{code}\nworker.run({{"n": 0}}, thread="silent {how}").status')
    cells.end(request)
    cells.run('os.environ.pop("NOTEBOOK_AGENTS_TIMELINE", None); worker.show = None')
    assert cells.states(request) == []


def test_saved_notebook_keeps_the_last_update(tmp_path: Path) -> None:
    """A headless run's notebook has the finished timeline, and renders without a kernel."""
    path = tmp_path / "a.ipynb"
    cell = 'worker.run({"n": 0}, thread="saved")'
    made = new_notebook(cells=[new_code_cell('QUESTION = "?"' + GRAPHS), new_code_cell(cell)])
    path.write_text(nbformat.writes(made), encoding="utf-8")
    saved = nbformat.read(run_notebook(path).path, as_version=4)
    (display,) = [out for out in saved.cells[1].outputs if out.output_type == "display_data"]
    assert display.data[MEDIA_TYPE]["status"] == "succeeded"
    page, _ = HTMLExporter().from_notebook_node(saved)
    assert '<span class="na-state na-good">✓\xa0succeeded</span>' in page
    assert "<script>alert(1)" not in page


def test_running_state_says_how_to_go_on_without_its_kernel(cells: Kernel) -> None:
    """The HTML of a run that works, which a page may outlive, names the call that resumes it."""
    cells.run("import notebook_agents.ui.bundles as bundles, dataclasses")
    shown = cells.run(
        'run = worker.run({"n": 0}, thread="outlived", new=True)\n'
        "view = dataclasses.replace(run.view, status=na.RunStatus.RUNNING)\n"
        'print(bundles.bundle(view, {})["text/html"])'
    )
    said = "".join(output.get("text", "") for output in shown)
    assert "<code>import notebook_agents as na; na.resume(&#x27;outlived&#x27;)</code>" in said


def test_script_loads_nothing_of_it(python: object) -> None:
    """Outside a kernel a run loads no widget, and shows nothing."""
    assert showing.display() is None
    ended = python(  # type: ignore[operator]
        'QUESTION = "?"' + GRAPHS + "import sys\n"
        'worker.run({"n": 0}, thread="t")\n'
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('anywidget', 'ipywidgets', 'IPython') or name.startswith('notebook_agents.ui')])",
        script=True,
    )
    assert json.loads(ended.out.replace("'", '"')) == [], ended.err
