"""What `import notebook_agents` costs, and what it must not load."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from .measure import Bench, interleave, quartiles, sandbox

if TYPE_CHECKING:
    from pathlib import Path

UNWANTED = (
    "cloudpickle",
    "cryptography",
    "dill",
    "duckdb",
    "ipywidgets",
    "jupyter",
    "langchain_core",
    "langgraph",
    "nbclient",
)
"""Whatever begins with one of these: `jupyter_client` is one of Jupyter's."""
_STATEMENT = "import notebook_agents"
_LIST = f"{_STATEMENT}, json, sys; print(json.dumps(sorted(sys.modules)))"


def run(bench: Bench) -> None:
    """Report what the import loads and how long it takes."""
    with sandbox() as home:
        loaded = json.loads(_python(home, _LIST))
        arms = {"bare": partial(_ms, home, "pass"), "ours": partial(_ms, home, _STATEMENT)}
        times = interleave(bench, arms, rounds=25)
    bad = [name for name in loaded if name.startswith(tuple(UNWANTED))]
    bench.verdict(
        f"{_STATEMENT} loads {', '.join(bad) or 'none'} of {', '.join(UNWANTED)}; bar none",
        met=not bad,
    )
    bare, ours = statistics.median(times["bare"]), statistics.median(times["ours"])
    more = [after - before for before, after in zip(*times.values(), strict=True)]
    bench.say(
        f"  python -c '{_STATEMENT}' {ours:.1f} ms, python -c pass {bare:.1f} ms: ratio "
        f"{ours / bare:.2f}, difference {ours - bare:.1f} ms{quartiles(more, '.1f')}; "
        "for information"
    )


def _ms(home: Path, code: str) -> float:
    began = time.perf_counter()
    _python(home, code)
    return (time.perf_counter() - began) * 1e3


def _python(home: Path, code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=home, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
