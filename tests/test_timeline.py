"""The timeline: what its text, its HTML and its sentence promise about a run."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import escape
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from notebook_agents.ids import digest_id, idempotency_key
from notebook_agents.model import (
    Attempt,
    Decision,
    Interrupt,
    Outcome,
    Proof,
    RunStatus,
    RunView,
    Said,
    Step,
)
from notebook_agents.runtime.timeline import (
    advice,
    clean,
    duration,
    status_text,
    summary,
    to_html,
    to_text,
)

START = datetime(2026, 11, 20, 14, 2, 11, tzinfo=UTC)
DOUBT = "in doubt: started by process 1, never returned; run again with the same key"


def attempt(
    number: int = 1,
    *,
    session: int = 1,
    at: float = 0.0,
    seconds: float | None = 0.5,
    outcome: Outcome = Outcome.RETURNED,
    error: str | None = None,
    proof: Proof | None = None,
) -> Attempt:
    """Make an attempt that began `at` seconds into the run."""
    started = START + timedelta(seconds=at)
    ended = None if seconds is None else started + timedelta(seconds=seconds)
    return Attempt(
        number=number,
        session=session,
        started=started,
        ended=ended,
        outcome=outcome,
        error=error,
        proof=proof,
    )


def step(
    name: str,
    *attempts: Attempt,
    parent: Step | None = None,
    replayed: bool = False,
    number: int = 0,
) -> Step:
    """Make a step; `number` tells apart those of one name."""
    parent_id = parent.id if parent else None
    step_id = digest_id(name, str(number), parent_id or "")
    return Step(
        id=step_id,
        name=name,
        parent=parent_id,
        namespace="",
        attempts=attempts or (attempt(),),
        replayed=replayed,
        key=idempotency_key(step_id),
    )


def view(*steps: Step, status: RunStatus = RunStatus.SUCCEEDED, **changes: object) -> RunView:
    """Make a run of one process that took three seconds."""
    values: dict[str, object] = {
        "thread": "audit-calm-river-3f9a",
        "number": 1,
        "agent": "audit",
        "status": status,
        "steps": steps,
        "sessions": 1,
        "started": START,
        "ended": START + timedelta(seconds=3),
    }
    return RunView(**(values | changes))  # type: ignore[arg-type]


def uncertain(**changes: object) -> Attempt:
    """Make an attempt of which nothing was recorded."""
    return attempt(seconds=None, outcome=Outcome.UNCERTAIN, **changes)  # type: ignore[arg-type]


def failed(message: str, **changes: object) -> Attempt:
    """Make an attempt that raised."""
    return attempt(outcome=Outcome.FAILED, error=message, **changes)  # type: ignore[arg-type]


def line_of(text: str, name: str) -> str:
    """Return the first line that has `name`."""
    return next(line for line in text.splitlines() if name in line)


class Reader(HTMLParser):
    """Collects what an HTML reader sees, and every tag and attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.rows: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.rows:
            self.rows[-1] += f" {data}"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-0.1, "0 ms"),
        (0.0004, "0 ms"),
        (0.42, "420 ms"),
        (0.9996, "1.0 s"),
        (3.24, "3.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 05 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_well_on_every_scale(seconds: float, said: str) -> None:
    """A duration has the units and digits that a person would use."""
    assert duration(seconds) == said


def test_summary_says_what_was_saved() -> None:
    """Replayed steps and the time they took are one sentence."""
    steps = [
        step("inspect", attempt(seconds=64.0), replayed=True, number=number) for number in range(3)
    ]
    assert summary(view(*steps)) == "3 steps replayed: 3 min 12 s not spent again"


def test_summary_counts_a_replayed_step_with_its_calls_once() -> None:
    """The time of a call inside a replayed node is not counted a second time."""
    node = step("inspect", attempt(seconds=2.0), replayed=True)
    call = step("measure", attempt(seconds=1.5), parent=node, replayed=True)
    assert summary(view(node, call)) == "1 step replayed: 2.0 s not spent again"


def test_summary_counts_replayed_calls_of_a_node_that_ran_again() -> None:
    """Durable calls save time even where the node around them has to run again."""
    node = step("inspect", uncertain(), attempt(2, session=2))
    calls = [
        step("measure", attempt(seconds=2.0), parent=node, replayed=True, number=number)
        for number in range(2)
    ]
    assert summary(view(node, *calls)) == "2 steps replayed: 4.0 s not spent again"


def test_summary_of_a_first_run_counts_what_returned() -> None:
    """Without a replay the sentence says how far the run is."""
    running = attempt(seconds=None, outcome=Outcome.RUNNING)
    unfinished = view(step("a"), step("b", running), status=RunStatus.RUNNING, ended=None)
    assert summary(unfinished) == "1 of 2 steps returned"
    assert summary(view(step("a"))) == "1 step returned"


def test_summary_of_a_stored_answer_says_that_nothing_ran() -> None:
    """A stored answer is never mistaken for a run."""
    assert summary(view(step("a"), stored=True)) == "the stored answer was given: nothing was run"


def test_header_names_the_run() -> None:
    """Agent, thread, run, status, processes, time and start stand above the steps."""
    text = to_text(view(step("a"), number=4, sessions=2))
    assert text.splitlines()[0] == "audit · thread audit-calm-river-3f9a · run 4 · ✓ succeeded"
    assert text.splitlines()[1].startswith("2 processes · 3.0 s · started 2026-11-2")


def test_total_time_of_a_run_under_way_ends_with_its_newest_record() -> None:
    """Without an end the time is what the records know, and said to be so far."""
    running = view(step("a", attempt(at=1.0)), status=RunStatus.RUNNING, ended=None)
    assert "1 process · 1.5 s so far" in to_text(running)


def test_a_step_has_state_attempts_time_and_replay_on_its_line() -> None:
    """Every column of a step is on one line, in words."""
    text = to_text(view(step("plan", attempt(seconds=1.2), replayed=True)))
    assert line_of(text, "plan").split() == ["✓", "returned", "plan", "1", "1.2", "s", "replayed"]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.RUNNING, "▸ running"),
        (Outcome.RETURNED, "✓ returned"),
        (Outcome.FAILED, "✗ failed"),
        (Outcome.SUSPENDED, "‖ waiting"),
        (Outcome.UNCERTAIN, "? in doubt"),
        (Outcome.LATE, "~ late"),
    ],
)
def test_every_outcome_is_a_glyph_and_a_word(outcome: Outcome, said: str) -> None:
    """No state is told by its colour alone."""
    one = view(step("plan", attempt(outcome=outcome)), status=RunStatus.RUNNING)
    assert line_of(to_text(one), "plan").startswith(said)
    assert said.replace(" ", "\xa0", 1) in Reader(to_html(one)).text


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_is_a_glyph_and_a_word(status: RunStatus) -> None:
    """A run in any status can be shown."""
    word = "stopped" if status is RunStatus.ORPHANED else status.replace("_", " ")
    assert word in status_text(status)
    assert status_text(status) in to_text(view(status=status)).splitlines()[0]


