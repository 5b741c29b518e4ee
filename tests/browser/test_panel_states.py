"""What the side panel says where there is nothing to show, or where somebody means harm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from .panels import Panel
from .people import START, TRIP, Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab

RUN = "agent.run({'said': 'a trip'}, thread='our trip').value['said']"
SAID = {
    "missing": (404, "", "The server part does not answer", "jupyter server extension enable"),
    "forbidden": (403, "", "Not allowed", "log in again"),
    "damaged": (500, "journal_damaged", "The journal is damaged", "journal repair"),
    "newer": (500, "journal_newer", "The journal is of a newer version", "pip install --upgrade"),
    "busy": (503, "journal_busy", "The journal is busy", "Try again"),
}


def _refuse(tab: Lab, status: int, code: str) -> None:
    """Have each question be refused from here on, as the server would."""
    body = json.dumps({"code": code, "message": "It says why."} if code else {"message": ""})
    tab.page.route(
        "**/notebook-agents/api/**",
        lambda route: route.fulfill(status=status, body=body, content_type="application/json"),
    )


@pytest.mark.parametrize("case", SAID)
def test_what_is_wrong_is_said_with_what_to_do(paneled: Callable[..., Lab], case: str) -> None:
    """Each refusal has a title and a remedy; once it is mended, one click shows the list."""
    status, code, title, remedy = SAID[case]
    tab = paneled(["1"])
    _refuse(tab, status, code)
    tab.open()
    panel = Panel(tab)
    panel.show()
    panel.node.get_by_role("heading", name=title).wait_for()
    panel.node.get_by_text(remedy).first.wait_for()
    panel.shot(case)
    tab.page.unroute("**/notebook-agents/api/**")
    panel.node.get_by_role("button", name="Try again").click()
    panel.node.get_by_role("heading", name="No conversations yet").wait_for()


def test_two_versions_are_told_apart(paneled: Callable[..., Lab]) -> None:
    """The server part of another version: which one it is, and how both become one."""
    tab = paneled(["1"])
    about = json.dumps({"version": "9.9", "api": 2})
    tab.page.route(
        "**/notebook-agents/api/about*",
        lambda route: route.fulfill(body=about, content_type="application/json"),
    )
    tab.open()
    panel = Panel(tab)
    panel.show()
    panel.node.get_by_text("notebook-agents 9.9").wait_for()
    panel.shot("1-versions")


def test_offline_what_was_there_stays_readable(paneled: Callable[..., Lab]) -> None:
    """The server goes away: a line says so, the list stays; it comes back by itself."""
    tab = paneled([TRIP, RUN])
    panel, desk = Panel(tab), Desk(tab)
    panel.show()
    desk.go()
    desk.begin()
    panel.row("our trip", "succeeded").wait_for()
    tab.page.context.set_offline(True)
    tab.page.locator(".na-panel.na-offline").wait_for()
    assert panel.row("our trip").is_visible()
    panel.shot("1-offline")
    tab.page.context.set_offline(False)
    tab.page.locator(".na-panel:not(.na-offline)").wait_for()
    panel.row("our trip", "succeeded").wait_for()


WICKED = (
    START
    + """
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

def talk(state):
    return {"said": EVIL}

def fail(state):
    raise ValueError("error " + EVIL)

graph = StateGraph(State)
graph.add_node("node " + EVIL, talk).add_node("fail", fail)
graph.add_edge(START, "node " + EVIL).add_edge("node " + EVIL, "fail")
agent = na.Agent(graph, name="agent " + EVIL)
"""
)


def test_markup_in_names_states_and_errors_is_text(paneled: Callable[..., Lab]) -> None:
    """Whoever chooses a conversation's name, a state or an error runs nothing in the panel."""
    run = "try:\n    agent.run({'said': ''}, thread='thread ' + EVIL)\nexcept ValueError:\n    pass"
    tab = paneled([WICKED, run])
    panel, desk = Panel(tab), Desk(tab)
    panel.show()
    desk.begin()
    panel.row("thread <img", "failed").wait_for()
    panel.enter("thread <img")
    for row in panel.timeline.get_by_role("treeitem").all():
        row.click()
    for more in panel.timeline.get_by_text("What it changed in the state").all():
        more.click()
    panel.timeline.get_by_text('+ "<img').first.wait_for()
    panel.timeline.get_by_text("error <img").first.wait_for()
    panel.open.get_by_role("heading", name="thread <img").wait_for()
    panel.shot("1-inert")
    panel.node.get_by_role("button", name="Delete this conversation…").click()
    panel.dialog.get_by_text("thread <img").wait_for()
    assert panel.node.locator("img, script").count() == 0
    assert panel.dialog.locator("img, script").count() == 0
    assert tab.page.evaluate("window.hacked") is None
    panel.dialog.get_by_role("button", name="Cancel").click()


def test_two_notebooks_on_one_journal_are_told_apart(paneled: Callable[..., Lab]) -> None:
    """Each notebook's conversations can be had alone; the other's Resume runs in the other."""

    def second(folder: Any) -> None:
        text = (folder / "notebook.ipynb").read_text().replace("our trip", "their trip")
        (folder / "other.ipynb").write_text(text)

    tab = paneled([TRIP, RUN], before=second)
    panel, desk = Panel(tab), Desk(tab)
    panel.show()
    desk.go()
    desk.begin()
    panel.row("our trip", "succeeded").wait_for()
    tab.notebook = tab.notebook.replace("/notebook.", "/other.")
    (desk.folder / "go").unlink()
    tab.open()
    panel.show()
    desk.begin()
    panel.row("their trip", "running").wait_for()
    desk.step("book", "running").wait_for()
    chosen = panel.node.get_by_role("combobox", name="Notebook")
    chosen.select_option(label="This notebook (other.ipynb)")
    panel.row("our trip").wait_for(state="detached")
    panel.row("their trip").wait_for()
    panel.shot("1-this-notebook")
    chosen.select_option(label="All notebooks")
    tab.kill_kernel()
    desk.go()
    panel.row("their trip", "stopped").get_by_role("button", name="Resume").click()
    panel.row("their trip", "succeeded").wait_for()
    panel.row("our trip", "succeeded").wait_for()
    assert desk.effects().count("thank") == 2


def test_the_panel_in_both_themes_and_for_a_screen_reader(paneled: Callable[..., Lab]) -> None:
    """Names and roles tell what the picture tells; the palette has what the buttons do."""
    tab = paneled([TRIP, RUN])
    panel, desk = Panel(tab), Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    panel.show()
    grid = panel.node.get_by_role("grid", name="conversations")
    row = grid.get_by_role("row").filter(has_text="our trip")
    row.wait_for()
    assert row.get_attribute("aria-rowindex") == "1"
    assert [one.get_attribute("role") for one in row.locator("> *").all()] == ["gridcell"] * 2
    tab.kill_kernel()
    panel.row("our trip", "stopped").wait_for()
    panel.enter("our trip")
    panel.shot("1-light")
    tab.theme("Dark")
    panel.shot("2-dark")
    panel.back()
    panel.shot("3-dark-list")
    tab.theme("Light")
    tab.page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:activate-command-palette')"
    )
    tab.page.get_by_placeholder("SEARCH", exact=True).fill("agent")
    palette = tab.page.locator("#modal-command-palette, .lm-CommandPalette")
    for label in ("Show Agents", "Resume Agent"):
        palette.get_by_text(label).first.wait_for()
    panel.shot("4-palette")
