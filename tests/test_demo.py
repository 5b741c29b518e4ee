"""The demo and its notebook: a real kernel is killed, and an empty one goes on."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from notebook_agents.errors import UsageError
from notebook_agents.model import Outcome
from notebook_agents.notebook import demo
from notebook_agents.notebook.demo import DemoResult, run_demo
from notebook_agents.notebook.headless import run_notebook
from notebook_agents.resources import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.model import RunView


@dataclass(frozen=True)
class Demo:
    """One demo, and what the journal told when it was over."""

    result: DemoResult
    said: str
    record: Path
    view: RunView
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Run the demo once for all tests of this module."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(folder / "data"))
        patch.delenv("NOTEBOOK_AGENTS_KEY", raising=False)
        said: list[str] = []
        record = folder / "demo.json"
        result = run_demo(out=folder / "out", say=said.append, record=record)
        place = demo._Place(home=folder / "out")
        view = place.view()
        assert view is not None
        yield Demo(result, "\n".join(said), record, view, place.lines())


@pytest.mark.crash
def test_an_empty_kernel_finishes_what_the_killed_one_began(ran: Demo) -> None:
    """SIGKILL comes in the middle of the fan-out; another process, told two lines, ends the run."""
    result = ran.result

    assert result.problems == ()
    assert result.ok
    assert result.signal == 9
    assert result.killed_pid != result.resumed_pid
    assert 0 < result.lines_at_kill < result.distributions
    assert ran.view.sessions == 2
    resumed = nbformat.read(Path(result.ledger).parent / "resumed.ipynb", as_version=4)
    assert [cell.source for cell in resumed.cells] == [demo.RESUME, "run"]
    assert "succeeded" in resumed.cells[1].outputs[0].data["text/plain"]


@pytest.mark.crash
def test_every_effect_of_a_returned_step_stands_in_the_ledger_once(ran: Demo) -> None:
    """What had returned before the kill was not done again; what was in doubt kept its key."""
    count = Counter(line["key"] for line in ran.lines)
    effects = {step.key: step for step in ran.view.steps if step.name == "measure"}
    old = {key for key, step in effects.items() if step.replayed}

    assert count.keys() == effects.keys()
    assert old
    assert all(count[key] == 1 for key, step in effects.items() if not step.was_in_doubt)
    assert {line["pid"] for line in ran.lines if line["key"] in old} == {ran.result.killed_pid}
    assert len({line["info"] for line in ran.lines}) == len(effects) == ran.result.distributions


@pytest.mark.crash
def test_the_result_is_written_and_told(ran: Demo) -> None:
    """`demo.json` is the result; the text names both kernels, the signal and where things are."""
    result = ran.result
    written = json.loads(ran.record.read_text())

    assert written == {**asdict(result), "problems": list(result.problems)}
    assert Path(result.report).read_text().startswith(f"# Audit of {sys.prefix}\n")
    assert result.seconds_saved > 0
    for part in (
        f"Signal 9 (SIGKILL) killed kernel {result.killed_pid}",
        f"empty kernel (pid {result.resumed_pid})",
        "run = na.resume()",
        "replayed",
        "Every check held.",
        result.report,
    ):
        assert part in ran.said


@pytest.mark.crash
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("twice", "has 2 lines of step"),
        ("lost", "has 0 lines of step"),
        ("other key", "was measured under 2 idempotency keys"),
        ("other process", "was measured before the kill, but its line is of 4711"),
    ],
)
def test_the_check_finds_a_ledger_that_is_wrong(
    ran: Demo, tmp_path: Path, harm: str, says: str
) -> None:
    """A returned step's line that is doubled, missing, or somebody else's, fails the demo."""
    old = next(step.key for step in ran.view.steps if step.name == "measure" and step.replayed)
    line = next(line for line in ran.lines if line["key"] == old)
    lines = {
        "twice": [*ran.lines, line],
        "lost": [other for other in ran.lines if other is not line],
        "other key": [*ran.lines, {**line, "key": "na-other"}],
        "other process": [{**other, "pid": 4711} for other in ran.lines],
    }[harm]
    place = demo._Place(home=tmp_path)
    place.report.touch()
    place.ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = [step for step in ran.view.steps if step.replayed]
    view = replace(ran.view, steps=tuple(before), sessions=1)
    kill = demo._Kill(pid=ran.result.killed_pid, signum=9, lines=1, view=view)

    result = demo._judge(kill, 2, ran.view, place)

    assert not result.ok
    assert any(says in problem for problem in result.problems)


@pytest.mark.crash
def test_the_check_finds_a_step_that_ran_again(ran: Demo, tmp_path: Path) -> None:
    """A step that had returned before the kill and has a newer attempt fails the demo."""
    place = demo._Place(home=tmp_path)
    again = next(step for step in ran.view.steps if not step.replayed)
    assert again.outcome is Outcome.RETURNED
    kill = demo._Kill(pid=1, signum=9, lines=1, view=replace(ran.view, steps=(again,), sessions=1))

    problems = demo._judge(kill, 2, ran.view, place).problems

    assert any("had returned before the kill and ran again" in problem for problem in problems)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    """The demo empties a folder only if an earlier demo made it."""
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(UsageError, match="was not made by the demo"):
        run_demo(out=tmp_path, say=print, record=tmp_path / "demo.json")

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interpreter_that_does_not_run_is_refused(tmp_path: Path) -> None:
    """Naming something that is no Python is an error of use, said before a kernel starts."""
    with pytest.raises(UsageError, match="is no Python that runs"):
        run_demo(out=tmp_path / "out", say=print, python=tmp_path / "none")


def test_an_environment_with_next_to_nothing_is_refused(tmp_path: Path) -> None:
    """Where a kill could not come in the middle, the demo says so before a kernel starts."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)

    with pytest.raises(UsageError, match="has 0 distributions, too few"):
        run_demo(out=tmp_path / "out", say=print, python=tmp_path / "venv" / "bin" / "python")


