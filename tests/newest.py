"""`python -m tests.newest N`: everything that rests on LangGraph, with the one that is installed.

Three parts, and none hides what another one finds: the names that LangGraph does not publish, the
tests of the shapes, kills of each shape. What broke stands at the end, beside what is installed.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.crash.trial import Tally

ROOT = Path(__file__).parents[1]
PRIVATE = ROOT / "notebook_agents" / "graph" / "private.py"
_TESTED = (
    "private",
    "shapes",
    "edges",
    "tasks",
    "tools",
    "models",
    "people",
    "stream",
    "fork",
    "update_state",
    "cancel",
    "changes",
    "saver",
    "conformance",
)
TESTS = (*(f"tests/test_{name}.py" for name in _TESTED), "tests/crash")
"""The tests that a new LangGraph can break."""
HUNG_SECONDS = 120
"""A test that says nothing for so long is taken for hung; honest ones take half a minute."""
LINE = 140
"""Characters of a message in the list of what broke."""
MANY = 8
"""So many tests of a file that fail for one reason are named."""
NO_HEADER = ("-p", "no:cacheprovider", "--no-header", "--no-summary")


@click.command()
@click.argument("kills", type=click.IntRange(min=0), default=5000)
@click.option("--seed", type=int, default=0, help="Replays the schedule of the kills.")
def main(kills: int, seed: int) -> None:
    """Test the installed LangGraph, kill KILLS processes, then name what broke."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    broke = {
        "names that LangGraph does not publish": gone(PRIVATE),
        "tests": failed(TESTS),
        "shapes that are killed": killed(kills, seed),
    }
    print(summary(broke, installed()))
    sys.exit(1 if any(broke.values()) else 0)


def gone(source: Path) -> list[str]:
    """Return the LangGraph and LangChain names that a module imports and that are not there."""
    named = [
        (node.module, alias.name, node.lineno)
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lang")
        for alias in node.names
    ]
    return [
        f"{module}.{name} ({source.name}:{line}): {problem}"
        for module, name, line in named
        if module is not None and (problem := _missing(module, name)) is not None
    ]


def _missing(module: str, name: str) -> str | None:
    try:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return "it is gone"
    except Exception as error:
        return _short(error)
    return None


def failed(
    tests: Iterable[str], *, root: Path = ROOT, hung_seconds: float = HUNG_SECONDS
) -> list[str]:
    """Run test files below `root`, each in a process of its own; return what failed, by reason."""
    found: dict[str, list[str]] = {}
    for path in tests:
        hung: list[str] = []
        while True:
            left = len(hung)
            for name, reason in _run(path, hung, root, hung_seconds):
                found.setdefault(reason, []).append(name)
            if len(hung) == left:
                break
        for name in hung:
            found.setdefault(f"hung for {hung_seconds} s", []).append(name)
    return [f"{reason}: {_listed(names)}" for reason, names in found.items()]


def _run(path: str, hung: list[str], root: Path, seconds: float) -> list[tuple[str, str]]:
    """Run a test file without the tests that hung; return name and reason of those that fail.

    Where one hangs it is added to `hung` and nothing is returned: the file has to be run again.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-u", "-m", "pytest", path, "-v", "--tb=short", "-rN"]
        options = [f"--junitxml={report}", "-o", "junit_logging=no", *NO_HEADER]
        without = [f"--deselect={name}" for name in hung]
        with subprocess.Popen(
            [*command, *options, *without], cwd=root, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            if (last := _echoed(process, seconds)) is not None:
                os.killpg(process.pid, signal.SIGKILL)
                if "::" not in last or last in hung:  # in no test: at its import, or at its end
                    return [(path, f"hung for {seconds} s")]
                hung.append(last)
                return []
            code = process.wait()
        if not report.exists():
            return [(path, f"pytest ended with exit code {code}, see above")]
        return _failures(report, path)


def _echoed(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Show what a pytest says until it is done; the test that it hangs in, or None."""
    assert process.stdout is not None
    said = b""
    while select.select([process.stdout], [], [], seconds)[0]:
        if not (news := os.read(process.stdout.fileno(), 65536)):
            return None
        sys.stdout.buffer.write(news)
        sys.stdout.flush()
        said = (said + news)[-65536:]
    return said.decode(errors="replace").rpartition("\n")[2].strip()


