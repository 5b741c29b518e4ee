"""A journal of many conversations, and how long the panel takes to show them.

    python -m tests.browser.many

prints, for 10,000 conversations, what passes between the click on the panel's tab and its rows, and
between a step's intent and its row in the panel.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, RunStatus
from tests.bench.bulk import bulk

from .lab import Lab, Server, opened_browser
from .panels import Panel
from .people import START, Desk

if TYPE_CHECKING:
    from playwright.sync_api import Page

MANY = 10_000
ROUNDS = 9
TICKS = (
    START
    + """
def tick(state):
    note(str(time.time()))
    time.sleep(0.4)
    return {"said": state["said"] + "."}

def more(state):
    return "tick" if len(state["said"]) < 20 else "__end__"

graph = StateGraph(State).add_node(tick).add_edge(START, "tick").add_conditional_edges("tick", more)
agent = na.Agent(graph, name="clock")
"""
)


def fill(home: Path, number: int) -> None:
    """Make a journal of so many conversations, the newest with the highest number."""
    with bulk(home, ingest=False) as into:
        for n in range(number):
            name = f"conversation {n}"
            begun = Draft(
                kind=Kind.RUN_STARTED, thread=name, scope=name, run=1, name="bulk", attempt=1,
                digest=bytes(16), plain=pack({}), token=None,
            )  # fmt: skip
            begun.claim = Claim(agent="bulk", run=1, session=1, notebook=None)
            ended = str(RunStatus.SUCCEEDED if n % 10 else RunStatus.WAITING)
            plain = pack((None, None))
            into.add([begun])
            into.add(
                [
                    Draft(
                        kind=Kind.RUN_FINISHED, thread=name, scope=name, run=1, name=ended,
                        plain=plain,
                    )
                ]
            )  # fmt: skip


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), extension=True)
        try:
            server.wait()
            os.environ["JUPYTER_DATA_DIR"] = str(Path(folder, "jupyter_data_dir"))  # its key, too
            fill(server.root / ".notebook_agents", MANY)
            with opened_browser() as browser:
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                server.write("notebook.ipynb", [TICKS, "agent.run({'said': ''}, thread='ticks')"])
                tab = Lab(server, page, "notebook.ipynb", Path("bench-out", "screens", "many"))
                _say("click to rows", [_rows(page) for _ in range(ROUNDS)])
                _say(
                    "click on a filter to its rows, asked of the server",
                    [_filtered(page) for _ in range(ROUNDS)],
                )
                _say("intent to its row", _steps(tab))
        finally:
            server.close()


def _say(what: str, took: list[float]) -> None:
    middle, most = statistics.median(took), max(took)
    print(f"{what}: median {middle:.0f} ms, most {most:.0f} ms of {len(took)}")


def _rows(page: Page) -> float:
    """Return the ms from a click on the side bar's tab to rows; the page is loaded anew before."""
    page.reload()
    page.locator(".jp-SideBar .lm-TabBar-tab[data-nacalling]").wait_for()
    page.evaluate("() => window.jupyterapp.shell.activateById('filebrowser')")
    return _until(page, ".jp-SideBar .lm-TabBar-tab[data-nacalling]", ".na-row .na-when")


def _filtered(page: Page) -> float:
    page.locator(".na-chip").first.click()
    page.locator(f".na-canvas[aria-rowcount='{MANY}']").wait_for()
    return _until(page, ".na-chip.na-calls", f".na-canvas[aria-rowcount='{MANY // 10}']")


def _until(page: Page, click: str, shown: str) -> float:
    """Return the ms from a click to the frame behind the one that shows something."""
    return float(
        page.evaluate(
            """async ([click, shown]) => {
                const tab = document.querySelector(click);
                const begun = performance.now();
                for (const name of ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click']) {
                    const options = {bubbles: true, cancelable: true, button: 0};
                    const kind = name.startsWith('pointer') ? PointerEvent : MouseEvent;
                    const box = tab.getBoundingClientRect();
                    options.clientX = box.x + box.width / 2;
                    options.clientY = box.y + box.height / 2;
                    tab.dispatchEvent(new kind(name, options));
                }
                const frame = () => new Promise(requestAnimationFrame);
                const seen = () => {
                    const found = document.querySelector(shown);
                    return found && found.textContent && found.offsetHeight;
                };
                do await frame(); while (!seen());
                return performance.now() - begun;
            }""",
            [click, shown],
        )
    )


def _steps(tab: Lab) -> list[float]:
    """Return the ms from each step's beginning, as its node notes it, to its row."""
    panel, desk = Panel(tab), Desk(tab)
    panel.show()
    panel.node.get_by_role("radio", name="All").click()
    desk.begin()
    panel.enter("ticks", "running")
    times = tab.page.evaluate(
        """async () => {
            const tree = document.querySelector('.na-panel .nat-canvas');
            const seen = {};
            const look = () => {
                const number = tree.querySelectorAll('[role=treeitem]').length;
                seen[number] ??= Date.now();
            };
            const observer = new MutationObserver(look);
            observer.observe(tree, {childList: true, subtree: true});
            const over = () => document.querySelector('.na-panel .na-facts .nat-good');
            while (!over()) await new Promise(resolve => setTimeout(resolve, 100));
            return seen;
        }"""
    )
    begun = [float(said) * 1e3 for said in desk.effects()]
    seen = {int(number): at for number, at in times.items()}
    return [seen[n] - at for n, at in enumerate(begun, 1) if n in seen and n > min(seen)]


if __name__ == "__main__":
    main()
