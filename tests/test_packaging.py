"""The wheel works where the source is not, and the editable install where it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import notebook_agents as na
from notebook_agents.resources import resource
from notebook_agents.ui.widget import PARTS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebook_agents"

RUN = """
import os
import signal
import sys

sys.path = [path for path in sys.path if path != os.environ["SOURCE"]]

from typing import TypedDict

from langgraph.graph import START, StateGraph

import notebook_agents as na
from notebook_agents.resources import resource

assert na.__file__.startswith(os.environ["PYTHONPATH"]), na.__file__
assert "_store" in resource("store", "schema.sql").parts


class State(TypedDict):
    n: int


def first(state):
    return {"n": state["n"] + 1}


def second(state):
    if "BROKEN" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": state["n"] * 10}


graph = StateGraph(State)
graph.add_sequence([first, second])
graph.add_edge(START, "first")
na.Agent(graph, name="counting").run({"n": 1}, thread="t")
"""


def _run(*command: str | Path, cwd: Path, code: int = 0, **env: str) -> str:
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **env},
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    _run(*build, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """List what is in the wheel."""
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty folder; what it needs comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "--no-deps", "--no-index", "--no-compile", "--target", target, wheel, cwd=target)
    return target


def test_wheel_has_what_lies_at_the_top_level(names):
    """The on-disk contract and the notebooks are inside, every file of them, and no other copy."""
    for folder in ("store", "notebooks"):
        wanted = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        inside = {
            name.rpartition("/")[2]
            for name in names
            if name.startswith(f"notebook_agents/_{folder}/")
        }
        assert inside == wanted
    assert {"schema.sql", "queries.sql", "FORMAT.md"} <= {name.rpartition("/")[2] for name in names}


def test_wheel_has_every_module_and_nothing_else(names):
    """All modules are there, and neither tests nor caches nor anything of the checkout."""
    wanted = {
        f"notebook_agents/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")
    }
    assert wanted <= set(names)
    tops = {name.partition("/")[0] for name in names}
    ours = f"notebook_agents-{na.__version__}"
    assert tops == {"notebook_agents", f"{ours}.dist-info", f"{ours}.data"}
    enabling = "data/etc/jupyter/jupyter_server_config.d/notebook_agents.json"
    assert f"{ours}.data/{enabling}" in names, "Jupyter Server finds the extension by it"
    assert "notebook_agents/server/openapi.json" in names
    strange = ("tests", "__pycache__", "checkpoint.ipynb", ".pyc", ".duckdb", ".sqlite")
    assert not [name for name in names if any(part in name for part in strange)]


def test_wheel_has_the_timelines_component(names):
    """A notebook finds the component's files in an installed wheel."""
    for name in ("timeline.css", *(f"{part}.js" for part in PARTS)):
        assert f"notebook_agents/ui/static/{name}" in names


def test_wheel_says_that_it_is_typed(names):
    """Type checkers of other people's programs read the annotations."""
    assert "notebook_agents/py.typed" in names


def test_wheel_metadata(wheel, names):
    """The wheel names its licence and its command; what a script does not need is an extra."""
    with zipfile.ZipFile(wheel) as file:
        read = {
            name.rpartition("/")[2]: file.read(name).decode() for name in names if "info" in name
        }
    assert "notebook-agents = notebook_agents.cli:main" in read["entry_points.txt"]
    metadata = read["METADATA"].partition("\n\n")[0].splitlines()
    assert "License-Expression: Apache-2.0" in metadata
    needed = [
        line for line in metadata if line.startswith("Requires-Dist:") and "extra" not in line
    ]
    assert not [line for line in needed if "jupyter" in line or "ipy" in line]
    assert {"Provides-Extra: notebook", "Provides-Extra: lab", "Provides-Extra: all"} <= {*metadata}


def test_installed_wheel_runs_and_resumes(installed, tmp_path):
    """With the source out of reach a run is killed, and the installed command resumes it."""
    env = {"PYTHONPATH": str(installed), "SOURCE": str(ROOT)}
    script = tmp_path / "script.py"
    script.write_text(RUN)
    _run(sys.executable, script, cwd=tmp_path, code=-signal.SIGKILL, BROKEN="1", **env)

    command = installed / "bin" / "notebook-agents"
    found = json.loads(_run(command, "resume", "t", "--json", cwd=tmp_path, **env))
    assert (found["status"], found["value"]) == ("succeeded", {"n": 20})
    assert [step["replayed"] for step in found["steps"]] == [True, False]
    assert na.__version__ in _run(command, "--version", cwd=tmp_path, **env)


def test_editable_install_reads_the_checkout(tmp_path):
    """Where the package is installed from a checkout, its folders are the ones that count."""
    told = distribution("notebook-agents").read_text("direct_url.json")
    if not told or not json.loads(told).get("dir_info", {}).get("editable"):
        pytest.skip("this environment has no editable install")
    assert resource("store", "schema.sql") == ROOT / "store" / "schema.sql"
    program = (
        "from notebook_agents.resources import resource; print(resource('store', 'schema.sql'))"
    )
    assert _run(sys.executable, "-c", program, cwd=tmp_path).strip() == str(
        ROOT / "store" / "schema.sql"
    )


def test_resource_that_is_missing():
    """A broken installation says which file is missing."""
    with pytest.raises(FileNotFoundError, match=r"store/nothing\.sql is missing"):
        resource("store", "nothing.sql")
