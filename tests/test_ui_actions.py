"""What a timeline's buttons do, in a real kernel, asked as the component asks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest
from support.checks import says
from support.kernels import GRAPHS, Kernel, kernel

from notebook_agents.ui.actions import handle
from notebook_agents.ui.widget import component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REVIEW = {
    "action_requests": [{"name": "mail", "args": {"to": "a"}, "description": "Send it"}],
    "review_configs": [{"action_name": "mail", "allowed_decisions": ["approve", "edit"]}],
}
DYING = """
@na.step(at_most_once=True)
def charge():
    os.kill(os.getpid(), 9)

def pay(state):
    return {"log": [charge()]}

payer = chain("payer", work, pay)
"""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Start a kernel with agents, in a folder with a journal."""
    monkeypatch.delenv("NOTEBOOK_AGENTS_HOME")
    (tmp_path / ".notebook_agents").mkdir()
    with kernel(tmp_path) as made:
        assert made.run(f"QUESTION = {REVIEW!r}" + GRAPHS) == []
        yield made


def test_stop_ends_a_blocking_step_before_it_ends_by_itself(cells: Kernel) -> None:
    """Stop reaches a kernel that is busy; nothing but the stop lets this step end."""
    request = cells.begin('holder.run({"n": 0}, thread="t")')
    cells.until_file("waits")
    reply = cells.press(beside=True, action="stop", thread="t")
    assert reply == {"ok": True, "said": "stopped: what returned is kept"}
    cells.end(request)
    assert not (cells.folder / "free").exists()
    (error,) = [output for output in cells.outputs(request) if output["kind"] == "error"]
    assert len(error["traceback"]) == 1, "what was asked for is no failure to be traced"
    assert "resume it to go on" in error["traceback"][0]
    (state,) = cells.states(request)
    assert state["status"] == "orphaned"
    assert [row["state"] for row in state["steps"]][:2] == ["returned", "returned"]


def test_stop_ends_an_async_cell(cells: Kernel) -> None:
    """What awaits on the kernel's loop is cancelled, and the cell says that it was stopped."""
    cells.run(
        "import asyncio\nasync def long(state):\n"
        '    Path("waits").touch()\n    await asyncio.sleep(600)\nlonger = chain("longer", long)'
    )
    request = cells.begin('await longer.arun({"n": 0}, thread="t")')
    cells.until_file("waits")
    assert cells.press(beside=True, action="stop", thread="t")["ok"]
    cells.end(request)
    (error,) = [output for output in cells.outputs(request) if output["kind"] == "error"]
    assert error["ename"] == "RunStopped"
    assert [state["status"] for state in cells.states(request)] == ["orphaned"]


def test_stopped_run_is_resumed_by_its_button(cells: Kernel) -> None:
    """Resume goes on behind what returned, and the same display shows it."""
    request = cells.begin('holder.run({"n": 0}, thread="t")')
    cells.until_file("waits")
    cells.press(beside=True, action="stop", thread="t")
    cells.end(request)
    (cells.folder / "free").touch()
    reply = cells.press(action="resume", thread="t")
    assert (reply["ok"], reply["state"]["status"]) == (True, "succeeded")
    assert reply["state"]["spared"]["steps"] == 1
    assert [state["status"] for state in cells.states(request)] == ["succeeded"]


def test_fresh_kernel_resumes_and_decides(cells: Kernel) -> None:
    """After a SIGKILL the same buttons work in a kernel that has run nothing."""
    cells.run(DYING)
    cells.begin('payer.run({"n": 0}, thread="t")')
    cells.again()
    reply = cells.press(action="resume", thread="t")
    assert (reply["ok"], reply["state"]["status"]) == (True, "in_doubt")
    (open_,) = [row for row in reply["state"]["steps"] if row["undecided"]]
    assert open_["name"] == "charge"
    reply = cells.press(
        action="resolve", thread="t", step=open_["id"], happened=True, result="paid"
    )
    assert reply["said"] == "noted: resume to go on"
    assert not any(row["undecided"] for row in reply["state"]["steps"])
    reply = cells.press(action="resume", thread="t")
    assert reply["state"]["status"] == "succeeded"
    detail = cells.press(action="detail", thread="t", step=open_["id"])["detail"]
    assert detail["result"] == "'paid'"


def test_answer_of_a_review_reaches_the_run(cells: Kernel) -> None:
    """Approve, Edit and Reject send LangChain's decisions to the interrupt that asked."""
    request = cells.begin('asker.run({"n": 0}, thread="t")')
    cells.end(request)
    (state,) = cells.states(request)
    (asked,) = state["interrupts"]
    assert (asked["kind"], asked["value"]) == ("review", REVIEW)
    edited = {"type": "edit", "edited_action": {"name": "mail", "args": {"to": "b"}}}
    answers = {asked["id"]: {"decisions": [edited]}}
    reply = cells.press(action="answer", thread="t", answers=answers)
    assert reply["state"]["status"] == "succeeded"
    (shown,) = cells.run('print(worker.journal and asker.run(None, thread="t").value["log"])')[-1:]
    assert "'to': 'b'" in shown.get("text", "") or "ename" in shown


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"action": "resume", "thread": "nobody"}, "nobody"),
        ({"action": "detonate", "thread": "t"}, "detonate"),
        ({"action": "resume", "thread": "t", "run": 0}, "followed by run 1"),
        ({"action": "answer", "thread": "t", "answers": {}, "run": 0}, "followed by run 1"),
        ({"action": "resume", "thread": "t", "journal": "/nowhere"}, "/nowhere"),
    ],
)
def test_error_is_one_sentence_in_the_reply(
    asked: dict[str, Any], named: str, done: object
) -> None:
    """A button that cannot do it says why, and what to do."""
    reply = handle({"journal": str(done.journal.home), **asked})  # type: ignore[attr-defined]
    assert not reply["ok"]
    says(reply["said"], named)


def test_stop_of_what_does_not_run_says_so(done: Any) -> None:
    """Nothing is interrupted where this process drives nothing."""
    before = signal.getsignal(signal.SIGINT)
    reply = handle({"action": "stop", "thread": "t", "journal": str(done.journal.home)})
    assert reply == {"ok": True, "said": "it does not run: there is nothing to stop"}
    assert signal.getsignal(signal.SIGINT) is before


def test_component_is_a_valid_module() -> None:
    """The component parses, and builds no markup from data."""
    code = component()
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", code, re.MULTILINE)
    assert len(names) == len(set(names)) > 20  # its parts are one module there
    for banned in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "fetch(", "http"):
        assert banned not in code
    node = which("node")
    if node is None:
        pytest.skip("there is no node here")
    done = subprocess.run(
        [node, "--input-type=module", "--check"],
        input=code,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_component_asks_what_the_kernel_understands() -> None:
    """Every action of the component's buttons has a function."""
    code = component()
    named = {part.split('"')[0] for part in code.split('action: "')[1:]}
    assert named == {"stop", "resume", "answer", "resolve", "detail"}
    for action in named:
        assert "no button does" not in json.dumps(handle({"action": action, "thread": "t"}))
