"""Where the time of one step and of one resume goes, and what no durable append can do without."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from notebook_agents.journal import log as journal_log
from notebook_agents.journal.writer import Writer

from .measure import ROOT, Bench, child, interleave, sandbox
from .overhead import sequence
from .profiles import by_owner, dearest, profiled
from .resume import STAMP, killed_journals
from .resumed import MARKS
from .systems import MEMORY, OURS, SYNC, SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROUNDS = 11
_SHOWN = 12
_USUAL = 16_384
"""The bytes that a step writes, where the system does not count them."""


def run(bench: Bench) -> None:
    """Profile both; docs/profile.md is made of what is kept."""
    steps = bench.size(200, 10)
    with sandbox() as home:
        bench.kept["step"] = _step(bench, home, steps)
        bench.kept["resume"] = _resume(bench, home, bench.size(100, 5))


# -- one step -----------------------------------------------------------------------------------


def _step(bench: Bench, home: Path, steps: int) -> dict[str, Any]:
    calls, written = _system_calls(home, steps)
    once = partial(_timed, home, steps)
    arms: dict[str, Callable[[], Mapping[str, float]]] = {
        name: partial(once, name) for name in (MEMORY, SYNC, OURS)
    }
    size = int(written) or _USUAL
    arms["floor"] = lambda: {
        name: statistics.median(took)
        for name, took in _floor(home, size, times=bench.size(200, 10)).items()
    }
    found = interleave(bench, arms, rounds=ROUNDS)
    kept = {
        name: {part: [values[part] for values in rounds] for part in rounds[0]}
        for name, rounds in found.items()
    }
    ours = {part: statistics.median(values) for part, values in kept[OURS].items()}
    least = statistics.median(kept["floor"]["overwritten"])
    bench.say(
        f"  one step: {ours['all']:.3f} ms, of which waiting for appends {ours['appends']:.3f}, of "
        f"which fdatasync {ours['fdatasync']:.3f}; fdatasync of as many bytes alone {least:.3f} ms"
    )
    folder = home / "profiled"
    folder.mkdir()
    with SYSTEMS[OURS](folder) as system:
        given = {"n": 0, "log": []}
        profile = profiled(lambda: system.run(sequence(steps), given))
    return {
        "steps": steps,
        "bytes": size,
        "timed": kept,
        "calls": calls,
        "owners": {owner: each / steps * 1e3 for owner, each in by_owner(profile).items()},
        "dearest": [
            (name, calls / steps, own / steps * 1e3, every / steps * 1e3)
            for name, calls, own, every in dearest(profile, least=_SHOWN)
        ],
    }


def _timed(home: Path, steps: int, name: str) -> dict[str, float]:
    """Return ms a step: all of it, and what a driver waits for."""
    folder = home / f"{name}-{time.monotonic_ns()}"
    folder.mkdir()
    with ExitStack() as stack:
        spent = {
            "appends": stack.enter_context(_watched(Writer, "append")),
            "fdatasync": stack.enter_context(_watched(journal_log, "_to_disk")),
        }
        system = stack.enter_context(SYSTEMS[name](folder))
        for watch in spent.values():
            watch.clear()
        begun = time.perf_counter()
        system.run(sequence(steps), {"n": 0, "log": []})
        spent["all"] = [time.perf_counter() - begun]
    return {part: sum(seconds) / steps * 1e3 for part, seconds in spent.items()}


@contextmanager
def _watched(owner: Any, name: str) -> Iterator[list[float]]:
    """Give the seconds of each call of a function, as they are noted."""
    took: list[float] = []
    real = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            took.append(time.perf_counter() - begun)

    with patch.object(owner, name, watched):
        yield took


def _floor(folder: Path, size: int, *, times: int) -> dict[str, list[float]]:
    """Return what the disk takes for what no durable append can do without, in ms each.

    Args:
        folder: Where the files are made.
        size: The bytes of one append.
        times: How often.

    Returns:
        "grown": appended to a file that grows, then `fdatasync`. "overwritten": the same on blocks
        that the file has already, as a log that is used again does.
    """
    found: dict[str, list[float]] = {}
    path = folder / "floor"
    content = os.urandom(size)
    for name in ("grown", "overwritten"):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        took = []
        for number in range(times):
            begun = time.perf_counter()
            os.pwrite(file, content, number * size)
            os.fdatasync(file)
            took.append((time.perf_counter() - begun) * 1e3)
        os.close(file)
        found[name] = took
    return found


def _system_calls(home: Path, steps: int) -> tuple[dict[str, float], float]:
    """Return system calls a step, and bytes written a step, from runs of two lengths."""
    short, long = (_traced(home, steps * times) for times in (1, 2))
    calls = {name: (long[0][name] - short[0][name]) / steps for name in long[0]}
    shown = {name: n for name, n in sorted(calls.items(), key=lambda c: -c[1]) if n >= 0.05}
    return shown, (long[1] - short[1]) / steps


def _traced(home: Path, steps: int) -> tuple[Counter[str], float]:
    """Run a sequence in a process; return its system calls, if strace is here, and bytes."""
    out, folder = home / f"{steps}.strace", home / f"traced-{steps}"
    folder.mkdir()
    command = child("profile", folder, steps)
    calls: Counter[str] = Counter()
    if shutil.which("strace"):
        traced = ["strace", "-f", "-c", "-o", str(out), *command]
        if subprocess.run(traced, cwd=ROOT, check=False, capture_output=True).returncode == 0:
            for line in out.read_text().splitlines():
                found = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)", line)
                if found and found[2] != "total":
                    calls[found[2]] = int(found[1])
        shutil.rmtree(folder)
        folder.mkdir()
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return calls, float(told.stdout)


def _written() -> int:
    """Return the bytes that this process has written, the page cache included; 0 if unknown."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0
    return int(re.findall(r"wchar: (\d+)", text)[0])


# -- one resume ---------------------------------------------------------------------------------


def _resume(bench: Bench, home: Path, steps: int) -> dict[str, Any]:
    journals = killed_journals(home, steps, chat=False)
    arms = {where: partial(_marks, journal, home) for where, journal in journals.items()}
    found = interleave(bench, arms, rounds=ROUNDS)
    kept: dict[str, Any] = {"steps": steps, "marks": list(MARKS), "timed": {}, "owners": {}}
    for where, rounds in found.items():
        kept["timed"][where] = {mark: [each[mark] for each in rounds] for mark in MARKS}
        kept["owners"][where] = _marks(journals[where], home, profile=True)
        shown = ", ".join(
            f"{mark} {statistics.median(values):.0f}"
            for mark, values in kept["timed"][where].items()
        )
        bench.say(f"  resume of {steps} steps, {where}, ms: {shown}")
    return kept


def _marks(journal: Path, home: Path, *, profile: bool = False) -> dict[str, float]:
    """Resume a copy of a journal; return ms by phase, or by who spent the last phase."""
    copy = home / f"resumed-{time.monotonic_ns()}"
    shutil.copytree(journal, copy)
    env = {**os.environ, STAMP: str(copy.with_suffix(".stamp"))}
    command = [*child("resumed", copy, time.time_ns()), *(["profile"] if profile else [])]
    told = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    with SYSTEMS[OURS](Path(sys.argv[1])) as _system:
        _system.run(sequence(int(sys.argv[2])), {"n": 0, "log": []})
    print(_written())
