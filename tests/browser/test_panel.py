"""What people see and do in the side panel: each test is one person's story."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .panels import Panel
from .people import START, TRIP, Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab

RUN = "agent.run({'said': 'a trip'}, thread='our trip').value['said']"


def _shown(tab: Lab) -> tuple[Panel, Desk]:
    panel = Panel(tab)
    panel.show()
    return panel, Desk(tab)


def test_the_first_run_appears_and_its_steps_are_live(paneled: Callable[..., Lab]) -> None:
    """Nothing yet: how to begin. Then a run: its row, its steps as they happen, its end."""
    panel, desk = _shown(paneled([TRIP, RUN]))
    panel.node.get_by_text("No conversations yet").wait_for()
    panel.shot("1-none")
    desk.begin()
    panel.row("our trip", "running").wait_for()
    panel.shot("2-listed")
    panel.enter("our trip")
    panel.step("search", "returned").wait_for()
    panel.step("book", "running").wait_for()
    panel.open.get_by_text("kernel alive").wait_for()
    panel.shot("3-running")
    desk.go()
    panel.status("succeeded").wait_for()
    panel.step("thank", "returned").wait_for()
    panel.shot("4-succeeded")
    panel.back()
    panel.row("our trip", "succeeded").wait_for()
    panel.calling(None).wait_for(state="detached")


def test_a_kernel_killed_in_mid_graph_is_badged_and_resumed_in_the_panel(
    paneled: Callable[..., Lab],
) -> None:
    """SIGKILL, badge, what is safe, Resume, finished; nothing that returned ran again."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.begin()
    panel.row("our trip", "running").wait_for()
    desk.step("book", "running").wait_for()
    tab.kill_kernel()
    panel.calling(1).wait_for()
    panel.row("our trip", "stopped").wait_for()
    panel.shot("1-badge")
    panel.enter("our trip")
    panel.open.get_by_text("kernel gone, 1 of 2 steps safe").wait_for()
    panel.shot("2-gone")
    desk.go()
    panel.button("Resume").click()
    panel.status("succeeded").wait_for()
    panel.step("search", "returned, replayed").wait_for()
    desk.status("succeeded").wait_for()  # under the cell, too
    panel.shot("3-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]
    panel.back()
    panel.row("our trip", "succeeded").wait_for()
    panel.calling(None).wait_for(state="detached")


def test_resume_opens_a_notebook_that_is_closed(paneled: Callable[..., Lab]) -> None:
    """The notebook and its kernel are gone; one click in the list opens both and goes on."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.begin()
    panel.row("our trip", "running").wait_for()
    desk.step("book", "running").wait_for()
    tab.save()
    tab.page.evaluate(
        """async () => {
            const panel = window.jupyterapp.shell.currentWidget;
            await panel.sessionContext.shutdown();
            panel.dispose();
        }"""
    )
    row = panel.row("our trip", "stopped")
    row.wait_for()
    panel.shot("1-closed")
    desk.go()
    row.get_by_role("button", name="Resume").click()
    panel.row("our trip", "succeeded").wait_for()
    panel.shot("2-opened")
    desk.status("succeeded").wait_for()
    assert desk.effects() == ["search", "book", "book", "thank"]


def test_stop_in_the_panel_ends_a_blocking_cell(paneled: Callable[..., Lab]) -> None:
    """A step sleeps for minutes: Stop in the list reaches the busy kernel; Resume finishes."""
    trip = TRIP.replace('until("go")', "pathlib.Path('go').exists() or time.sleep(600)")
    tab = paneled([trip, RUN])
    panel, desk = _shown(tab)
    desk.begin()
    row = panel.row("our trip", "running")
    desk.step("book", "running").wait_for()
    row.get_by_role("button", name="Stop").click()
    tab.done(1)
    panel.shot("1-stopped")
    desk.go()
    panel.row("our trip").get_by_role("button", name="Resume").click()
    panel.row("our trip", "succeeded").wait_for()


OFFICE = (
    START
    + """
from langgraph.types import interrupt

def ask(state):
    request = {"name": "send_email", "args": {"to": "ann@example.com"}, "description": "Send it."}
    config = {"action_name": "send_email", "allowed_decisions": ["approve", "edit", "reject"]}
    answer = interrupt({"action_requests": [request], "review_configs": [config]})
    note(str(answer["decisions"][0]))
    return {"said": "asked"}

graph = StateGraph(State).add_node(ask).add_edge(START, "ask")
agent = na.Agent(graph, name="office")
"""
)


def test_what_an_agent_asks_is_approved_edited_and_rejected_in_the_panel(
    paneled: Callable[..., Lab],
) -> None:
    """Three conversations wait for a person; each is answered, and goes on in the notebook."""
    names = ("yes", "other", "no")
    asks = "\n".join(f"agent.run({{'said': ''}}, thread='mail {name}')" for name in names)
    tab = paneled([OFFICE, asks])
    panel, desk = _shown(tab)
    desk.begin()
    tab.done(1)
    panel.calling(3).wait_for()
    panel.node.get_by_role("radio", name="Needs you 3").wait_for()
    panel.shot("1-waiting")
    panel.row("mail yes").get_by_role("button", name="Answer").click()
    panel.button("Approve").wait_for()
    panel.shot("2-asked")
    panel.button("Approve").click()
    panel.status("succeeded").wait_for()
    panel.back()
    panel.enter("mail other")
    panel.button("Edit").click()
    field = panel.timeline.get_by_label("Arguments, as JSON")
    field.fill('{"to": "bob@example.com"}')
    panel.shot("3-editing")
    panel.button("Send").click()
    panel.status("succeeded").wait_for()
    panel.back()
    panel.enter("mail no")
    panel.button("Reject").click()
    panel.timeline.get_by_label("Reason").fill("not today")
    panel.button("Send").click()
    panel.status("succeeded").wait_for()
    yes, other, no = desk.effects()
    assert yes == "{'type': 'approve'}"
    assert "bob@example.com" in other
    assert no == "{'type': 'reject', 'message': 'not today'}"
    panel.back()
    panel.calling(None).wait_for(state="detached")


CHARGE = (
    START
    + """
import os, signal

@na.step(at_most_once=True)
def charge(who):
    note("charge " + who)
    until("never")
    return "receipt"

def pay(state):
    return {"said": charge("ann")}

graph = StateGraph(State).add_node(pay).add_edge(START, "pay")
agent = na.Agent(graph, name="shop")
"""
)


def test_a_step_in_doubt_is_resolved_in_the_panel(paneled: Callable[..., Lab]) -> None:
    """A charge may have happened: the run waits for somebody who knows, and takes their word."""
    tab = paneled([CHARGE, "agent.run({'said': ''}, thread='the sale').value['said']"])
    panel, desk = _shown(tab)
    desk.begin()
    desk.step("charge", "running").wait_for()
    tab.kill_kernel()
    row = panel.row("the sale")
    row.get_by_text("stopped").wait_for()
    row.get_by_role("button", name="Resume").click()
    panel.row("the sale", "in doubt").wait_for()
    panel.enter("the sale")
    panel.timeline.get_by_text("Did it happen?").wait_for()
    panel.shot("1-doubt")
    panel.timeline.get_by_label("What it returned, as JSON").fill('"receipt 7"')
    panel.button("It happened").click()
    panel.button("Resume").click()
    panel.status("succeeded").wait_for()
    panel.shot("2-resolved")
    assert desk.effects() == ["charge ann"]


def test_a_fork_shares_the_past_and_goes_on_by_itself(paneled: Callable[..., Lab]) -> None:
    """From a step's row: its state as a diff, its key, and a fork that runs from there on."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.go()
    desk.begin()
    tab.done(1)
    panel.enter("our trip", "succeeded")
    panel.step("book", "returned").click()
    panel.timeline.get_by_text("What it changed in the state").click()
    panel.timeline.get_by_text('+ "a trip, found, booked"').wait_for()
    panel.timeline.get_by_text('- "a trip, found"').wait_for()
    panel.shot("1-changes")
    panel.button("Fork from here").click()
    panel.open.get_by_text("Forked from our trip").wait_for()
    panel.shot("2-forked")
    panel.button("Resume").click()
    panel.status("succeeded").wait_for()
    panel.shot("3-finished")
    assert desk.effects() == ["search", "book", "thank", "book", "thank"]
    panel.back()
    panel.row("succeeded").nth(1).wait_for()


def test_a_conversation_is_deleted_when_a_person_says_so_twice(
    paneled: Callable[..., Lab],
) -> None:
    """Delete asks; Cancel keeps it; agreed, it is gone here and in another tab, and compacted."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.go()
    desk.begin()
    tab.done(1)
    panel.enter("our trip", "succeeded")
    delete = panel.node.get_by_role("button", name="Delete this conversation…")
    delete.click()
    panel.dialog.get_by_text("deleted for good").wait_for()
    panel.shot("1-asked")
    panel.dialog.get_by_role("button", name="Cancel").click()
    panel.dialog.wait_for(state="detached")
    assert panel.open.count() == 1
    delete.click()
    panel.dialog.get_by_role("button", name="Delete").click()
    panel.node.get_by_text("No conversation yet").wait_for()
    panel.shot("2-gone")
    panel.node.get_by_role("button", name="Compact").click()
    panel.dialog.get_by_text("Compact the journal?").wait_for()
    panel.shot("3-compact")
    panel.dialog.get_by_role("button", name="Compact").click()
    panel.dialog.wait_for(state="detached")
    panel.node.locator(".na-footer .na-said").filter(has_text="compact").wait_for()
    panel.shot("4-compacted")


def test_a_run_in_progress_is_live_again_after_a_reload(paneled: Callable[..., Lab]) -> None:
    """The page is loaded again in mid-run: the record under the cell and the panel go on."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.save()
    tab.open(busy=True)
    panel.show()
    desk.step("book", "running").wait_for()
    panel.enter("our trip", "running")
    panel.step("book", "running").wait_for()
    panel.shot("1-reloaded")
    desk.go()
    desk.status("succeeded").wait_for()
    panel.status("succeeded").wait_for()
    panel.shot("2-succeeded")
    assert desk.timeline.count() == 1
    assert "widget" not in desk.output.inner_text()


def test_a_record_works_after_a_kernels_death_and_a_reload(paneled: Callable[..., Lab]) -> None:
    """Killed, loaded again: the record says what is safe, and its own Resume finishes."""
    tab = paneled([TRIP, RUN])
    desk = Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.save()
    tab.kill_kernel()
    tab.open()
    desk.status("stopped").wait_for()
    desk.shot("1-reloaded")
    desk.go()
    desk.button("Resume").click()
    desk.status("succeeded").wait_for()
    desk.step("search", "returned, replayed").wait_for()
    desk.timeline.get_by_text("Answer: ").wait_for()
    desk.shot("2-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]
    tab.save()
    tab.open()
    desk.status("succeeded").wait_for()


def test_two_tabs_on_one_notebook_say_the_same(
    paneled: Callable[..., Lab], extended: object
) -> None:
    """Begun in one tab, seen in the other, resumed there, seen in the first."""
    tab = paneled([TRIP, RUN])
    panel, desk = _shown(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.save()
    other = paneled.again(tab)  # type: ignore[attr-defined]
    second = Panel(other)
    second.show()
    second.enter("our trip", "running")
    second.step("book", "running").wait_for()
    Desk(other).step("book", "running").wait_for()
    tab.kill_kernel()
    second.status("stopped").wait_for()
    second.shot("1-second")
    desk.go()
    if second.dialog.count():
        other.page.keyboard.press("Enter")
    second.button("Resume").click()
    second.status("succeeded").wait_for()
    panel.row("our trip", "succeeded").wait_for()
    desk.status("succeeded").wait_for()
    panel.shot("2-first")
    Desk(other).status("succeeded").wait_for()
    assert desk.effects() == ["search", "book", "book", "thank"]
