"""Thousands of conversations in the side panel: searched, filtered, scrolled, walked by keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .many import fill
from .panels import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab

NUMBER = 2500
"""More than two pages of the server's."""


def test_thousands_are_searched_filtered_and_scrolled(paneled: Callable[..., Lab]) -> None:
    """Few rows are in the page at a time; every place of the list has its own."""
    tab = paneled(["1"], before=lambda folder: fill(folder / ".notebook_agents", NUMBER))
    panel = Panel(tab)
    panel.show()
    panel.row(f"conversation {NUMBER - 1}").wait_for()
    panel.node.get_by_role("radio", name="Needs you 250").wait_for()
    panel.shot("1-many")
    scroller = panel.node.locator(".na-scroller")
    most = scroller.evaluate(
        """async scroller => {
            const frame = () => new Promise(requestAnimationFrame);
            const rows = () => [...scroller.querySelectorAll('.na-row:not(.na-loading)')]
                .filter(row => row.offsetTop >= 0);
            let most = 0;
            for (let top = 0; top < scroller.scrollHeight; top += scroller.scrollHeight / 60) {
                scroller.scrollTop = top;
                for (let tries = 0; ; tries++) {
                    await frame();
                    const middle = scroller.scrollTop + scroller.clientHeight / 2;
                    const row = rows().find(
                        row => row.offsetTop <= middle && row.offsetTop + 50 > middle);
                    if (row) {
                        const place = row.offsetTop / 50;
                        const name = row.querySelector('.na-name').textContent;
                        if (name !== `conversation ${2499 - place}`) throw new Error(name + place);
                        break;
                    }
                    if (tries > 600) throw new Error(`nothing is drawn at ${top}`);
                }
                most = Math.max(most, scroller.querySelectorAll('.na-row').length);
            }
            return most;
        }"""
    )
    assert most < 60
    panel.node.get_by_role("searchbox", name="Search conversations").fill("ation 242")
    panel.row("conversation 2420", "waiting").wait_for()
    panel.row("conversation 2419").wait_for(state="detached")
    panel.node.get_by_role("radio", name="Needs you").click()
    panel.row("conversation 2421").wait_for(state="detached")
    assert panel.row("conversation").count() == 1
    panel.shot("2-found")
    panel.node.get_by_role("searchbox", name="Search conversations").fill("nowhere")
    panel.node.get_by_text("No conversation has “nowhere”").wait_for()


def test_the_list_is_walked_by_keyboard(paneled: Callable[..., Lab]) -> None:
    """Arrows, End, Enter, Escape: a person without a mouse reaches every conversation."""
    tab = paneled(["1"], before=lambda folder: fill(folder / ".notebook_agents", 150))
    panel = Panel(tab)
    panel.show()
    panel.row("conversation 149").wait_for()
    grid = panel.node.get_by_role("grid", name="conversations")
    grid.focus()
    for key in ("ArrowDown", "ArrowDown"):
        tab.page.keyboard.press(key)
    active = panel.node.locator(".na-active")
    assert "conversation 148" in active.inner_text()
    assert grid.get_attribute("aria-activedescendant") == active.get_attribute("id")
    assert grid.get_attribute("aria-rowcount") == "150"
    tab.page.keyboard.press("End")
    oldest = panel.node.get_by_text("conversation 0", exact=True)
    oldest.wait_for()
    panel.shot("1-end")
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("Enter")
    panel.open.get_by_role("heading", name="conversation 149").wait_for()
    panel.open.get_by_text("The key is not here").wait_for()  # it was sealed with another one's
    panel.open.get_by_text("notebook-agents key import").wait_for()
    panel.shot("2-key-missing")
    tab.page.keyboard.press("Escape")
    panel.row("conversation 149").wait_for()
    assert grid.evaluate("grid => grid === document.activeElement")
    tab.page.keyboard.press("/")
    search = panel.node.get_by_role("searchbox", name="Search conversations")
    assert search.evaluate("box => box === document.activeElement")
