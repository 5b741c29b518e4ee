"""What people see and do under a cell: each test is one person's story.

What they wait for stands on the screen; pictures lie in bench-out/screens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .people import START, TRIP, Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab


def test_a_tree_grows_while_the_cell_runs_and_the_same_cell_answers_at_once(
    lab: Callable[..., Lab],
) -> None:
    """First run: steps appear as they run; second run: the recorded answer, marked so."""
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.begin()
    desk.step("search", "returned").wait_for()
    desk.step("book", "running").wait_for()
    desk.status("running").wait_for()
    desk.shot("1-running")
    desk.go()
    desk.status("succeeded").wait_for()
    desk.step("thank", "returned").wait_for()
    desk.output.get_by_text("a trip, found, booked, thanks").wait_for()
    assert desk.timeline.count() == 1
    desk.shot("2-succeeded")
    tab.done(1)
    tab.run(1)
    tab.done(1)
    desk.output.get_by_text("a trip, found, booked, thanks").wait_for()
    desk.status("succeeded").wait_for()
    desk.shot("3-again")
    desk.timeline.get_by_text("stored answer").wait_for()
    assert desk.effects() == ["search", "book", "thank"]


def test_stop_ends_a_blocking_cell_and_resume_finishes_it(lab: Callable[..., Lab]) -> None:
    """A step sleeps for a minute; Stop ends it, Resume finishes."""
    trip = TRIP.replace('until("go")', "pathlib.Path('go').exists() or time.sleep(600)")
    tab = lab([trip, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    desk.button("Stop").click()
    tab.done(1)
    desk.button("Resume").wait_for()
    desk.shot("1-stopped")
    desk.go()
    desk.button("Resume").click()
    desk.status("succeeded").wait_for()
    desk.shot("2-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]


ASKING = (
    START
    + """
from langgraph.types import interrupt

def ask(state):
    return {"said": interrupt("Which city do you want to fly to?")}

def book(state):
    note("book " + state["said"])
    return {"said": "booked: " + state["said"]}

graph = StateGraph(State).add_sequence([ask, book]).add_edge(START, "ask")
agent = na.Agent(graph, name="trip")
"""
)


def test_a_question_is_answered_under_the_cell(lab: Callable[..., Lab]) -> None:
    """The question stands there, an answer is typed and sent, the run goes on with it."""
    tab = lab([ASKING, "agent.run({'said': ''})"])
    desk = Desk(tab)
    desk.begin()
    form = desk.timeline.get_by_role("group", name="ask asks")
    form.get_by_text("Which city do you want to fly to?").wait_for()
    desk.shot("1-asked")
    form.get_by_label("Your answer").fill("Tromsø")
    form.get_by_role("button", name="Answer").click()
    desk.status("succeeded").wait_for()
    desk.shot("2-answered")
    assert desk.effects() == ["book Tromsø"]


REVIEWED = (
    START
    + """
from langgraph.types import interrupt

ASKED = {
    "action_requests": [{
        "name": "send_email",
        "args": {"to": "ann@example.com", "subject": "Your trip"},
        "description": "Tool execution requires approval",
    }],
    "review_configs": [
        {"action_name": "send_email", "allowed_decisions": ["approve", "edit", "reject"]},
    ],
}

def review(state):
    return {"said": str(interrupt(ASKED)["decisions"][0])}

def send(state):
    note(state["said"])
    return {}

graph = StateGraph(State).add_sequence([review, send]).add_edge(START, "review")
agent = na.Agent(graph, name="mail")
"""
)


def test_a_tool_call_is_approved_rejected_or_edited(lab: Callable[..., Lab]) -> None:
    """What LangChain's human-in-the-loop middleware asks is decided with the arguments in view."""
    runs = [f"agent.run({{'said': ''}}, thread='{name}')" for name in ("yes", "no", "edited")]
    tab = lab([REVIEWED, *runs])
    tab.run(0)
    tab.done(0)
    approving, rejecting, editing = (Desk(tab, number) for number in (1, 2, 3))
    for number in (1, 2, 3):
        tab.run(number)
    approving.timeline.get_by_text("send_email").wait_for()
    shown = approving.timeline.get_by_label("Arguments, as JSON").input_value()
    assert '"ann@example.com"' in shown
    approving.shot("1-asked")
    approving.button("Approve").click()
    approving.status("succeeded").wait_for()
    rejecting.button("Reject").click()
    rejecting.timeline.get_by_label("Reason").fill("not today")
    rejecting.shot("2-rejecting")
    rejecting.button("Send").click()
    rejecting.status("succeeded").wait_for()
    editing.button("Edit").click()
    editing.timeline.get_by_label("Arguments, as JSON").fill('{"to": "bob@example.com"')
    editing.button("Send").click()
    editing.timeline.get_by_text("this is no JSON").wait_for()
    editing.shot("3-editing")
    editing.timeline.get_by_label("Arguments, as JSON").fill('{"to": "bob@example.com"}')
    editing.button("Send").click()
    editing.status("succeeded").wait_for()
    approved, rejected, edited = approving.effects()
    assert approved == "{'type': 'approve'}"
    assert rejected == "{'type': 'reject', 'message': 'not today'}"
    assert "bob@example.com" in edited
    editing.shot("4-edited")


def test_a_killed_kernel_is_told_and_one_click_finishes_in_the_fresh_one(
    lab: Callable[..., Lab],
) -> None:
    """Under the cell: the kernel is gone, what is safe, what is in doubt, and Resume."""
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.kill_kernel()
    desk.status("its kernel is gone").wait_for()
    desk.timeline.get_by_text("1 step returned: they are kept").wait_for()
    desk.timeline.get_by_text("1 step may or may not have happened: book").wait_for()
    desk.shot("1-gone")
    desk.go()
    desk.button("Resume").click()
    desk.status("succeeded").wait_for()
    desk.step("search", "returned, replayed").wait_for()
    desk.shot("2-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]