def _failures(report: Path, path: str) -> list[tuple[str, str]]:
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        for problem in (*case.findall("failure"), *case.findall("error")):
            lines = [line for line in (problem.text or "").splitlines() if line.startswith("E  ")]
            # Of a test it is the first that says what is wrong, of an import the last.
            reason = (lines[-1 if problem.tag == "error" else 0][1:]) if lines else ""
            name = f"{path}::{case.get('name')}" if case.get("classname") else path
            found.append((name, _short(reason or problem.get("message") or "")))
    return found


def _listed(names: list[str]) -> str:
    """Return the names of tests, a file's together."""
    files: dict[str, list[str]] = {}
    for name in names:
        path, _, test = name.partition("::")
        files.setdefault(path, []).append(test)
    told = []
    for path, tests in files.items():
        more = [f"and {len(tests) - MANY} more"] if len(tests) > MANY else []
        told.append(" ".join(filter(None, [path, *tests[:MANY], *more])))
    return "; ".join(told)


def killed(kills: int, seed: int) -> list[str]:
    """Kill every shape until `kills` processes have died; return the shapes that broke, and how."""
    try:
        from tests.crash import arms
        from tests.crash.catalogue import SHAPES
        from tests.crash.trial import Tally
    except Exception as error:
        return [f"no shape was killed: {_short(error)}"]
    broken: dict[str, str] = {}
    faults: dict[str, list[str]] = {}
    for shape in SHAPES:
        try:
            faults[shape] = list(arms.fault_trials(shape))
        except Exception as error:
            broken[shape] = f"{shape}, without any kill: {_short(error)}"
            print(f"BROKE {broken[shape]}")
    tally = Tally()
    for shape, name in _trials(faults, broken, seed):
        if tally.killed >= kills:
            break
        found = _lived(name, seed)
        tally.add(found)
        if found.violations:
            broken[shape] = f"{shape}, by {name}: {_short(found.violations[0])}"
            print(f"BROKE {broken[shape]}")
    print(f"{tally.killed} processes killed in {tally.trials} runs of {len(faults)} shapes")
    return list(broken.values())


def _trials(
    faults: dict[str, list[str]], broken: dict[str, str], seed: int
) -> Iterator[tuple[str, str]]:
    """Yield a shape and a trial of it, round after round, until all shapes are broken."""
    chance = Random(seed)
    for number in itertools.count():
        going = [shape for shape in faults if shape not in broken]
        for shape in going:
            yield shape, f"random/{shape}/{number}"
        for shape in going:
            if shape not in broken:
                yield shape, chance.choice(faults[shape])
        if not going:
            return


def _lived(name: str, seed: int) -> Tally:
    from tests.crash import arms
    from tests.crash.trial import Tally

    try:
        return arms.run_trial(name, seed)
    except Exception as error:
        return Tally(violations=[f"{name}: {_short(error)}"])


def installed() -> list[str]:
    """Return the name and version of each LangGraph and LangChain distribution."""
    return sorted(
        f"{found.name} {found.version}"
        for found in distributions()
        if found.name.startswith(("langgraph", "langchain"))
    )


def summary(broke: dict[str, list[str]], versions: Iterable[str]) -> str:
    """Return what broke, part by part, and with which versions."""
    lines = ["", "With " + ", ".join(versions) + ":"]
    for part, names in broke.items():
        lines.append(f"  {part}: {'' if names else 'none '}broke")
        lines += [f"    {name}" for name in names]
    return "\n".join(lines)


def _short(problem: object) -> str:
    text = str(problem)
    if isinstance(problem, BaseException):
        text = f"{type(problem).__name__}: {text}"
    text = " ".join(text.split())
    return text if len(text) <= LINE else text[: LINE - 1] + "…"


if __name__ == "__main__":
    main()
