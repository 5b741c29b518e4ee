"""A run as the timeline's component takes it: plain JSON that says what the records say."""

from __future__ import annotations

import json
import re
import sys
import wave
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from support.checks import chain
from test_timeline import START, attempt, failed, step, uncertain, view

import notebook_agents as na
from notebook_agents.ids import call_step_id
from notebook_agents.model import Interrupt, Kind, ModelUsage, Outcome, RunStatus, Usage
from notebook_agents.runtime import previews
from notebook_agents.runtime.events import StepEvent
from notebook_agents.ui import details
from notebook_agents.ui.bundles import bundle
from notebook_agents.ui.folding import Folding
from notebook_agents.ui.state import run_state

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"


def test_state_is_json_of_version_1() -> None:
    """What a component is given is JSON, with times in UTC and every field of the contract."""
    spent = Usage(
        models=(ModelUsage(model="m", input_tokens=3, output_tokens=4, total_tokens=7, cost=0.5),)
    )
    one = step("a", failed("ValueError: no"), attempt(2, session=2, at=2))
    object.__setattr__(one, "usage", spent)
    said = run_state(view(one, sessions=2), arguments={one.id: "1, 2"}, results={one.id: "3"})
    assert json.loads(json.dumps(said)) == said
    assert (said["v"], said["thread"], said["run"]) == (1, "audit-calm-river-3f9a", 1)
    assert said["started"] == "2026-11-20T14:02:11.000+00:00"
    assert said["usage"] == {"tokens": 7, "cost": 0.5}
    (row,) = said["steps"]
    assert (row["state"], row["args"], row["result"], row["tokens"]) == ("returned", "1, 2", "3", 7)
    first, last = row["attempts"]
    assert first["why"] == "failed in process 1: ValueError: no; run again"
    assert (first["error"], last["why"], last["number"]) == ("ValueError: no", None, 2)


def test_state_says_what_a_resume_spared_and_what_is_in_doubt() -> None:
    """Replayed steps are counted with their time, steps in doubt are named for a decision."""
    done = step("a", attempt(seconds=4.0), replayed=True)
    open_ = step("b", uncertain())
    said = run_state(view(done, open_, status=RunStatus.IN_DOUBT))
    assert said["spared"] == {"steps": 1, "seconds": 4.0, "tokens": 0, "cost": None}
    assert [row["undecided"] for row in said["steps"]] == [False, True]
    assert said["counts"]["in_doubt"] == 1
    assert said["next"]["call"].startswith("na.resolve(")


@pytest.mark.parametrize(
    ("asked", "kind", "shown"),
    [
        ("How many?", "question", "How many?"),
        (
            {"action_requests": [{"name": "mail", "args": {}}], "review_configs": []},
            "review",
            {"action_requests": [{"name": "mail", "args": {}}], "review_configs": []},
        ),
        (
            {"type": "tool_approval", "name": "mail", "args": {"to": "x"}},
            "review",
            {"type": "tool_approval", "name": "mail", "args": {"to": "x"}},
        ),
        ({1: "a key that JSON would change"}, "question", None),
        (float("nan"), "question", None),
        ("x" * 100_000, "question", None),
    ],
)
def test_question_is_shown_as_json_only_where_json_says_the_same(
    asked: Any, kind: str, shown: Any
) -> None:
    """What could be edited is what was asked; anything else is a text to read."""
    question = Interrupt(id="1" * 32, value=asked, step="s", node="n", namespace="")
    (said,) = run_state(view(interrupts=(question,)))["interrupts"]
    assert (said["kind"], said["value"]) == (kind, shown)
    assert (said["text"] is None) == (shown is not None)
    assert len(said["text"] or "") <= 2_000


def test_saved_state_is_cut_and_says_so() -> None:
    """Of 5,000 steps 2,000 are saved: what failed, and the newest."""
    bad = step("bad", failed("no"), number=10)
    steps = [bad, *(step("part", number=number) for number in range(5_000))]
    said = run_state(view(*steps))
    assert (len(said["steps"]), said["cut"]) == (2_000, 3_001)
    assert said["steps"][0]["id"] == bad.id
    assert said["steps"][-1]["id"] == steps[-1].id
    assert said["counts"]["steps"] == 5_001


def test_text_from_outside_stays_text() -> None:
    """No markup, no terminal code and no broken Unicode changes what the JSON is."""
    one = step(HOSTILE, failed("\ud800 " + HOSTILE))
    said = run_state(view(one, error=HOSTILE, agent=HOSTILE), arguments={one.id: HOSTILE})
    assert json.loads(json.dumps(said).encode()) == said
    assert "\x1b" not in said["steps"][0]["name"]


