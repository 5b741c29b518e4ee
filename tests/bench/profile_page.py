"""`docs/profile.md`, made from the JSON of a run in which "profile" was."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from .measure import cuts
from .systems import MEMORY, OURS, SYNC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_INTRO = """\
# Where the time goes

`python -m tests.bench profile`, also a part of `make bench`, measures this and writes this page
anew.
"""

_LIMIT = """
**The limit.** An intent that is on disk before its step costs at least one append and one
`fdatasync`. As many bytes as a step writes, alone, in the same rounds, on the same disk:
"""

_WHO = """
**Who computes**, by cProfile in the thread that drives. It slows Python code down, and C code
hardly at all: these are shares, not costs.
"""
_LEAST = 0.005


def lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the page's lines."""
    from .page import machine

    kept = run["benchmarks"]["profile"]["kept"]
    yield _INTRO
    yield from machine(run)
    yield from _step(kept["step"])
    yield from _resume(kept["resume"])
    yield ""


def _step(step: Mapping[str, Any]) -> Iterator[str]:
    timed = step["timed"]
    base, ours, peer = (timed[name]["all"] for name in (MEMORY, OURS, SYNC))
    appends, synced = timed[OURS]["appends"], timed[OURS]["fdatasync"]
    own = [a - p - b for a, p, b in zip(ours, appends, base, strict=True)]
    commit = [p - s for p, s in zip(appends, synced, strict=True)]
    yield f"\n## One step\n\nA small node, {step['steps']} times in a row, with two clocks in it.\n"
    yield "| part | ms a step | quartiles | |\n|---|--:|--:|---|"
    yield _line("LangGraph itself", base, f"the same graph with {MEMORY}")
    yield _line("the log's fdatasync", synced, "once, for intent, checkpoint and the result before")
    yield _line("the rest of the appends", commit, "two: encode, seal, two SQLite transactions")
    yield _line("everything else of ours", own, "encoding values, keeping order, wrapping the node")
    yield _line("**the whole step**", ours, "run start and end are spread over the steps")
    yield _line(SYNC, peer, "in the same rounds, for comparison")
    least = timed["floor"]
    size = f"{step['bytes']:,} bytes"
    yield _LIMIT
    yield "| | ms | quartiles | |\n|---|--:|--:|---|"
    yield _line("pwrite + fdatasync, log in place", least["overwritten"], f"{size}, as ours does")
    yield _line(
        "pwrite + fdatasync, file grows", least["grown"], f"{size}, the length is synced too"
    )
    floor, whole = (statistics.median(v) for v in (least["overwritten"], ours))
    added = whole - statistics.median(base)
    yield f"\nA step adds {added:.2f} ms to LangGraph, {added / floor:.1f} times that limit."
    yield _WHO
    yield from _owners(step["owners"], "ms a step, profiled")
    yield "\nThe functions that took longest themselves:\n"
    yield "| function | calls a step | own ms | ms with what it calls |\n|---|--:|--:|--:|"
    for name, calls, alone, every in step["dearest"]:
        yield f"| `{name}` | {calls:.1f} | {alone:.3f} | {every:.3f} |"
    yield from _calls(step)


def _calls(step: Mapping[str, Any]) -> Iterator[str]:
    if not step["calls"]:
        yield "\nSystem calls were not counted: strace is not installed, or may not trace here."
        return
    yield f"\n**System calls a step**: `strace -f -c` of {2 * step['steps']} steps less that of"
    yield f"{step['steps']}; those below 0.05 are left out.\n"
    yield "| call | a step |\n|---|--:|"
    for name, number in step["calls"].items():
        yield f"| {name} | {number:.2f} |"


def _resume(resume: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## One resume\n"
    steps = resume["steps"]
    yield f"A thread of {steps} steps, killed in the last but one, goes on in an empty process."
    for where, phases in resume["timed"].items():
        yield f"\n**{where}**\n"
        yield "| phase | ms | quartiles | |\n|---|--:|--:|---|"
        for mark, values in phases.items():
            yield _line(mark, values, "")
        every = [sum(values) for values in zip(*phases.values(), strict=True)]
        yield _line("**start to first new step**", every, "")
        yield "\nThe last phase to the end of the run, by who computes (cProfile):\n"
        yield from _owners(resume["owners"][where], "ms, profiled")


def _owners(owners: Mapping[str, float], unit: str) -> Iterator[str]:
    whole = sum(owners.values())
    yield f"| | {unit} | share |\n|---|--:|--:|"
    for owner, each in owners.items():
        if each / whole >= _LEAST:
            yield f"| {owner} | {each:.3f} | {each / whole:.0%} |"


def _line(what: str, values: list[float], note: str) -> str:
    low, middle, high = cuts(values)
    return f"| {what} | {middle:.3f} | {low:.3f}–{high:.3f} | {note} |"
