"""JupyterLab's front end is in the wheel where it is built, and nobody needs Node for the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAB = ROOT / "extensions" / "jupyterlab"
PLACE = "data/share/jupyter/labextensions/@notebook-agents/jupyterlab/"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what a build needs, without anything that npm or a build made."""
    copy = tmp_path / "checkout"
    made = shutil.ignore_patterns(
        "node_modules", "lib", "lib-test", "labextension", ".yarn", "__pycache__", "bench-out"
    )
    for name in ("notebook_agents", "store", "notebooks", "extensions"):
        shutil.copytree(ROOT / name, copy / name, ignore=made)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def _build(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Build the wheel where there is no Node."""
    empty = checkout.parent / "bin"
    empty.mkdir(exist_ok=True)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        checkout.parent,
    ]
    environment = {**os.environ, "PATH": str(empty), "PYTHONWARNINGS": "ignore", **env}
    return subprocess.run(
        [*build, checkout],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _names(checkout: Path) -> list[str]:
    (wheel,) = checkout.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return [name.partition(".data/")[2] for name in file.namelist() if ".data/" in name]


def test_a_source_install_needs_no_node_and_says_what_is_missing(checkout: Path) -> None:
    """No bundle, no Node: the wheel is built, enables the server part, and says `make lab`."""
    done = _build(checkout)
    assert done.returncode == 0, done.stderr
    assert "make lab" in done.stdout + done.stderr
    names = _names(checkout)
    assert not [name for name in names if "labextensions" in name]
    assert "data/etc/jupyter/jupyter_server_config.d/notebook_agents.json" in names


def test_a_built_front_end_is_in_the_wheel(checkout: Path) -> None:
    """What `make lab` leaves is shipped where JupyterLab looks, without Node."""
    built = checkout / "extensions" / "jupyterlab" / "labextension"
    (built / "static").mkdir(parents=True)
    (built / "package.json").write_text("{}")
    (built / "static" / "remoteEntry.1.js").write_text("")
    done = _build(checkout)
    assert done.returncode == 0, done.stderr
    names = {name.removeprefix(PLACE) for name in _names(checkout) if name.startswith(PLACE)}
    assert names == {"package.json", "install.json", "static/remoteEntry.1.js"}


def test_a_build_that_has_to_have_it_fails_without_node(checkout: Path) -> None:
    """With NOTEBOOK_AGENTS_LAB=1 no wheel comes out without a front end; a sentence says why."""
    done = _build(checkout, NOTEBOOK_AGENTS_LAB="1")
    assert done.returncode != 0
    assert (
        "the JupyterLab extension is not built, jlpm and node missing" in done.stdout + done.stderr
    )


def test_its_lock_file_names_no_host() -> None:
    """Whoever installs from it uses a registry of their own choice."""
    assert not re.search(r"https?://", (LAB / "yarn.lock").read_text(encoding="utf-8"))


def test_no_bundle_is_committed() -> None:
    """What is built is ignored by git."""
    tracked = subprocess.run(
        ["git", "ls-files", "extensions"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("this is no checkout")
    made = re.compile(r"/(node_modules|lib|labextension|\.yarn)/")
    assert not [name for name in tracked.stdout.splitlines() if made.search(name)]
