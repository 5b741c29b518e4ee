"""What keeping a kernel's variables behind each cell costs a notebook, and what it brings back.

The notebook is `sales.py`, in real kernels; without and with autosave take turns.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import notebook_agents as na

from .kernels import kernel
from .measure import Bench, cuts, quartiles, sandbox
from .weights import files

if TYPE_CHECKING:
    from .kernels import Ask

BYTES_BAR, TIME_BAR, ADDED_BAR, BACK_BAR = 0.25, 1.05, 100.0, 0.2
ROWS, SMALL_ROWS = 200_000, 2_000
OTHERS, SMALL_OTHERS = 500_000_000, 2_000_000
_SOURCE = Path(__file__).with_name("sales.py").read_text()
CELLS = tuple(f"# {cell}" for cell in re.split(r"(?m)^# %% ", _SOURCE)[1:])
"""The notebook's cells."""

_KEEP = """
%load_ext notebook_agents
exec('''
import time
took, at, spent = [], [0.0, 0.0], [0.0, 0.0]

def begin(*_):
    at[:] = time.perf_counter(), time.thread_time()

def end(*_):
    spent[0] += time.perf_counter() - at[0]
    spent[1] += time.thread_time() - at[1]

def behind(*_):
    end()
    took.append(tuple(spent))
    spent[:] = 0.0, 0.0

for name in ("pre_run_cell", "post_run_cell"):
    shell.events.register(name, begin)
shell.run_line_magic("agents", "autosave on")
shell.events.register("pre_run_cell", end)
shell.events.register("post_run_cell", behind)
shell.added = took
''', {"shell": get_ipython()})
"""
_END = """
exec('''
import notebook_agents as na
from notebook_agents.ui.autosave import keeper
na.snapshot()
keeper().journal.close()
''', {})
"""
_ADDED = "exec('import json; print(json.dumps(shell.added))', {'shell': get_ipython()})"
_LOOK = """
exec('''
import json
from notebook_agents.notebook import namespace
from notebook_agents.pickling import snapshot
found = snapshot.take(namespace.now().variables)
size = sum(group.size for group in found.groups)
names = sorted(name for group in found.groups for name in group.names)
print(json.dumps([size, names, summary.to_dict(), float(sensors[len(sensors) // 3, 7])]))
''', globals())
"""
_BACK = "exec('import notebook_agents as na; print(na.restore())', {})"
_DILL = """
exec('''
import dill

class Count:
    size = 0
    def write(self, data):
        self.size += memoryview(data).nbytes

count = Count()
dill.dump_session(count)
print(count.size)
''', {})
"""


class Ran(NamedTuple):
    """One run of the notebook.

    Attributes:
        seconds: All of it took, what autosave needs before the first cell and behind the last
            included.
        before: What loading the extension took of that.
        after: What the final flush took of it.
        added: What each cell took longer in the kernel's main thread, in milliseconds.
        busy: The processor's part of that.
        look: What is alive at the end: bytes, names, and some of the values.
    """

    seconds: float
    before: float
    after: float
    added: list[float]
    busy: list[float]
    look: Any


def run(bench: Bench) -> None:
    """Measure the notebook in its arms, and the array of which one element is changed."""
    if find_spec("sklearn") is None:
        line = "scikit-learn is not installed, and the notebook needs it: pip install --group bench"
        bench.verdict(line, met=False)
        return
    rows, others = bench.size(ROWS, SMALL_ROWS), bench.size(OTHERS, SMALL_OTHERS)
    with sandbox() as home:
        _times(bench, home, rows, others)
        if not bench.small:
            _bytes(bench, home, rows, others)
            _elements(bench, home, others)


def _times(bench: Bench, home: Path, rows: int, others: int) -> None:
    """Run the notebook without, with, and bring it back, in turns."""
    plain: list[Ran] = []
    kept: list[Ran] = []
    back: list[float] = []
    for number in range(bench.size(3, 1, 7)):
        folder = home / f"{number}"
        arms = [partial(_ran, folder, rows, others, keep=keep) for keep in (True, False)]
        for arm in bench.rng.sample(arms, len(arms)) if not bench.small else arms[:1]:
            (kept if arm.keywords["keep"] else plain).append(arm())
        back.append(_restored(folder, kept[-1]))
    times = {"with autosave": kept, "without": plain}
    systems = {
        name: {"values": [round(one.seconds * 1e3, 1) for one in of], "cpu": []}
        for name, of in times.items()
        if of
    }
    systems["brought back in a fresh kernel"] = {"values": [one * 1e3 for one in back], "cpu": []}
    work = f"a data notebook of {len(CELLS)} cells, {others / 1e6:.0f} MB of other variables alive"
    bench.row("variables", work, "ms", systems)
    _say(bench, kept)
    if plain:
        ratios = [a.seconds / b.seconds for a, b in zip(kept, plain, strict=True)]
        bench.judge(
            "the notebook with autosave, %load_ext and final flush included, ÷ without",
            statistics.median(ratios),
            TIME_BAR,
            spread=quartiles(ratios),
        )
        ratios = [a / b.seconds for a, b in zip(back, plain, strict=True)]
        size = kept[-1].look[0] / 1e6
        bench.judge(
            f"{size:.0f} MB brought back in a fresh kernel, {size / statistics.median(back):.0f} "
            "MB/s, ÷ running the notebook",
            statistics.median(ratios),
            BACK_BAR,
            spread=quartiles(ratios),
        )


