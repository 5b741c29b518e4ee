"""`docs/benchmarks.md` and its plots, made from the JSON of a run and of the peers' runs.

`python -m tests.bench.page [JSON] [FOLDER]` makes them again without measuring anything.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measure import cuts
from .systems import MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
OUT = REPOSITORY / "bench-out"
PEERS = DOCS / "peers.json"
_QUIET = 0.5
"""The load before a run, from which on its figures say little."""
DRAWN = ("sequence", "fan-out")


def write(run: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pages that a run has the numbers for; return their paths.

    Args:
        run: What `tests.bench` put into its JSON.
        folder: Where the pages go.
    """
    from . import profile_page

    folder.mkdir(parents=True, exist_ok=True)
    done = []
    benchmarks = run["benchmarks"]
    if run["all"]:
        from . import plots  # here, for a single benchmark needs no drawing library

        drawn = [row for row in _rows(benchmarks) if row["name"] in DRAWN]
        plots.overhead(drawn, MEMORY, folder / "overhead.svg")
        plots.files(benchmarks["size"]["kept"]["files"], folder / "files.svg")
        peers = json.loads(PEERS.read_text()) if PEERS.exists() else {}
        (folder / "benchmarks.md").write_text("\n".join(_page(run, peers)))
        done += [folder / name for name in ("benchmarks.md", "overhead.svg", "files.svg")]
    if "profile" in benchmarks:
        (folder / "profile.md").write_text("\n".join(profile_page.lines(run)))
        done.append(folder / "profile.md")
    return done


_INTRO = """\
# Benchmarks

`make bench` measures everything here but the last part and writes this page anew. Numbers of one
run compare; numbers of two runs do not. The systems of a row take turns, in an order that is
shuffled each round; a value is the median of the rounds, with its quartiles. CPU is that of all
threads of the process. Files are on the disk that is named, never in memory.
"""

_PLOTS = """
![What each system adds to a step](overhead.svg)

![Size of all files over the steps of a run](files.svg)

A line that jumps at the end is of a system whose checkpoints were still waiting in memory.

**The systems.** *Agent* is this package with a journal that any number of processes share. *Agent,
exclusive* is the same with `na.Journal.open(mode="exclusive")`: DuckDB stays open in the one
process that may read history; appending is the same. *sync* and *async* are LangGraph's
`durability`: with *async* a step does not wait for its checkpoint, so less is on disk when it
begins. Only *Agent* writes down that a step begins before it does.
"""

_BY_HAND = """
## By hand: systems that need a server or other versions

Each was run once, in an environment of its own, beside what of the above fits into it. The numbers
are kept in `docs/peers.json`; the command measures anew and replaces them."""


def _page(run: Mapping[str, Any], peers: Mapping[str, Any]) -> Iterator[str]:
    benchmarks = run["benchmarks"]
    yield _INTRO
    yield from machine(run)
    yield _PLOTS
    yield "## Systems beside each other"
    for name, benchmark in benchmarks.items():
        for row in benchmark["rows"]:
            yield from _table(row, f"python -m tests.bench {name}")
    yield ""
    yield "## Bars"
    yield ""
    yield "| what | | command |"
    yield "|---|---|---|"
    for name, benchmark in benchmarks.items():
        for bar in benchmark["bars"]:
            line = bar["line"].replace("|", "\\|")
            said = f"**{bar['said']}**" if bar["said"] == "MISSED" else bar["said"]
            yield f"| {line} | {said} | `python -m tests.bench {name}` |"
    yield ""
    yield "## Also reported"
    for name, benchmark in benchmarks.items():
        if benchmark["lines"]:
            yield f"\n`python -m tests.bench {name}`\n"
            yield from (f"- {line}" for line in benchmark["lines"])
    yield from _peers(peers)
    yield ""


def machine(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that say when, on what and with what a run was measured."""
    facts = run["facts"]
    if "seconds" in run:  # it has ended
        yield f"- `{run['command']}`, {facts['date']}, {run['seconds'] / 60:.0f} minutes"
    after = f", {run['load_after']} after" if "load_after" in run else ""
    yield (
        f"- {facts['cores']} cores of {facts['processor']}, {facts['memory_gb']} GB, "
        f"{facts['system']}, {facts['file_system']}, load {facts['load']} before{after}"
    )
    if facts["load"] > _QUIET:
        yield "- **the machine had other work meanwhile: the figures are placeholders**"
    yield "- " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())


def _rows(benchmarks: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (row for benchmark in benchmarks.values() for row in benchmark["rows"])


def _table(row: Mapping[str, Any], command: str) -> Iterator[str]:
    """Yield a row as a table; where InMemorySaver is in it, with what each adds to it."""
    systems = row["systems"]
    base = systems.get(MEMORY)
    rounds = max(len(values["values"]) for values in systems.values())
    of = f", {rounds} rounds" if rounds > 1 else ""
    yield f"\n**{row['work'][0].upper()}{row['work'][1:]}** · `{command}`{of}\n"
    columns = [row["unit"]]
    if rounds > 1:
        columns.append("quartiles")
    if any(values["cpu"] for values in systems.values()):
        columns.append("CPU")
    if base:
        columns.append(f"over {MEMORY}")
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'--:|' * len(columns)}"
    for name, values in systems.items():
        low, middle, high = cuts(values["values"])
        cells = {
            row["unit"]: _number(middle),
            "quartiles": f"{_number(low)}–{_number(high)}",
            "CPU": _number(statistics.median(values["cpu"])) if values["cpu"] else "",
        }
        if base and values is not base:
            cells[f"over {MEMORY}"] = _number(middle - statistics.median(base["values"]))
        yield f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |"


def _peers(peers: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was measured by hand; `python -m tests.bench.peers` keeps it in a file."""
    yield _BY_HAND
    for run in peers.values():
        yield f"\n### {run['title']}\n"
        yield from machine(run)
        yield from (f"- {note}" for note in run["notes"])
        for row in run["rows"]:
            yield from _table(row, run["command"])


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


if __name__ == "__main__":
    _json = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT / "bench.json"
    for _path in write(json.loads(_json.read_text()), Path(sys.argv[2]) if sys.argv[2:] else DOCS):
        print(_path)
