"""`make newest` names what a LangGraph release breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from newest import failed, gone, installed, summary

if TYPE_CHECKING:
    from pathlib import Path

FAILING = """
import pytest

@pytest.mark.parametrize("shape", ["fan-out", "nested"])
def test_shape(shape):
    assert shape == "nested", "ran twice"

def test_it_never_ends():
    import threading
    threading.Event().wait()
"""


def test_a_name_that_langgraph_no_longer_has_is_named(tmp_path: Path) -> None:
    """Of what the private module imports, exactly the missing names are told, with their place."""
    source = tmp_path / "private.py"
    source.write_text(
        "import copy\n"
        "from langgraph.types import Command, _never_there\n"
        "from langgraph.pregel import _executor\n"
        "from langgraph._gone import thing\n"
        "from notebook_agents import nothing\n"
    )
    first, second = gone(source)
    assert first.startswith("langgraph.types._never_there (private.py:2): ")
    assert second.startswith("langgraph._gone.thing (private.py:4): ")


def test_everything_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    """A module that does not import and a test that hangs hide no other that fails."""
    (tmp_path / "test_one.py").write_text("from langgraph._gone import thing\n")
    (tmp_path / "test_two.py").write_text(FAILING)
    found = failed(["test_one.py", "test_two.py"], root=tmp_path, hung_seconds=10)
    assert len(found) == 3, found
    first, second, third = found
    assert "No module named 'langgraph._gone'" in first
    assert first.endswith(": test_one.py")
    assert "ran twice" in second
    assert second.endswith(": test_two.py test_shape[fan-out]")
    assert third == "hung for 10 s: test_two.py test_it_never_ends"


def test_the_summary_ends_with_what_broke_and_names_the_versions() -> None:
    """Whoever reads only the last lines knows what broke with which LangGraph."""
    told = summary({"tests": ["test_shape[fan-out]: ran twice"], "kills": []}, installed())
    assert "langgraph 1." in told
    assert told.endswith("  tests: broke\n    test_shape[fan-out]: ran twice\n  kills: none broke")
