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
    assert desk.output.get_by_text("thread: ").count() == 0  # the timeline names it already
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
    desk.step("ask", "returned, answered").wait_for()  # and no "2 attempts"
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
    desk.timeline.get_by_text("1 step returned: it is kept").wait_for()
    desk.timeline.get_by_text("1 step may or may not have happened: book").wait_for()
    desk.shot("1-gone")
    desk.go()
    desk.button("Resume").click()
    desk.status("succeeded").wait_for()
    desk.step("search", "returned, replayed").wait_for()
    desk.shot("2-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]
    desk.timeline.get_by_text("Answer: ").wait_for()
    tab.save()
    tab.open()
    desk.output.get_by_text("succeeded").wait_for()
    desk.shot("3-reloaded")


def test_what_a_killed_kernel_left_is_readable_after_a_reload_and_goes_on(
    lab: Callable[..., Lab],
) -> None:
    """Kernel killed, page loaded again: what stood there, and the call that finishes it."""
    resume = "import notebook_agents as na\nna.resume().value['said']"
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']", resume])
    desk = Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.save()
    tab.kill_kernel()
    tab.open()
    desk.shot("1-reloaded")
    desk.output.get_by_text("na.resume(").wait_for()
    shown = desk.output.inner_text()
    assert "model not found" not in shown
    assert "Loading widget" not in shown
    desk.go()
    resumed = Desk(tab, 2)
    tab.run(2)
    resumed.output.get_by_text("a trip, found, booked, thanks").wait_for()
    resumed.status("succeeded").wait_for()
    resumed.shot("2-resumed")
    assert desk.effects() == ["search", "book", "book", "thank"]


def test_a_reload_in_mid_run_shows_the_run_again(lab: Callable[..., Lab]) -> None:
    """The page is loaded again while the cell runs, and again when it has ended."""
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.begin()
    desk.step("book", "running").wait_for()
    tab.save()
    tab.open(busy=True)
    desk.output.get_by_text("na.resume(").wait_for()
    assert "Loading widget" not in desk.output.inner_text()
    old = desk.output.get_by_text("As it stood at")  # it says that it is a record
    assert old.is_visible()
    desk.shot("1-running")
    desk.go()
    desk.status("succeeded").wait_for()
    assert not old.is_visible()
    desk.shot("2-succeeded")
    tab.save()
    tab.open()
    desk.step("thank", "returned").wait_for()
    desk.shot("3-afterwards")


def test_a_finished_run_is_shown_without_its_kernel(lab: Callable[..., Lab]) -> None:
    """The notebook is opened another day: its run stands there as it ended."""
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.go()
    desk.begin()
    desk.status("succeeded").wait_for()
    tab.done(1)
    tab.save()
    tab.kill_kernel()
    tab.open()
    desk.output.get_by_text("thank", exact=True).wait_for()
    desk.output.get_by_text("succeeded").wait_for()
    assert desk.timeline.count() == 0
    assert "widget" not in desk.output.inner_text()
    desk.shot("1-record")
    tab.theme("Dark")
    desk.shot("2-dark")
    tab.theme("Light")  # it is the server's setting


WICKED = (
    START
    + """
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

def call(said):
    return {"result": EVIL}

call.__name__ = call.__qualname__ = "call " + EVIL
call = na.step(call)

def talk(state):
    call("argument " + EVIL)
    return {"said": EVIL}

def fail(state):
    raise ValueError("error " + EVIL)

graph = StateGraph(State)
graph.add_node("node " + EVIL, talk).add_node("fail", fail)
graph.add_edge(START, "node " + EVIL).add_edge("node " + EVIL, "fail")
agent = na.Agent(graph, name="agent " + EVIL)
"""
)


def test_markup_in_names_results_and_errors_is_text(lab: Callable[..., Lab]) -> None:
    """Whoever chooses a thread's name, an argument or an error runs nothing in the page."""
    run = (
        "try:\n    agent.run({'said': EVIL}, thread='thread ' + EVIL)\nexcept ValueError:\n    pass"
    )
    tab = lab([WICKED, run])
    desk = Desk(tab)
    desk.begin()
    desk.status("failed").wait_for()
    for row in desk.timeline.get_by_role("treeitem").all():
        row.click()
    for shown in ("agent <img", "thread <img", "node <img", "call <img", "argument <img"):
        desk.timeline.get_by_text(shown).first.wait_for()
    desk.timeline.get_by_text("error <img").first.wait_for()
    desk.timeline.get_by_text("{'result': '<img").first.wait_for()
    desk.shot("1-inert")
    tab.done(1)
    saved = tab.save()
    assert desk.output.locator("img, script").count() == 0
    assert tab.page.evaluate("window.hacked") is None
    data = next(out.data for out in saved.cells[1].outputs if "text/html" in out.get("data", {}))
    tab.page.goto("about:blank")  # and where nothing is sanitized, as on a page of nbconvert's
    tab.page.set_content(data["text/html"])
    tab.page.get_by_text("thread <img").first.wait_for()
    assert tab.page.locator("img, script").count() == 0
    assert tab.page.evaluate("window.hacked") is None
    tab.shot("2-html")


MANY = """\
from notebook_agents.ui.widget import TimelineWidget
at = "2026-01-01T10:00:00.000+00:00"
def step(number, parent=None):
    attempt = {"number": 1, "outcome": "returned", "started": at, "seconds": 0.25,
               "error": None, "why": None}
    return {"id": f"s{number}", "parent": parent, "name": f"step {number}", "state": "returned",
            "replayed": number % 7 == 0, "attempts": [attempt], "started": at, "seconds": 0.25,
            "tokens": 12, "cost": None, "args": f"({number},)", "result": "None",
            "key": "na-x", "decisions": [], "undecided": False}
steps = [step(n, None if n % 10 == 1 else f"s{n - (n - 1) % 10}") for n in range(1, 10_001)]
counts = {"steps": 10_000, "returned": 10_000, "in_doubt": 0}
state = {"v": 1, "thread": "long", "run": 1, "agent": "crawl", "status": "succeeded",
         "told": "10000 steps returned", "error": None, "next": None, "usage": None,
         "spared": None, "stored": False, "started": at, "ended": at, "processes": 1,
         "driver": None, "journal": None, "counts": counts, "steps": steps, "interrupts": [],
         "cut": 0}
"""


def test_ten_thousand_steps_are_walked_by_keyboard(lab: Callable[..., Lab]) -> None:
    """Home, End, arrows and scrolling reach every row, and few are in the page at a time."""
    show = "TimelineWidget(state, current=lambda: state, asked=lambda asked: {'ok': True})"
    tab = lab([MANY, show])
    desk = Desk(tab)
    desk.begin()
    tree = desk.timeline.get_by_role("tree", name="steps of crawl, thread long")
    rows = tree.get_by_role("treeitem")
    desk.step("step 1", "returned").wait_for()
    assert rows.count() < 200
    tree.focus()
    tab.page.keyboard.press("End")
    last = desk.step("step 10000", "returned")
    last.wait_for()
    assert last.get_attribute("aria-selected") == "true"
    assert rows.count() < 200
    desk.shot("1-end")
    tab.page.keyboard.press("ArrowUp")
    above = desk.step("step 9999", "returned")
    assert tree.get_attribute("aria-activedescendant") == above.get_attribute("id")
    outline = above.evaluate("row => getComputedStyle(row).outlineStyle")
    assert outline == "solid"
    tab.page.keyboard.press("Home")
    first = desk.step("step 1", "returned")
    first.wait_for()
    tab.page.keyboard.press("ArrowLeft")
    assert first.get_attribute("aria-expanded") == "false"
    tab.page.keyboard.press("ArrowDown")
    assert desk.step("step 11", "returned").get_attribute("aria-selected") == "true"
    assert "jp-mod-selected" in (tab.cell(1).get_attribute("class") or "")  # not JupyterLab's keys
    scroller = desk.timeline.locator(".nat-scroller")
    most = scroller.evaluate(
        """async scroller => {
            const frame = () => new Promise(requestAnimationFrame);
            const made = new Set();
            let most = 0;
            for (let top = 0; top < scroller.scrollHeight; top += scroller.scrollHeight / 50) {
                scroller.scrollTop = top;
                await frame();
                await frame();
                const rows = [...scroller.querySelectorAll('[role=treeitem]')];
                const { top: above, bottom } = scroller.getBoundingClientRect();
                const middle = (above + bottom) / 2;
                const covered = rows.some(row => {
                    const box = row.getBoundingClientRect();
                    return box.top <= middle && box.bottom >= middle;
                });
                if (!covered) throw new Error(`nothing is drawn at ${top}`);
                for (const row of rows) {  // a row's element is used again: it says what it is now
                    const number = Number(row.querySelector('.nat-label').textContent.slice(5));
                    const place = number === 1 ? 0 : number - 10;  // step 1 is folded
                    if (row.parentNode.offsetTop !== 28 * place) throw new Error(row.textContent);
                }
                most = Math.max(most, rows.length);
                for (const row of rows) made.add(row);
            }
            if (made.size > 200) throw new Error(`${made.size} elements were made`);
            return most;
        }"""
    )
    assert most < 200
    tab.page.get_by_role("searchbox", name="Filter steps").fill("7777")
    desk.step("step 7777", "returned").wait_for()
    assert rows.count() == 2
    desk.shot("2-filtered")


ROLES = (
    START
    + """
@na.step
def fetch(page):
    return {"page": page, "title": "A rather long title of a page that does not fit into a row"}

def read(state):
    for page in range(3):
        fetch(page)
    return {"said": "read"}

def write(state):
    raise OSError("the disk is full")

graph = StateGraph(State).add_sequence([read, write]).add_edge(START, "read")
agent = na.Agent(graph, name="digest")
"""
)


def test_light_dark_narrow_and_for_a_screen_reader(lab: Callable[..., Lab]) -> None:
    """Every theme and width shows the same; names and roles tell it without a screen."""
    run = "try:\n    agent.run({'said': ''}, thread='pages')\nexcept OSError:\n    pass"
    tab = lab([ROLES, run])
    desk = Desk(tab)
    desk.begin()
    desk.status("failed").wait_for()
    tree = desk.timeline.get_by_role("tree", name="steps of digest, thread pages")
    read = tree.get_by_role("treeitem", name="read, returned", expanded=True)
    assert read.get_attribute("aria-level") == "1"
    fetched = tree.get_by_role("treeitem", name="fetch, returned")
    assert [row.get_attribute("aria-level") for row in fetched.all()] == ["2", "2", "2"]
    assert [row.get_attribute("aria-posinset") for row in fetched.all()] == ["1", "2", "3"]
    assert desk.timeline.get_by_role("button").all_inner_texts() == ["Resume"]
    live = desk.timeline.locator("[aria-live=polite]")
    assert live.inner_text() == "digest, thread pages: failed"
    assert desk.timeline.get_by_role("status").count() == 1
    tree.focus()
    for key in ("Home", "ArrowRight", "ArrowDown", "Enter"):
        tab.page.keyboard.press(key)
    desk.timeline.get_by_role("group", name="details of fetch").get_by_text(
        "A rather long"
    ).wait_for()
    desk.shot("1-light")
    tab.theme("Dark")
    desk.shot("2-dark")
    tab.narrow(480)
    desk.shot("3-dark-narrow")
    tab.theme("Light")
    desk.shot("4-narrow")
    tab.shot("5-page")
    for box in (desk.timeline, desk.timeline.locator(".nat-scroller")):
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
