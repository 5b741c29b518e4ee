"""What other people's programs may use: it is pinned here, and nothing else is promised."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import subprocess
import sys

import pytest

import notebook_agents as na
from notebook_agents import errors, model
from notebook_agents.graph.threads import Moment

HEAVY = ("duckdb", "langgraph", "langchain_core", "jupyter", "ipywidgets", "IPython", "dill")


def test_all_is_pinned():
    """A name that is added or removed shows up here, and in the changelog."""
    assert na.__all__ == [
        "Agent",
        "Journal",
        "JournalSaver",
        "RestoreReport",
        "Run",
        "RunStatus",
        "RunStream",
        "Step",
        "Thread",
        "__version__",
        "arun_notebook",
        "cancel",
        "delete",
        "did",
        "did_not",
        "idempotency_key",
        "objects",
        "on_restore",
        "prune",
        "resolve",
        "restore",
        "resume",
        "resume_all",
        "run_notebook",
        "snapshot",
        "snapshots",
        "step",
        "unfinished",
    ]
    assert na.__all__ == sorted(na.__all__)
    assert dir(na) == na.__all__


@pytest.mark.parametrize("name", na.__all__)
def test_every_public_name_is_there(name):
    """Each name leads to an object that this package made, and says what it is."""
    value = getattr(na, name)
    assert value is getattr(na, name)
    if name == "__version__":
        assert value == importlib.metadata.version("notebook-agents")
        return
    assert value.__module__.startswith("notebook_agents.")
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_unknown_name():
    """A name that is not there is an AttributeError like any other module's."""
    with pytest.raises(AttributeError, match="'notebook_agents' has no attribute 'nope'"):
        na.nope  # noqa: B018 - the access is the test


OWNERS = [
    owner
    for owner in (
        *(na.Agent, na.Journal, na.JournalSaver, na.Run, na.RunStream, na.Thread, Moment),
        *vars(errors).values(),
        *vars(model).values(),
    )
    if inspect.isclass(owner) and owner.__module__.startswith("notebook_agents.")
]


def _members(owner: type) -> list[tuple[str, object]]:
    return [
        (name, member)
        for name, member in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property | classmethod))
    ]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_public_members_have_docstrings(owner):
    """Every public class, and every method and property of it, says what it is for."""
    assert owner.__doc__
    for name, member in _members(owner):
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        assert function.__doc__, f"{owner.__name__}.{name}"


def test_what_is_told_cannot_be_changed():
    """The data that runs and lists are told by is frozen and given by keyword only."""
    for value in vars(model).values():
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, value
            assert all(field.kw_only for field in dataclasses.fields(value)), value


@pytest.mark.parametrize(
    "statement",
    [
        "import notebook_agents",
        "from notebook_agents import errors, model, settings",
        "from notebook_agents import step, idempotency_key, did, RunStatus",
        "from notebook_agents import __main__",
    ],
)
def test_import_is_light(statement):
    """Importing the package loads none of the large ones; they come when they are first used."""
    program = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not {name for name in loaded if name.startswith(HEAVY)}
    assert "notebook_agents" in loaded


def test_nothing_is_made_by_an_import(tmp_path, python):
    """An import writes no file and prints nothing."""
    done = python("import notebook_agents as na; [getattr(na, name) for name in na.__all__]")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == []
