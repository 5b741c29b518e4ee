"""What a newcomer sees in the first minutes at a notebook: nothing red, nothing that puzzles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.kernels import GRAPHS, Kernel, kernel

from notebook_agents.ui.bundles import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.running import Ended

KEY = "notebook-agents: made a master key, "


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Start a kernel where there is neither a journal nor a key."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_HOME", str(tmp_path / "journal"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("NOTEBOOK_AGENTS_KEY", raising=False)
    with kernel(tmp_path) as made:
        assert made.run('QUESTION = "sure?"' + GRAPHS) == []
        yield made


def test_nothing_of_a_first_run_is_red(fresh: Kernel) -> None:
    """A notebook shows stderr as an error: where the new key is, and a thread's name, are none."""
    shown = fresh.run('worker.show = False\nrun = worker.run({"n": 0})')
    assert {one["name"] for one in shown} == {"stdout"}
    said = "".join(one["text"] for one in shown)
    assert KEY in said
    assert "thread: worker-" in said


def test_a_script_says_them_on_stderr(python: Callable[..., Ended]) -> None:
    """Its stdout has what it prints itself and nothing else."""
    ended = python('QUESTION = ""' + GRAPHS + 'worker.run({"n": 0})', script=True)
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert "thread: worker-" in ended.err


def test_record_under_a_cell_has_the_first_step_at_once(fresh: Kernel) -> None:
    """It is what stands there, and is saved, when the kernel is killed a moment later."""

    def has_steps(message: dict[str, object]) -> bool:
        data = message["content"].get("data") or {}  # type: ignore[attr-defined]
        steps = data.get(MEDIA_TYPE, {}).get("steps", [])
        return message["msg_type"] == "update_display_data" and any(
            (step["name"], step["state"]) == ("wait", "running") for step in steps
        )

    request = fresh.begin('run = holder.run({"n": 0}, thread="held")')
    fresh.until_file("waits")
    record = fresh.hear(has_steps)["content"]["data"]["text/html"]
    (before, *_) = [
        one["content"]["data"]["text/html"]
        for one in fresh.messages
        if one["msg_type"] == "display_data" and MEDIA_TYPE in one["content"]["data"]
    ]
    assert "no step has begun" in before
    assert "<code>wait</code>" in record
    (fresh.folder / "free").touch()
    fresh.end(request)
    bundles = [one for one in fresh.messages if one["msg_type"] == "update_display_data"]
    assert len(bundles) < 20


def test_an_error_is_the_callers_line_and_a_sentence(fresh: Kernel) -> None:
    """Not a screen of this package's code, with the sentence below it."""
    fresh.run("def go():\n    worker.run({'m': 0})")
    (shown,) = fresh.run("1 + 1\ngo()")
    said = "\n".join(shown["traceback"])
    assert "worker.run({'m': 0})" in said
    assert "line 2, in <module>" in said
    assert "notebook_agents" not in said
    assert shown["traceback"][-1].startswith("InputError: agent 'worker' cannot use this input")
    (plain,) = fresh.run("1 / 0")  # what is not ours is shown as ever
    assert "---->" in "".join(plain["traceback"])