def test_durable_calls_stand_below_their_node() -> None:
    """The tree shows which call belongs to which node, however they interleaved."""
    first, second = step("inspect", number=1), step("inspect", number=2)
    calls = [step("measure", parent=second), step("weigh", parent=first)]
    lines = to_text(view(first, second, *calls)).splitlines()
    tree = [line.split()[2:4] for line in lines if line.startswith("✓")]
    assert tree == [["inspect", "1"], ["└", "weigh"], ["inspect", "1"], ["└", "measure"]]


def test_a_call_whose_node_is_unknown_is_still_shown() -> None:
    """No step is lost for want of its parent."""
    orphan = step("measure", parent=step("gone"))
    assert "measure" in to_text(view(orphan))


def test_a_step_that_was_in_doubt_says_why_it_ran_again() -> None:
    """The reader learns which process left it and that the key was the same."""
    text = to_text(view(step("pay", uncertain(), attempt(2, session=2))), width=120)
    assert DOUBT in text
    assert "1 step was in doubt" in text


def test_a_doubt_is_told_once_at_the_call_that_had_it() -> None:
    """The node around a doubtful call does not repeat the call's note."""
    node = step("pay", uncertain(), attempt(2, session=2))
    call = step("charge", uncertain(), attempt(2, session=2), parent=node)
    text = to_text(view(node, call), width=120)
    assert text.count(DOUBT) == 1
    assert text.index(DOUBT) > text.index("charge")
    assert "1 step was in doubt" in text


