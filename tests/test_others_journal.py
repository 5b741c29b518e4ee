"""Another person's journal: names, times and statuses are readable, contents are closed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.types import interrupt
from support.checks import State, add, chain, says, told

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.runtime.timeline import to_html, to_text
from notebook_agents.sealing import editing, load_ring
from notebook_agents.ui import details

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = "a secret conversation"


@na.step
def look_up(what: str) -> str:
    """A durable call."""
    return f"{what}, answered"


def talk(state: State) -> Any:
    """Say something private: a node."""
    look_up(PRIVATE)
    return {"items": [PRIVATE]}


def question(state: State) -> Any:
    """Ask something private: a node."""
    return {"at": interrupt(PRIVATE)}


def broken(state: State) -> Any:
    """Fail: a node."""
    raise ValueError(PRIVATE)


@pytest.fixture
def theirs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A journal of somebody else: the id of its key, and an export of that."""
    with na.Journal.open(home) as journal:
        na.Agent(chain(talk, add), "talker", journal).run({"n": 1}, thread="done")
        na.Agent(chain(talk, question), "asker", journal).run({"n": 1}, thread="asks")
        with pytest.raises(ValueError, match=PRIVATE):
            na.Agent(chain(talk, broken), "failer", journal).run({"n": 1}, thread="failed")
    raw, created = editing.export(None)
    export = tmp_path / "theirs.json"
    export.write_bytes(editing.exported(raw, created, None))
    name = load_ring().current_id
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "mine"))
    editing.new()
    return name, export


def test_what_can_be_read_and_what_not(theirs: tuple[str, Path], home: Path, cli: Any) -> None:
    """Lists, timelines and logs have names, times and statuses; nobody's words."""
    name, _ = theirs
    at = ("--journal", str(home))
    listed = cli("list", *at)
    assert listed.code == 0
    for word in ("done", "talker", "succeeded", "asks", "waiting", "failed"):
        assert word in listed.out
    assert cli("log", *at).code == 0
    for thread, status in (("done", "succeeded"), ("asks", "waiting"), ("failed", "failed")):
        shown = cli("show", thread, *at)
        for word in (thread, status, "talk", "look_up", "returned", "started 20"):
            assert word in shown.out, shown.out
        told(shown, 6, name, "notebook-agents key import")
        data = json.loads(cli("show", thread, *at, "--json").out)
        assert (data["status"], data["value"], data["error"]) == (status, None, None)
        assert name in data["closed"]
        assert data["steps"][0]["seconds"] > 0
        assert PRIVATE not in shown.out + shown.err + listed.out + json.dumps(data)


def test_in_a_notebook(theirs: tuple[str, Path], home: Path) -> None:
    """A run shows itself as far as it can; what needs the key says which."""
    name, _ = theirs
    with na.Journal.open(home) as journal:
        run = na.Run(journal, "done", 1)
        for shown in (to_text(run.view, width=400), to_html(run.view), repr(run)):
            assert name in shown
            assert "look_up" in shown
            assert PRIVATE not in shown
        assert [step.name for step in run.page(limit=2)] == ["talk", "look_up"]
        assert details.arguments(journal, "done", 1, {step.id for step in run.steps}) == {}
        assert name in next(iter(details.results(journal, run.view).values()))
        for call in (
            lambda: run.value,
            lambda: na.resume("asks", journal=journal),
            lambda: na.Agent(chain(talk, add), "talker", journal).run({"n": 1}, thread="new"),
        ):
            with pytest.raises(errors.KeyMissingError) as caught:
                call()
            says(caught.value, name, "notebook-agents key import")


def test_without_any_key(
    theirs: tuple[str, Path], home: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has no ring yet is told which key it is, too, and none is made."""
    name, export = theirs
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "nothing"))
    shown = cli("show", "done", "--journal", str(home))
    assert "look_up" in shown.out
    told(shown, 6, name, "notebook-agents key import", "NOTEBOOK_AGENTS_KEY")
    assert not (tmp_path / "nothing").exists()
    assert cli("key", "import", str(export)).code == 0
    assert PRIVATE in cli("show", "done", "--journal", str(home)).out


def test_it_opens_once_the_key_is_imported(theirs: tuple[str, Path], home: Path, cli: Any) -> None:
    """What was closed is read; new threads stay with the own key."""
    name, export = theirs
    mine = load_ring().current_id
    assert cli("key", "import", str(export)).code == 0
    shown = cli("show", "done", "--journal", str(home))
    assert shown.code == 0
    assert PRIVATE in shown.out
    with na.Journal.open(home) as journal:
        assert na.Run(journal, "asks", 1).interrupts[0].value == PRIVATE
        assert na.Run(journal, "failed", 1).view.error == f"ValueError: {PRIVATE}"
    assert load_ring().current_id == mine != name
