"""The side panel, as a person sees it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from .lab import Lab

SHOW = "() => window.jupyterapp.commands.execute('notebook-agents:show')"


class Panel:
    """The panel in a tab.

    Args:
        tab: The tab.
    """

    def __init__(self, tab: Lab) -> None:
        self.tab = tab
        self.node = tab.page.locator(".na-panel")
        self.rows = self.node.get_by_role("row")
        self.open = self.node.get_by_role("region", name="conversation")
        self.timeline = self.open.locator(".nat-timeline")
        self.dialog = tab.page.locator(".jp-Dialog")

    def show(self) -> None:
        """Show it, as its command does."""
        self.tab.page.evaluate(SHOW)
        self.node.wait_for()

    def row(self, *says: str) -> Locator:
        """Return the row that says all of these."""
        found = self.rows
        for text in says:
            found = found.filter(has_text=text)
        return found

    def enter(self, *says: str) -> None:
        """Open the conversation whose row says all of these."""
        self.row(*says).click()
        self.timeline.wait_for()

    def back(self) -> None:
        """Go back to the list."""
        self.node.get_by_role("button", name="Conversations").click()

    def step(self, name: str, state: str) -> Locator:
        """Return the row of a step of the open conversation that stands so."""
        said = re.compile(f"^{re.escape(name)}, {state}(,|$)")
        return self.timeline.get_by_role("treeitem", name=said)

    def status(self, says: str) -> Locator:
        """Return where the open conversation's status stands, once it says that."""
        return self.open.locator(".na-facts .na-status", has_text=re.compile(f"^.?{says}$"))

    def button(self, name: str) -> Locator:
        """Return a button of the open conversation."""
        return self.open.get_by_role("button", name=name, exact=True)

    def calling(self, number: int | None) -> Locator:
        """Return the tab on the side bar, once it says how many need a person."""
        said = "[data-nacalling]" if number is None else f"[data-nacalling='{number}']"
        return self.tab.page.locator(f".jp-SideBar .lm-TabBar-tab{said}")

    def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        self.tab.shot(name)