def test_the_notebook_lies_there_clean() -> None:
    """The notebook in the repository is valid, has no outputs, and fits a page."""
    nb = nbformat.read(resource("notebooks", demo.NOTEBOOK), as_version=4)
    nbformat.validate(nb)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]

    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert max(len(line) for cell in nb.cells for line in cell.source.splitlines()) <= 110


def install(
    site: Path, name: str, version: str, files: dict[str, tuple[str, str]], *headers: str
) -> None:
    """Make an installed distribution; each file has the content that was and the one that is."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    head = ["Metadata-Version: 2.1", f"Name: {name.lstrip('~')}", f"Version: {version}", *headers]
    (info / "METADATA").write_text("\n".join(head) + "\n")
    rows = [f"{info.name}/METADATA,,"]
    for file, (was, content) in files.items():
        if content:
            (site / file).write_text(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(was.encode()).digest()).decode()
        rows.append(f"{file},sha256={digest.rstrip('=')},{len(was)}")
    (info / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Make an environment with every kind of problem; return its interpreter."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    install(
        site,
        "app",
        "1.0",
        {"app.py": ("fine", "fine"), "patched.py": ("was", "is"), "lost.py": ("was", "")},
        "License: MIT License",
        "Requires-Dist: absent>=2",
        "Requires-Dist: old>=2",
        "Requires-Dist: torn>=2",
        "Requires-Dist: fast[turbo]",
        'Requires-Dist: unasked; extra == "more"',
        'Requires-Dist: elsewhere; sys_platform == "plan9"',
        "Requires-Dist: not a requirement (",
    )
    install(site, "old", "1.5", {"both.py": ("one", "two")}, "License-Expression: GPL-3.0-only")
    install(site, "other", "1.0", {"both.py": ("two", "two")}, "Requires-Dist: torn<2")
    install(site, "torn", "1.0", {}, "Requires-Python: >=99")
    install(site, "fast", "1.0", {}, 'Requires-Dist: engine; extra == "turbo"')
    install(site, "twice", "1.0", {})
    install(site, "twice", "1.1", {})
    install(site, "~gone", "1.0", {})
    return home / "bin" / "python"


def test_the_report_names_each_problem_and_what_to_do(broken: Path, tmp_path: Path) -> None:
    """In an environment with every kind of problem the report has each, and no other."""
    run_notebook(
        resource("notebooks", demo.NOTEBOOK),
        out=tmp_path / "out.ipynb",
        cwd=tmp_path,
        environment={"AUDIT_PYTHON": os.fspath(broken)},
    )

    report = (tmp_path / "report.md").read_text()
    problems = report.partition("## Problems")[2].partition("## Good to know")[0]
    found = [line for line in problems.splitlines() if line.startswith("- ")]
    expected = (
        "**absent** is not installed, but app asks for `absent>=2`",
        "**old** 1.5 is installed, but app asks for `old>=2`",
        "no version of **torn** suits everybody: app asks for `>=2`, other asks for `<2`",
        "**engine** is not installed, but fast asks for `engine`",
        "**torn** asks for Python >=99, this is ",
        "**app**: changed since it was installed: `patched.py`",
        "**app**: missing: `lost.py`",
        "**old**: changed since it was installed: `both.py`",
        "**twice** is installed twice: 1.0 is used, 1.1 is not",
        "**old** and **other** have both written `both.py`",
        "is what an interrupted pip left behind",
    )
    for text in expected:
        assert sum(text in line for line in found) == 1, text
    assert len(found) == len(expected)
    assert problems.count("*What to do:*") == len(expected)
    assert '`pip install "absent>=2"`' in problems
    assert "| GPL-3.0-only ⚠ | 1 | old |" in report