def event(name: str, what: str, number: int = 1, **more: Any) -> StepEvent:
    """Make an event of the step of that name."""
    about = {"thread": "t", "run": 1, "step": name, "name": name, "parent": None}
    return StepEvent(**about, attempt=number, what=what, **more)  # type: ignore[arg-type]


def test_folding_of_events_gives_what_the_records_would() -> None:
    """Each delta has the steps that changed, and counts all."""
    folding = Folding(
        view(status=RunStatus.RUNNING, ended=None, error=None), {}, driver=None, journal=None
    )
    later = [START + timedelta(seconds=second) for second in range(6)]
    folding.take(event("a", "intended", arguments="'x'"), later[0])
    folding.take(event("b", "intended"), later[1])
    said = folding.delta()
    assert [(row["id"], row["state"], row["args"]) for row in said["steps"]] == [
        ("a", "running", "'x'"),
        ("b", "running", None),
    ]
    folding.take(event("a", "returned"), later[2])
    folding.take(event("b", "failed", error="ValueError: no"), later[3])
    folding.take(event("b", "intended", 2), later[4])
    assert folding.changed
    said = folding.delta()
    assert not folding.changed
    first, second = said["steps"]
    assert (first["state"], first["seconds"]) == ("returned", 2.0)
    assert second["state"] == "running"
    assert second["attempts"][0]["why"] == "failed in process 1: ValueError: no; run again"
    assert said["told"] == "1 of 2 steps returned"
    counted = {name: count for name, count in said["counts"].items() if count}
    assert counted == {"steps": 2, "returned": 1, "running": 1}
    assert [one.outcome for one in folding.view.steps] == [Outcome.RETURNED, Outcome.RUNNING]


def test_folding_counts_tokens_for_the_step_and_those_around_it() -> None:
    """What a model took inside a node counts for the node and the run, while it works."""
    folding = Folding(view(status=RunStatus.RUNNING, ended=None), {}, driver=None, journal=None)
    spent = Usage(
        models=(ModelUsage(model="m", input_tokens=3, output_tokens=4, total_tokens=7, cost=0.5),)
    )
    folding.take(event("node", "intended"), START)
    for name in ("one", "two"):
        inner = event(name, "intended")
        folding.take(inner._replace(parent="node"), START)
        folding.take(event(name, "returned", usage=spent), START)
    said = folding.delta()
    assert said["usage"] == {"tokens": 14, "cost": 1.0}
    tokens = {row["name"]: (row["tokens"], row["cost"]) for row in said["steps"]}
    assert tokens == {"node": (14, 1.0), "one": (7, 0.5), "two": (7, 0.5)}


def test_state_while_a_run_works_is_what_its_records_would_tell() -> None:
    """Folded JSON is the same as that of the view that it becomes, and later events leave it."""
    done, cut, bad = (
        step("done", replayed=True),
        step("cut", uncertain()),
        step("bad", failed("no")),
    )
    before = view(done, cut, bad, status=RunStatus.ORPHANED, ended=None, sessions=2)
    folding = Folding(before, {done.id: "1"}, driver=None, journal="here")
    at = [START + timedelta(milliseconds=1_250 * number) for number in range(6)]
    folding.take(event(cut.id, "intended", 2), at[0])
    folding.take(event("call", "intended", arguments=""), at[1])
    folding.take(event(cut.id, "returned", 2), at[2])
    folding.take(event(bad.id, "intended", 2), at[3])
    live, said = folding.record()
    assert said == run_state(live, arguments=folding.arguments, journal="here")
    assert {**said, "told": folding.head()["told"]} == folding.state
    assert folding.arguments == {done.id: "1", "call": ""}
    kept = json.dumps(said)
    folding.take(event("call", "failed", error="ValueError: no"), at[4])
    folding.take(event("call", "intended", 2), at[5])
    assert json.dumps(said) == kept


def test_state_while_a_run_works_has_what_models_took() -> None:
    """A page that is loaded meanwhile shows the tokens that the others were told of."""
    folding = Folding(view(status=RunStatus.RUNNING, ended=None), {}, driver=None, journal=None)
    spent = Usage(models=(ModelUsage(model="m", input_tokens=3, output_tokens=4, total_tokens=7),))
    folding.take(event("node", "intended"), START)
    folding.take(event("node", "returned", usage=spent), START)
    _, said = folding.record()
    assert (said["usage"]["tokens"], said["steps"][0]["tokens"]) == (7, 7)