def test_a_retried_step_says_what_it_failed_with() -> None:
    """Equal failures in a row are one note with their number."""
    tries = [failed("OSError: refused", number=number) for number in (1, 2, 3)]
    text = to_text(view(step("fetch", *tries, attempt(4))), width=120)
    assert "failed in process 1: OSError: refused; run again (3 times)" in text


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (Outcome.SUSPENDED, "asked, then answered"),
        (Outcome.LATE, "started by process 1, ended after it had been given up; not used"),
    ],
)
def test_other_reasons_for_a_second_attempt_are_told(first: Outcome, said: str) -> None:
    """A second attempt is never left unexplained."""
    text = to_text(view(step("ask", attempt(outcome=first), attempt(2))), width=120)
    assert said in text


def test_a_question_and_its_answer_are_one_attempt() -> None:
    """A kill between them, or a failure, is another."""
    asked = attempt(outcome=Outcome.SUSPENDED)
    for tries, number in (((attempt(2),), 1), ((failed("OSError: x", number=2), attempt(3)), 2)):
        (row,) = to_text(view(step("ask", asked, *tries)), width=120).split("\n✓ ")[1:]
        assert re.match(rf"returned\s+ask\s+{number}\s", row), row


def test_in_a_run_that_nobody_drives_no_step_is_running() -> None:
    """A step without an end is in doubt as soon as its process is gone."""
    open_step = step("pay", attempt(seconds=None, outcome=Outcome.RUNNING))
    text = to_text(view(open_step, status=RunStatus.ORPHANED, ended=None))
    assert line_of(text, "pay").startswith("? in doubt")
    assert "1 step is in doubt" in text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (RunStatus.FAILED, "na.resume('audit-calm-river-3f9a')"),
        (RunStatus.WAITING, "na.resume('audit-calm-river-3f9a')"),
        (RunStatus.IN_DOUBT, "na.resume('audit-calm-river-3f9a')"),
        (RunStatus.ORPHANED, "na.resume('audit-calm-river-3f9a')"),
        (RunStatus.PENDING, "na.resume('audit-calm-river-3f9a')"),
    ],
)
def test_an_unfinished_run_says_what_to_do(status: RunStatus, said: str) -> None:
    """Whoever reads an unfinished run gets the call that goes on with it."""
    told = advice(view(status=status))
    assert told is not None
    assert told[1] == said
    assert "next: " in to_text(view(status=status))
    assert f"<code>{escape(said)}</code>" in to_html(view(status=status))


def test_questions_are_shown_with_how_to_answer_them() -> None:
    """What is asked stands at its step; one answer needs no id, several do."""
    asking = step("ask", attempt(outcome=Outcome.SUSPENDED))
    asked = [
        Interrupt(id=f"{n}f", value={"n": n}, step=asking.id, node="ask", namespace="")
        for n in (1, 2)
    ]
    one = view(asking, status=RunStatus.WAITING, interrupts=(asked[0],))
    both = view(asking, status=RunStatus.WAITING, interrupts=tuple(asked))
    thread = "audit-calm-river-3f9a"
    assert "asks {'n': 1} (1f)" in to_text(one, width=120)
    assert advice(one) == ("answer what it asks", f"na.resume('{thread}', answer=…)")
    assert (advice(both) or ("", ""))[1] == f"na.resume('{thread}', answers={{'1f': …, '2f': …}})"
    assert (advice(one, resume="resume x") or ("", ""))[1] == "resume x --answer JSON"
    assert (advice(both, resume="x") or ("", ""))[1] == "x --answer 1f=JSON --answer 2f=JSON"


def test_doubt_says_how_it_is_decided_and_who_did() -> None:
    """An undecided step has the call to copy; once it is decided, only a resume is left."""
    call = step("pay", uncertain())
    told = advice(view(call, status=RunStatus.IN_DOUBT))
    assert told is not None
    assert f"na.resolve('audit-calm-river-3f9a', '{call.id}', na.did(result))" in told[1]
    told = advice(view(call, status=RunStatus.IN_DOUBT), resume="r", resolve="decide t")
    assert told is not None
    assert told[1].startswith(f"decide t {call.id} --did --result JSON")
    decision = Decision(said=Said.DID_NOT, attempt=1, user="\x1b[1mada", host="here", at=START)
    decided = view(replace(call, decisions=(decision,)), status=RunStatus.IN_DOUBT)
    assert advice(decided) == (
        "what happened has been said; resume it",
        "na.resume('audit-calm-river-3f9a')",
    )
    assert "attempt 1 did not happen, said ada on here at 2026-11-20" in to_text(decided, width=120)


