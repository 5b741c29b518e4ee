"""Parameters of a notebook, as papermill has them.

They are assignments in a cell tagged `injected-parameters`. It stands behind the cell tagged
`parameters`, which has the defaults, or at the top; one that is there already is replaced.
"""

from __future__ import annotations

import ast
import json
import math
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import UsageError
from notebook_agents.notebook.cells import need

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nbformat import NotebookNode

DEFAULTS, INJECTED = "parameters", "injected-parameters"
_WORDS = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "null": None,
}


def parse(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of parameters given as text; of two with one name the last counts."""
    return {name: value_of(text) for name, text in pairs}


def value_of(text: str) -> Any:
    """Return what a text means: True, None, a number, or else the text itself.

    `true` and `null` count too, and what stands in double quotes is a JSON string: `"12"`.
    """
    if text in _WORDS:
        return _WORDS[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if text.startswith('"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def text_of(value: Any) -> str:
    """Return a text that means this value; the other way round than `value_of`."""
    if isinstance(value, str):
        return value if value_of(value) == value else json.dumps(value)
    return str(value)


def checked(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return parameters that can be written as Python.

    Raises:
        UsageError: A name is none of Python's, or a value is no plain data.
    """
    found = dict(parameters or {})
    for name, value in found.items():
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise UsageError(
                f"the parameter {name!r} is no name of a Python variable: rename it here and in "
                "the notebook"
            )
        _literal(name, value)
    return found


def inject(nb: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Put the parameters' cell into a notebook; none where there are no parameters.

    Raises:
        UsageError: A value is no plain data.
    """
    if not parameters:
        return
    lines = [f"{name} = {_literal(name, value)}" for name, value in parameters.items()]
    cell = need("nbformat.v4").new_code_cell(
        "\n".join(["# Parameters", *lines]), metadata={"tags": [INJECTED]}
    )
    cell.id = INJECTED  # the same in each run: the agents of a cell are known by its id
    place = _tagged(nb, INJECTED)
    if place is not None:
        nb.cells[place] = cell
        return
    place = _tagged(nb, DEFAULTS)
    nb.cells.insert(0 if place is None else place + 1, cell)


def unknown(nb: NotebookNode, parameters: Mapping[str, Any]) -> str | None:
    """Return a sentence on the parameters that the notebook has no default for; None: it has all.

    A notebook without a cell of defaults, or with one that cannot be read, takes any.
    """
    place = _tagged(nb, DEFAULTS)
    if place is None:
        return None
    try:
        tree = ast.parse(nb.cells[place].source)
    except SyntaxError:
        return None
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names = [node.id for node in found if isinstance(node.ctx, ast.Store)]
    odd = [repr(name) for name in parameters if name not in names]
    known = ", ".join(dict.fromkeys(names)) or "none"
    return f"it has no default for {', '.join(odd)}: its parameters are {known}" if odd else None


def _tagged(nb: NotebookNode, tag: str) -> int | None:
    for index, cell in enumerate(nb.cells):
        if tag in cell.metadata.get("tags", ()):
            return index
    return None


def _literal(name: str, value: Any) -> str:
    """Return a value as Python source.

    Raises:
        UsageError: It is no plain data.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if type(value) in (list, tuple):
        inside = "".join(f"{_literal(name, one)}, " for one in value)
        return f"[{inside[:-2]}]" if type(value) is list else f"({inside.rstrip()})"
    if type(value) is dict:
        pairs = (f"{_literal(name, key)}: {_literal(name, one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise UsageError(
        f"the parameter {name!r} is of type {type(value).__qualname__}, and only numbers, text, "
        "True, False, None, lists, tuples and dicts can be written into a notebook: give one of "
        "those"
    )