def test_state_of_a_long_run_that_works_is_cut_as_a_saved_one() -> None:
    """What did not simply return is kept, and the newest of the others."""
    folding = Folding(view(status=RunStatus.RUNNING, ended=None), {}, driver=None, journal=None)
    for number in range(2_100):
        folding.take(event(f"step {number}", "intended"), START)
        what = "failed" if number == 7 else "returned"
        folding.take(event(f"step {number}", what), START)
    live, said = folding.record()
    assert said == run_state(live)
    assert (len(said["steps"]), said["cut"], said["steps"][0]["id"]) == (2_000, 100, "step 7")


@dataclass
class Point:
    """Something with fields."""

    x: int
    label: str


class Rude:
    """Something whose repr must not run."""

    def __repr__(self) -> str:
        raise AssertionError("a preview called a foreign __repr__")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("it's", '"it\'s"'),
        ({"a": [1, 2.5, None]}, "{'a': [1, 2.5, None]}"),
        (Point(1, "p"), "Point(x=1, label='p')"),
        (HumanMessage("hi"), "HumanMessage(content='hi', type='human')"),
        (Rude(), "<Rude>"),
        ([Rude], "[<Rude>]"),
        (range(3), "range(0, 3)"),
        (10**400, "<int of 1329 bits>"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 8 more]"),
        (frozenset({1}), "frozenset({1})"),
        ([[[[[1]]]]], "[[[[[…]]]]]"),
    ],
)
def test_preview_reads_like_python(value: Any, shown: str) -> None:
    """A preview is short Python, and runs no code of the value's class."""
    assert previews.of_value(value) == shown


def test_preview_of_something_huge_looks_at_its_beginning() -> None:
    """However large a value is, only as much of it is looked at as is shown."""
    looked = []

    @dataclass
    class Counted:
        label: str

        def __getattribute__(self, name: str) -> Any:
            looked.append(name)
            return super().__getattribute__(name)

    assert previews.of_value("x" * 10**8).endswith("…")
    assert len(previews.of_value({"k" * 10**7: "v" * 10**7})) <= previews.LIMIT
    many = [Counted("x")] * 10**6
    looked.clear()
    assert previews.of_value(many).endswith("…") or "999,988 more" in previews.of_value(many)
    assert len(looked) < 1_000


def test_arguments_of_durable_calls_are_in_the_journal(journal: na.Journal) -> None:
    """A call's preview is kept sealed with its intent; a node has none."""

    @na.step
    def add(n: int, *, note: str) -> int:
        return n + 1

    def node(state: Any) -> Any:
        return {"n": add(state["n"], note="why")}

    run = na.Agent(chain(node), "previews", journal).run({"n": 1}, thread="t")
    outer, inner = run.steps
    kept = details.arguments(journal, "t", 1, {outer.id, inner.id})
    assert kept == {inner.id: "1, note='why'"}
    assert details.results(journal, run.view) == {outer.id: "{'n': 2}", inner.id: "2"}
    assert details.detail(journal, "t", 1, inner.id) == {
        "step": inner.id,
        "args": "1, note='why'",
        "result": "2",
    }


def test_journals_without_previews_are_read(journal: na.Journal) -> None:
    """A record from before there were previews has no arguments, and nothing fails."""
    run = na.Agent(chain(lambda_free), "old", journal).run({"n": 1}, thread="t")
    (record,) = journal.select(thread="t", kinds=[Kind.STEP_INTENDED])
    assert journal.payload(record.seq) in (b"", b"\x00")
    assert details.arguments(journal, "t", 1, {run.steps[0].id}) == {}
    assert details.arguments(journal, "t", 1, {call_step_id("x", "y", "z", 0)}) == {}


def lambda_free(state: Any) -> Any:
    """Return what came in: a node."""
    return {"n": state["n"]}


def test_result_of_a_class_that_is_not_imported_is_said_and_not_imported(
    journal: na.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at a result imports no module: the row says what is missing."""

    @na.step
    def look() -> Any:
        return wave.Error("no")

    def node(state: Any) -> Any:
        return {"n": len(str(look()))}

    run = na.Agent(chain(node), "foreign", journal).run({"n": 1}, thread="t")
    step_id = run.steps[1].id
    assert "Error" in details.detail(journal, "t", 1, step_id)["result"]
    monkeypatch.delitem(sys.modules, "wave")
    said = details.detail(journal, "t", 1, step_id)["result"]
    assert said.startswith("it cannot be shown here: ") and "import wave to see it" in said
    assert "wave" not in sys.modules


def test_record_of_a_run_that_works_says_when_it_stood_so() -> None:
    """It is read on pages that are loaded again, or another day; one that ended tells its times."""
    at_work = view(status=RunStatus.RUNNING, ended=None, error=None)
    said = bundle(at_work, {})["text/html"]
    assert re.search(r"As it stood at \d\d:\d\d:\d\d \S+ on \d{4}-\d\d-\d\d", said)
    assert "As it stood" not in bundle(view(), {})["text/html"]