def test_advice_names_what_resumes_where_it_is_read() -> None:
    """On the command line the advice is a command and no Python."""
    text = to_text(view(status=RunStatus.ORPHANED), resume="notebook-agents resume x", width=120)
    assert "  notebook-agents resume x" in text.splitlines()
    assert "na.resume" not in text


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.RUNNING])
def test_a_run_with_nothing_to_do_gives_no_advice(status: RunStatus) -> None:
    """No advice where there is nothing to resume."""
    assert advice(view(status=status)) is None


def test_a_failed_run_shows_its_error_once() -> None:
    """The error stands above the steps and is not repeated at its step."""
    error = "ValueError: no report"
    text = to_text(view(step("publish", failed(error)), status=RunStatus.FAILED, error=error))
    assert text.count("no report") == 1
    assert line_of(text, "publish").startswith("✗ failed")


def test_a_step_in_doubt_that_somebody_must_look_up_has_its_key() -> None:
    """The innermost doubtful step gives the key to ask the other side with."""
    node = step("pay", uncertain())
    call = step("charge", uncertain(), parent=node)
    text = to_text(view(node, call, status=RunStatus.IN_DOUBT), width=120)
    assert f"its idempotency key is {call.key}" in text
    assert node.key not in text


def test_a_failed_step_in_doubt_has_its_key_too() -> None:
    """An error of an at-most-once step leaves open whether it happened: its key is shown."""
    call = step("charge", failed("TimeoutError", proof=Proof.NONE))
    assert call.key in to_text(view(call, status=RunStatus.IN_DOUBT))


def test_a_long_fan_out_is_folded() -> None:
    """Of 120 calls of one node the first three stand, and a line for the rest."""
    steps = [step("inspect", attempt(seconds=0.5), number=number) for number in range(120)]
    text = to_text(view(step("plan"), *steps, step("report")))
    assert sum(line.startswith("✓ returned  inspect") for line in text.splitlines()) == 3
    assert "… 117 more: returned (inspect)" in text
    assert "58 s" in line_of(text, "117 more")
    assert line_of(text, "report")


def test_what_was_in_doubt_failed_or_retried_is_never_folded() -> None:
    """The steps that a reader looks for stand out of a long fan-out, with what encloses them."""
    steps = [step("inspect", number=number) for number in range(120)]
    steps[50] = step("inspect", uncertain(), attempt(2, session=2), number=50)
    steps[70] = step("inspect", failed("OSError: x"), attempt(2), number=70)
    steps[90] = step("inspect", failed("OSError: y"), number=90)
    call = step("measure", failed("OSError: z"), parent=steps[110])
    text = to_text(view(*steps, call, status=RunStatus.FAILED), width=120)
    for said in (DOUBT, "OSError: x", "OSError: y", "OSError: z"):
        assert said in text
    assert "… 113 more: returned (inspect)" in text


def test_folded_steps_say_how_many_were_replayed_and_how_they_stand() -> None:
    """A folded line keeps the counts of what it hides."""
    running = attempt(seconds=None, outcome=Outcome.RUNNING)
    steps = [step("work", replayed=number < 10, number=number) for number in range(20)]
    steps += [step("work", running, number=number) for number in range(20, 30)]
    text = to_text(view(*steps, status=RunStatus.RUNNING, ended=None))
    assert "… 27 more: 17 returned, 10 running (work)" in text
    assert line_of(text, "27 more").endswith("7 replayed")


def test_a_fan_out_of_doubts_is_capped_and_keeps_the_failures() -> None:
    """Five hundred steps cut off at once do not fill the screen, and no failure is hidden."""
    steps = [
        step("work", uncertain(), attempt(2, session=2), number=number) for number in range(500)
    ]
    steps[499] = step("work", failed("OSError: last"), number=499)
    text = to_text(view(*steps), width=120)
    assert "OSError: last" in text
    assert "460 more: returned, all of them run again (work)" in text
    assert len(text.splitlines()) < 100


