"""A notebook's parameters: what a text means, and where the assignments go."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from notebook_agents.errors import UsageError
from notebook_agents.notebook.headless import run_notebook
from notebook_agents.notebook.parameters import checked, inject, parse, text_of, unknown, value_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1e3", 1000.0),
        ("0.5", 0.5),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("2026-11-21", "2026-11-21"),
        ("[1, 2]", "[1, 2]"),
        ("", ""),
        ('"12"', "12"),
        ('"not closed', '"not closed'),
    ],
)
def test_a_text_means_what_it_does_for_papermill(text: str, value: Any) -> None:
    """Words and numbers have their types; in double quotes a number is text."""
    found = value_of(text)

    assert (found, type(found)) == (value, type(value))
    assert value_of(text_of(value)) == value


def test_of_two_with_one_name_the_last_counts() -> None:
    """As on papermill's command line."""
    assert parse([("a", "1"), ("b", "x"), ("a", "2")]) == {"a": 2, "b": "x"}


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -2.5, 'it\'s "x"\n\\ é', [1, [2.0, "a"]], (1,), (), {"a": {"b": None}}, []],
)
def test_a_value_is_written_as_python(value: Any) -> None:
    """The injected cell assigns exactly what was given."""
    nb = new_notebook()
    inject(nb, {"name": value})

    heading, line = nb.cells[0].source.split("\n", 1)

    assert heading == "# Parameters"
    assert ast.literal_eval(line.removeprefix("name = ")) == value


def test_numbers_that_are_none_are_written_too() -> None:
    """Infinity and NaN have no literal."""
    nb = new_notebook()
    inject(nb, {"a": math.inf, "b": -math.inf})

    names: dict[str, Any] = {}
    exec(nb.cells[0].source, names)

    assert (names["a"], names["b"]) == (math.inf, -math.inf)


def test_the_assignments_stand_behind_the_defaults() -> None:
    """Behind the cell tagged `parameters`, in the place of older ones, or at the top."""
    title = new_markdown_cell("# Title")
    defaults = new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    rest = new_code_cell("x")
    nb = new_notebook(cells=[title, defaults, rest])
    bare = new_notebook(cells=[title, rest])

    for value in (2, 3):
        inject(nb, {"x": value})
    inject(bare, {"x": 4})
    inject(bare, {})

    assert [cell.source for cell in nb.cells] == [
        "# Title",
        "x = 1",
        "# Parameters\nx = 3",
        "x",
    ]
    assert nb.cells[2].metadata.tags == ["injected-parameters"]
    assert [cell.source for cell in bare.cells] == ["# Parameters\nx = 4", "# Title", "x"]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"a-b": 1}, "'a-b' is no name of a Python variable"),
        ({"class": 1}, "'class' is no name"),
        ({"a": object()}, "the parameter 'a' is of type object"),
        ({"a": [{1}]}, "the parameter 'a' is of type set"),
    ],
)
def test_what_cannot_be_written_is_refused(parameters: dict[str, Any], says: str) -> None:
    """A name that Python does not have, and a value that is no plain data."""
    with pytest.raises(UsageError, match=says):
        checked(parameters)


def test_a_name_without_a_default_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip of the pen would otherwise run the whole notebook with the default."""
    defaults = new_code_cell("year: int = 2025\nname = ''", metadata={"tags": ["parameters"]})
    nb = new_notebook(cells=[defaults])
    assert unknown(nb, {"year": 1}) is None
    assert unknown(nb, {"yeer": 1}) == "it has no default for 'yeer': its parameters are year, name"
    assert unknown(new_notebook(cells=[new_code_cell("x")]), {"yeer": 1}) is None
    path = tmp_path / "a.ipynb"
    path.write_text(nbformat.writes(nb), encoding="utf-8")
    run_notebook(path, parameters={"yeer": 1})
    assert "notebook a.ipynb runs nevertheless, but it has no default" in capsys.readouterr().err
