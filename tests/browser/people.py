"""What the people of the stories write into their cells, and what they see under them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from .lab import Lab

START = """\
import pathlib, time
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na

class State(TypedDict):
    said: str

def note(what):
    with open("effects", "a") as file:
        file.write(what + "\\n")

def until(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.02)
"""
"""The first lines of a notebook: `note` counts an effect, `until` waits for a file."""

TRIP = (
    START
    + """
def search(state):
    note("search")
    return {"said": state["said"] + ", found"}

def book(state):
    note("book")
    until("go")
    return {"said": state["said"] + ", booked"}

def thank(state):
    note("thank")
    return {"said": state["said"] + ", thanks"}

graph = StateGraph(State).add_sequence([search, book, thank]).add_edge(START, "search")
agent = na.Agent(graph, name="trip")
"""
)
"""Three steps, of which the second returns when there is a file `go`."""


class Desk:
    """A person's notebook: its folder, and the timeline under a cell.

    Args:
        tab: The notebook.
        number: The cell under which the run is shown.
    """

    def __init__(self, tab: Lab, number: int = 1) -> None:
        self.tab = tab
        self.folder = tab.server.root / Path(tab.notebook).parent
        self.output = tab.output(number)
        self.timeline = self.output.locator(".nat-timeline")

    def begin(self) -> None:
        """Run the first cell to its end, then begin the second."""
        self.tab.run(0)
        self.tab.done(0)
        self.tab.run(1)

    def go(self) -> None:
        """Have `until("go")` return."""
        (self.folder / "go").touch()

    def effects(self) -> list[str]:
        """Return what was done so far."""
        path = self.folder / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def status(self, says: str) -> Locator:
        """Return the place above the tree that says how the run stands, once it says that."""
        return self.timeline.locator(".nat-status", has_text=re.compile(f"^.?{says}$"))

    def step(self, name: str, state: str) -> Locator:
        """Return the row of a step that stands so."""
        said = re.compile(f"^{re.escape(name)}, {state}(,|$)")
        return self.timeline.get_by_role("treeitem", name=said)

    def button(self, name: str) -> Locator:
        """Return a button of the timeline."""
        return self.timeline.get_by_role("button", name=name, exact=True)

    def shot(self, name: str) -> None:
        """Keep a picture of what is under the cell."""
        self.tab.shot(name, self.output)