def test_a_long_loop_is_folded_in_its_middle() -> None:
    """A loop of two nodes keeps its beginning, its end and what went wrong between them."""
    steps = [step(name, number=turn) for turn in range(200) for name in ("agent", "tools")]
    steps[155] = step("tools", failed("TimeoutError: x"), attempt(2), number=77)
    text = to_text(view(*steps), width=120)
    assert "… 135 more: returned (agent, tools)" in text
    assert "TimeoutError: x" in text
    assert "… 224 more: returned (agent, tools)" in text
    assert len(text.splitlines()) < 60


def everything() -> RunView:
    """Make a run with a bit of all, and with names that want to break out."""
    evil = "<script>alert('x')</script>\x1b[31m\r\nred 研究" + "x" * 90
    node = step(evil, uncertain(), attempt(2, session=2))
    return view(
        node,
        step("measure", failed(evil), parent=node),
        *(step("work", replayed=True, number=number) for number in range(50)),
        status=RunStatus.FAILED,
        thread=f"thread {evil}",
        agent=evil,
        error=evil,
    )


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_no_line_of_the_text_is_wider_than_asked(width: int) -> None:
    """Wide characters and long names do not break a terminal's lines."""
    for line in to_text(everything(), width=width).splitlines():
        assert cell_len(line) <= width


def test_the_text_has_no_control_characters_of_others() -> None:
    """A name or an error cannot speak to the terminal."""
    assert not [char for char in to_text(everything()) if not char.isprintable() and char != "\n"]
    assert clean("a\x1b[2Jb\x07\n c") == "ab c"


def test_colour_is_only_added() -> None:
    """With colour the text says the same."""
    colored = to_text(everything(), color=True)
    assert "\x1b[" in colored
    assert [clean(line) for line in colored.splitlines()] == [
        clean(line) for line in to_text(everything()).splitlines()
    ]


def test_the_html_escapes_every_value() -> None:
    """A value is text in the page, wherever it stands."""
    read = Reader(to_html(everything()))
    assert "script" not in read.tags
    assert "<script>alert('x')</script>" in read.text


def test_the_html_is_static_and_loads_nothing() -> None:
    """No script, no handler, no address: it can be put anywhere."""
    html = to_html(everything())
    read = Reader(html)
    assert not read.open
    assert read.names == {"class"}
    assert set(read.tags) <= {
        "div", "style", "p", "strong", "span", "code", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert "url(" not in html
    assert "@import" not in html


def test_every_style_rule_is_scoped() -> None:
    """The style reaches nothing outside a timeline, and covers both colour schemes."""
    style = to_html(view(step("a"))).partition("<style>")[2].partition("</style>")[0]
    selectors = [part.rpartition("}")[2] for part in style.split("{")[:-1]]
    assert all(
        one.strip().startswith((".na-", "@media (prefers-color-scheme:dark)"))
        for selector in selectors
        for one in selector.split(",")
    )
    assert "--jp-content-font-color1" in style


def test_the_html_reads_as_a_tree_without_its_style() -> None:
    """Where the style is stripped, order, indentation, words and numbers still tell the run."""
    node = step("pay", uncertain(), attempt(2, session=2))
    call = step("charge", uncertain(), attempt(2, session=2), parent=node)
    rows = [
        row.split() for row in Reader(to_html(view(step("plan", replayed=True), node, call))).rows
    ]
    assert rows[1] == ["✓", "returned", "plan", "1", "500", "ms", "replayed"]
    assert rows[3][:5] == ["✓", "returned", "└", "charge", "in"]


def test_the_html_folds_like_the_text() -> None:
    """Both show the same lines."""
    steps = [step("work", number=number) for number in range(500)]
    read = Reader(to_html(view(*steps)))
    assert len(read.rows) == 1 + 3 + 1
    assert "… 497 more: returned (work)" in read.text


def test_a_run_without_steps_can_be_shown() -> None:
    """A run that has just begun is a header and no table."""
    text = to_text(view(status=RunStatus.RUNNING, ended=None))
    assert "no step has begun" in text
    assert "table" not in Reader(to_html(view())).tags