def _say(bench: Bench, kept: list[Ran]) -> None:
    """Report what autosave takes in the main thread, cell by cell."""
    added = [took for one in kept for took in one.added]
    bench.kept["added"] = [one.added for one in kept]
    bench.say(
        f"  %load_ext {statistics.median(one.before for one in kept):.2f} s, final flush "
        f"{statistics.median(one.after for one in kept):.2f} s"
    )
    middles = [statistics.median(cell) for cell in zip(*(one.added for one in kept), strict=True)]
    bench.say("  added to each cell, ms: " + " ".join(f"{took:.0f}" for took in middles))
    low, middle, high = cuts(added)
    p95 = sorted(added)[max(round(len(added) * 0.95) - 1, 0)]
    bench.judge(
        f"added to a cell, ms: median {middle:.0f} (quartiles {low:.0f}-{high:.0f} of "
        f"{len(added)} cells), longest {max(added):.0f}, p95",
        p95,
        ADDED_BAR,
    )


def _ran(folder: Path, rows: int, others: int, *, keep: bool) -> Ran:
    """Run the notebook in a kernel of its own."""
    with _kernel(folder, rows, others) as ask:
        begun = time.perf_counter()
        if keep:
            ask(_KEEP)
        first = time.perf_counter()
        for cell in CELLS:
            ask(cell, cell=True)
        last = time.perf_counter()
        if keep:
            ask(_END)
        ended = time.perf_counter()
        said = json.loads(ask(_ADDED)) if keep else []
        added, busy = ([took[at] * 1e3 for took in said] for at in (0, 1))
        look = json.loads(ask(_LOOK)) if keep else None
    return Ran(ended - begun, first - begun, ended - last, added, busy, look)


def _kernel(folder: Path, rows: int, others: int) -> Any:
    folder.mkdir(exist_ok=True)
    return kernel(
        folder,
        JPY_SESSION_NAME=str(folder / "sales.ipynb"),
        SALES_ROWS=str(rows),
        SALES_OTHER_BYTES=str(others),
    )


def _restored(folder: Path, ran: Ran) -> float:
    """Bring the variables back in a fresh kernel; return how many seconds that took."""
    with _kernel(folder, 0, 0) as ask:
        begun = time.perf_counter()
        report = ask(_BACK)
        took = time.perf_counter() - begun
        look = json.loads(ask(_LOOK))
    if look[1:] != ran.look[1:]:
        raise RuntimeError(f"what came back is not what was kept: {report}")
    return took


def _bytes(bench: Bench, home: Path, rows: int, others: int) -> None:
    """Compare the bytes of all snapshots with those of one session a cell."""
    empty = home / "empty"
    na.Journal.open(empty).close()
    nothing = sum(files(empty).values())
    for alive, folder in ((others, home / "0"), (0, home / "alone")):
        if not folder.exists():
            _ran(folder, rows, alive, keep=True)
        ours = sum(files(folder / "journal").values()) - nothing
        sessions = 0
        with _kernel(home, rows, alive) as ask:
            for cell in CELLS:
                ask(cell, cell=True)
                sessions += int(ask(_DILL))
        bench.judge(
            f"all snapshots, {alive / 1e6:.0f} MB of other variables alive: {ours / 1e6:.1f} MB ÷ "
            f"one dill.dump_session a cell {sessions / 1e6:.1f} MB",
            ours / sessions,
            BYTES_BAR,
        )


def _elements(bench: Bench, home: Path, size: int) -> None:
    """Change one element of a large array in a cell, and look whether the next snapshot has it."""
    many, piece = size // 8, 500_000
    places = [0, 1, piece - 1, piece, many // 3, many // 2 + 1, many - piece, many - 2, many - 1]
    places += bench.rng.sample(range(many), 3)
    folder = home / "elements"
    with _kernel(folder, 0, 0) as ask:
        ask("%load_ext notebook_agents\n%agents autosave on")
        ask(f"import numpy\narray = numpy.random.default_rng(1).random({many})", cell=True)
        before = [_newest(ask)]
        for place in places:
            ask(f"array[{place}] = -1.0", cell=True)
            before.append(_newest(ask))
        right = 0
        for done in range(len(places)):
            ask(f"exec('import notebook_agents as na; na.restore({before[done] + 1})', {{}})")
            now = json.loads(ask(f"print([float(array[at]) for at in {places}])"))
            right += all((now[at] == -1.0) == (at <= done) for at in range(len(places)))
    line = (
        f"one element of an array of {size / 1e6:.0f} MB changed in place: {right} of "
        f"{len(places)} next snapshots have it, and nothing that came later"
    )
    bench.verdict(line, met=right == len(places))


def _newest(ask: Ask) -> int:
    """Take one more snapshot; return its number.

    The cell before has one of its own, unless a busy machine had that put off.
    """
    said = ask("exec('import notebook_agents as na; print(na.snapshot())', {})")
    return int(said.splitlines()[-1])
