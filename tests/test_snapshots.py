"""Snapshots of a shell's variables: what is in one, what is never in one, and what comes back."""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.shells import Shell, lived

import notebook_agents as na
from notebook_agents.journal.compact import compact
from notebook_agents.model import VARIABLES, Kind
from notebook_agents.notebook import namespace
from notebook_agents.notebook.snapshots import recorded, said
from notebook_agents.pickling import snapshot
from notebook_agents.runtime import object_records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ON = "import notebook_agents as na\n%agents autosave on"
KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
HELD = """
import threading
from notebook_agents.notebook.snapshots import Snapshots
_write, _go = Snapshots.write, threading.Event()
def _wait(self, *given, **options):
    _go.wait(60)
    return _write(self, *given, **options)
Snapshots.write = _wait
"""
THINNED = """
from notebook_agents.ui import autosave as _autosave
_autosave.KEPT, _autosave._AT_ONCE = 3, 4
"""
CUT = """
from notebook_agents.ui import autosave as _autosave
from notebook_agents.notebook import snapshots as _snapshots
_snapshots._TOGETHER = 1
_real, _appends = na.Journal.append, 0
def _append(self, drafts, **options):
    global _appends
    _appends += 1
    if _appends == AT:
        if BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        _real(self, drafts, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return _real(self, drafts, **options)
na.Journal.append = _append
"""
MOVING = """
import threading, time, numpy as np, pandas as pd
class Pair:
    pass
pair, twins, filled = Pair(), [[0], [0]], np.zeros(1000)
pair.one = pair.two = 0
large = np.zeros(1_500_000)
frame = pd.DataFrame({"a": np.zeros(5000), "b": np.zeros(5000)})
_stop, _begun = threading.Event(), threading.Event()
def _change():
    n = 0
    while not _stop.is_set():
        n += 1
        pair.one = n
        twins[0][0] = n
        filled.fill(n % 2)
        large.fill(n % 2)
        frame["a"] = frame["b"] = float(n)
        pair.two = n
        twins[1][0] = n
        _begun.set()
        if not n % 50:
            time.sleep(0.05)
_threads = threading.Thread(target=_change)
_threads.start()
_begun.wait()
"""


def kept(home: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield of each snapshot the variables it has, and what it says besides."""
    with na.Journal.open(home) as journal:
        (thread,) = [info.thread for info in journal.threads() if info.agent == VARIABLES]
        records = recorded(journal, thread)
        for n, record in enumerate(records):
            table = object_records.table(journal, records[: n + 1])
            variables: dict[str, Any] = {}
            for entry in set(table.entries.values()):
                data = object_records.read(journal, entry)
                variables.update(snapshot.give(data.data, data.buffers))
            yield {name: variables[name] for name in table.entries}, said(journal, record.seq)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name the folder of a notebook."""
    return tmp_path


def test_an_interrupted_snapshot_leaves_nothing_out_of_the_next(folder: Path) -> None:
    """Ctrl-C while it is taken: what changed is in the next one, which builds on none.

    Those that were taken before and wait are recorded.
    """
    interrupted = """
import os, signal
import numpy as np
import notebook_agents.notebook.namespace as _namespace
_around = _namespace.around
def _once(imports):
    _namespace.around = _around
    os.kill(os.getpid(), signal.SIGINT)
    return _around(imports)
_namespace.around = _once
x, large = 2, np.arange(100_000)
"""
    with Shell(folder) as shell:
        shell.run(HELD, ON, "x = 1")
        told = shell.run(interrupted)
        shell.run("y = 5; _go.set()")
        assert shell.run("na.snapshot()").endswith("Out[6]: 4\n")
        shell.kill("1")

    # The line that a new key is said in comes from another thread, whenever it gets there.
    assert "the variables are not kept behind this cell: KeyboardInterrupt" in told.splitlines()
    with Shell(folder) as shell:
        given = "x, y, int(large.sum())"
        assert "Out[2]: (2, 5, 4999950000)" in shell.run("%agents restore", given)
    states = [(one.get("x"), one.get("y")) for one, _ in kept(folder / ".notebook_agents")]
    assert states[:3] == [(None, None), (1, None), (2, 5)]


def test_a_compaction_that_the_next_one_sees_first(folder: Path) -> None:
    """One that waits refers to what may be gone: it is refused, and the next one has all."""
    waiting = """
_go.clear()
x = np.arange(500_000)
y = [x]
"""
    compacted = """
from notebook_agents.journal import Draft
from notebook_agents.journal.compact import compact
from notebook_agents.model import Kind
_other = na.Journal.open(".notebook_agents")
_other.append([Draft(kind=Kind.STEP_INTENDED, thread="t", scope="t")], durable=True)
_other.delete_thread("t")
compact(_other).generation
"""
    with Shell(folder) as shell:
        shell.run(HELD + "_go.set()", ON, "w = 0")
        shell.run("import numpy as np; z = np.arange(500_000)", "na.snapshot()")
        assert shell.run(waiting, compacted).endswith("]: 2\n")
        shell.run("w = 1; _go.set()", "na.snapshot()")
    states = [one for one, _ in kept(folder / ".notebook_agents")]
    assert (states[-1]["w"], int(states[-1]["y"][0].sum())) == (1, 124999750000)
    assert "another thread" not in shell.said


def test_a_snapshot_that_failed_leaves_nothing_out_of_those_taken_meanwhile(folder: Path) -> None:
    """One that was taken as what changed since the failed one is refused, and said; then all."""
    failing = """
import threading
from notebook_agents.notebook.snapshots import Snapshots
from notebook_agents.ui.autosave import keeper
_write, _go, _failed = Snapshots._write, threading.Event(), []
def _fail(self, *given, **options):
    _go.wait(60)
    if not _failed and any("x" in group.names for group in given[0].groups):
        _failed.append(1)
        raise OSError("no room")
    return _write(self, *given, **options)
Snapshots._write = _fail
"""
    with Shell(folder) as shell:
        shell.run(ON, "x = 1", "na.snapshot()", failing, "x = 2", "y = 5")
        shell.run("_go.set(); keeper().rest()", "z = 6", "na.snapshot()")
        assert "a snapshot of the variables was not recorded: no room" in shell.said
    states = [one for one, _ in kept(folder / ".notebook_agents")]
    assert all(one["x"] == 2 for one in states if "y" in one)
    assert states[-1]["z"] == 6


@pytest.mark.crash
@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_any_append_leaves_the_newest_whole_one(
    folder: Path, at: int, before: bool
) -> None:
    """Pieces of a large array, then the snapshot: no mix of two."""
    cut = CUT.replace("AT:", f"{at}:").replace("BEFORE", str(before))
    change = "n += 1; a[:] = n; b[n] = n"
    with Shell(folder) as shell:
        begin = "import os, signal, numpy as np\nn, a, b = 0, np.zeros(1_200_000), {}"
        shell.run(ON, begin, change, "na.snapshot()")
        with pytest.raises(EOFError):
            shell.run(cut, change, change, "na.snapshot()", change, "na.snapshot()")

    with Shell(folder) as shell:
        shell.run("%agents restore")
        looked = shell.run("print(n, set(a.tolist()), sorted(b))")

    n = int(looked.split()[0])
    assert n >= 1
    assert looked == f"{n} {{{n}.0}} {list(range(1, n + 1))}\n"


def test_no_torn_object_is_recorded_while_a_thread_changes_variables(folder: Path) -> None:
    """Halves of what belongs together are never of two moments; what does not rest is named."""
    with Shell(folder) as shell:
        shell.run(ON, MOVING, "for _ in range(25): na.snapshot()")
        shell.run("_stop.set(); _threads.join()")
        shell.run("last = na.snapshot()", "same = (pair.one, twins[0][0], frame.a[0])")
        shell.kill("na.snapshot()")

    states = list(kept(folder / ".notebook_agents"))
    assert len(states) > 25
    for state, more in states:
        sure = state.keys() - set(more["unsettled"])
        if {"pair", "twins"} <= sure:
            assert state["pair"].one - state["pair"].two in (0, 1)
            assert state["twins"][0][0] - state["twins"][1][0] in (0, 1)
        for name in sure & {"filled", "large"}:
            assert state[name].min() == state[name].max(), name
        if "frame" in state:
            assert len(set(state["frame"]["a"])) == len(set(state["frame"]["b"])) == 1
    last = states[-1][0]
    assert (last["pair"].two, last["twins"][1][0], last["frame"].b[0]) == last["same"]


@pytest.mark.parametrize("copied", [True, False])
def test_one_element_changed_in_place_is_in_the_next_snapshot(folder: Path, copied: bool) -> None:
    """Wherever it lies, through whatever it is changed; also where there is no room for copies."""
    make = """
import random, numpy as np, pandas as pd
large = np.zeros(12_500_000)
view, turned = np.ones(300_000)[1:], np.ones((500, 400)).T
every_other = np.zeros(100_000)[::2]
frame = pd.DataFrame({"a": np.zeros(300_000), "b": "text", "c": 1})
objects = np.array([1, "two", None] * 1000, dtype=object)
raw, nested = bytearray(10**6), {"a": [{"b": [(1, [2])]}], "s": {1}}
changes = {
    "large": lambda n: large.__setitem__(random.randrange(len(large)), n),
    "view": lambda n: view[5:].__setitem__(random.randrange(len(view) - 5), n + 10),
    "turned": lambda n: turned.__setitem__((random.randrange(400), random.randrange(500)), n + 10),
    "every_other": lambda n: every_other.__setitem__(random.randrange(50_000), n),
    "frame": lambda n: frame.__setitem__("c", n + 10),
    "objects": lambda n: objects.__setitem__(random.randrange(3000), f"new {n}"),
    "raw": lambda n: raw.__setitem__(random.randrange(10**6), n),
    "nested": lambda n: nested["a"][0]["b"][0][1].__setitem__(0, n + 10),
}
"""
    small = """
from notebook_agents.notebook import snapshots as _snapshots
_snapshots.free_memory, _snapshots._ALWAYS_COPIED = (lambda: 0), 0
"""
    look = """
_missed = []
for n in range(1, 4):
    for name, change in changes.items():
        change(n)
        na.snapshot()
        if name not in na.snapshots()[0].changed:
            _missed.append(name)
print(_missed)
"""
    with Shell(folder) as shell:
        shell.run("import notebook_agents as na", make, "" if copied else small, "na.snapshot()")
        assert shell.run("print(len(na.snapshots()))") == "1\n"
        assert shell.run(look) == "[]\n"


def test_without_room_for_copies_the_next_cell_waits(folder: Path) -> None:
    """What a cell changed is recorded as it left it, whatever the next one does."""
    slow = """
from notebook_agents.notebook import snapshots as _snapshots
_snapshots.free_memory, _snapshots._ALWAYS_COPIED = (lambda: 0), 0
_stored = _snapshots.Snapshots._stored
def _late(self, *given):
    _began.wait(0.3)  # a cell that did not wait would have begun
    return _stored(self, *given)
_snapshots.Snapshots._stored = _late
import threading
_began = threading.Event()
"""
    with Shell(folder) as shell:
        shell.run("import numpy as np", ON, slow, "a = np.zeros(10**6)")
        shell.run("_began.set(); a[:] = 7", "na.snapshot()")

    seen = [sorted(set(one["a"])) for one, _ in kept(folder / ".notebook_agents") if "a" in one]
    assert [0.0] in seen
    assert seen[-1] == [7.0]


def test_an_array_can_be_resized_in_the_cell_behind(folder: Path) -> None:
    """What is to be recorded does not hold on to the variables' own memory."""
    slow = """
import threading
from notebook_agents.notebook.snapshots import Snapshots
_write, _go = Snapshots._write, threading.Event()
def _late(self, *given, **options):
    _go.wait(60)
    return _write(self, *given, **options)
Snapshots._write = _late
"""
    with Shell(folder) as shell:
        shell.run("import numpy as np", ON, slow, "a = np.ones(10**5)")
        assert shell.run("a.resize(2 * 10**5)") == ""
        shell.run("_go.set()")


def test_old_snapshots_go_and_those_that_stay_are_whole(folder: Path) -> None:
    """Two kernels' worth: the oldest that is listed has all; after a compaction, too."""
    lived(folder, THINNED + ON, "base, x = list(range(1000)), 0", "na.snapshot()", "na.snapshot()")
    with Shell(folder) as shell:
        shell.run(THINNED + ON, "%agents restore", "import os, numpy as np")
        for n in range(30):
            shell.run(f"x = {n}; noise = np.frombuffer(os.urandom(10**5))")
        shell.run("%agents autosave off", "numbers = [one.number for one in na.snapshots()]")
        with na.Journal.open(folder / ".notebook_agents") as journal:
            done = compact(journal)
        for place in (-1, 1, 0):
            report = shell.run(f"at = numbers[{place}]", "print(na.restore(at=at))")
            assert "failed" not in report
            assert shell.run("print(len(base), len(noise))") == "1000 12500\n"

    assert done.records_before - done.records_after > 10
    assert done.bytes_before - done.bytes_after > 10**6


def test_a_fresh_kernel_brings_back_what_it_was_offered(folder: Path) -> None:
    """Also where its own cells are kept already; and an own na.snapshot() is meant from then on."""
    lived(folder, ON, "x = 41", "na.snapshot()")

    with Shell(folder, environment={"NOTEBOOK_AGENTS_AUTOSAVE": "on"}) as shell:
        shell.run("y = 1", "2")
        shell.run("%agents restore")
        assert shell.run("print(x, y)") == "41 1\n"
        shell.run("x = 5", "%agents restore")
        assert shell.run("print(x, y)") == "5 1\n"


def test_a_forked_child_records_nothing(folder: Path) -> None:
    """Neither what it runs, nor what it asks for; its parent goes on."""
    child = """
import os, multiprocessing
pid = os.fork()
if not pid:
    try:
        get_ipython().run_cell("x = 'of the child'", store_history=True)
        na.snapshot()
    except Exception as error:
        os._exit(7 if type(error).__name__ == "UsageError" else 8)
    os._exit(9)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def work():
    global x
    x = 'of another child'
other = multiprocessing.get_context("fork").Process(target=work)
other.start(); other.join(60)
del other
"""
    with Shell(folder) as shell:
        shell.run(ON, "x = 1")
        assert shell.run(child, "print(x, status)") == "1 7\n"
        assert shell.run("y = 2", "na.snapshot()", "print(na.snapshots()[0].kernel)") == "1\n"

    assert {one.get("x", 1) for one, _ in kept(folder / ".notebook_agents")} == {1}


def test_two_kernels_of_a_notebook_neither_lose_nor_mix(folder: Path) -> None:
    """The one that began last has the notebook's thread, the other one goes on in its own."""
    with Shell(folder) as first, Shell(folder) as second:
        first.run(ON, "x = 'first'", "both = [1]", "na.snapshot()")
        second.run(ON, "x = 'second'", "na.snapshot()")
        first.run("both.append(2)", "later = 3")
        first.run("na.snapshot()")
        said = "another kernel of this notebook has begun, which has thread a-variables"
        assert said in first.said
        first.run("x = 0; both = None", "na.restore(at=1)")
        assert first.run("print(x, both, later)") == "first [1, 2] 3\n"
        second.run("y = 4", "na.snapshot()")
        second.kill("1")

    with Shell(folder) as third:
        third.run("%agents restore")
        assert third.run("print(x, y, 'both' in globals())") == "second 4 False\n"


def test_a_deleted_thread_begins_anew_while_the_kernel_lives(folder: Path) -> None:
    """What it had is gone; what there is now is kept from the next cell on."""
    with Shell(folder) as shell:
        shell.run(ON, "x = 1", "n = na.snapshot()")
        shell.run("na.delete([t.thread for t in na.Journal.open().threads()][0])")
        shell.run("y = 2", "na.snapshot()")
        assert "was deleted: this notebook's variables are kept anew" in shell.said
        shell.kill("1")

    with Shell(folder) as shell:
        shell.run("%agents restore")
        assert shell.run("print(x, y)") == "1 2\n"


def test_what_is_hidden_is_not_kept_and_what_uses_it_is(folder: Path) -> None:
    """IPython's own names go with no function; imports and modules of the folder come back."""
    define = """
import json, sys, types
from pathlib import Path
import collections.abc as abc, importlib
Path("ours.py").write_text("value = 'ours'\\ndef f(): return value")
importlib.invalidate_caches()
import ours
from ours import f as g
def count(): return get_ipython().execution_count, len(In), Out, _
def secret(): return __version__
__version__ = "1.0"
made = types.ModuleType("made")
made.x = 3
"""
    with Shell(folder) as shell:
        shell.run(ON, "'hidden value'", define, "na.snapshot()")
        shell.kill("1")
    (folder / "ours.py").unlink()

    with Shell(folder) as shell:
        report = shell.run("%agents restore")
        assert not re.search(r"restored (_\w*|In|Out|exit|quit|get_ipython)\n", report)
        assert "module ours is not here: its kept source is used" in report
        shown = shell.run("print(g(), ours.value, json.dumps(1), abc.Sized, made.x, secret())")
        assert shown == "ours ours 1 <class 'collections.abc.Sized'> 3 1.0\n"
        assert shell.run("print(count()[0] == get_ipython().execution_count)") == "True\n"


def test_what_a_hostile_cell_leaves_costs_itself_at_most(folder: Path) -> None:
    """Odd names, classes that lie, reducers that raise or end the process, depth, generators."""
    cells = [
        "globals()[3] = globals()['\\ud800'] = 'x'",
        "globals()['a b <b>'] = 'odd'; str = len; list = 'shadow'",
        "class Liar:\n    @property\n    def __class__(self): 1 / 0\nliar = Liar()",
        "class Raises:\n    def __reduce__(self): raise RuntimeError('never')\nraises = Raises()",
        "class Effect:\n    def __reduce__(self): effects.append(1); return (int, (1,))\n",
        "effects, effect = [], Effect()",
        "deep = []\nfor _k in range(10**5): deep = [deep]",
        "gen = (n for n in [1])\ndef uses(): return next(gen)",
        "import weakref\nclass Held: pass\nheld = Held(); ref = weakref.ref(held)",
        "class Held:\n    def __del__(self): raise ValueError('at the end')\nagain = Held()",
        "import json\njson = 'no module'",
        "1 / 0",
        "import os; os.mkdir('sub'); os.chdir('sub'); os.rmdir('../sub')",
    ]
    with Shell(folder) as shell:
        shell.run(ON)
        for n, cell in enumerate(cells):
            shell.run(cell, f"n{n} = {n}")
        shell.run("print(na.snapshot())")
        assert "Error in callback" not in shell.said
        shell.kill("1")

    with Shell(folder) as shell:
        report = shell.run("r = na.restore() if 'na' in globals() else None\n%agents restore")
        for name in ("liar", "raises", "deep", "gen"):
            assert f"{name}:" in report
        shown = shell.run("print(globals()['a b <b>'], str('ab'), list, json, n0, n12, effect)")
        assert shown == "odd 2 shadow no module 0 12 1\n"
        assert shell.run("print(ref() is held, type(again).__name__)") == "True Held\n"


def test_code_that_ends_the_process_while_it_is_pickled_does_not(folder: Path) -> None:
    """SystemExit and KeyboardInterrupt out of a reducer are said; the cells behind are kept."""
    bad = "class Bad:\n    def __reduce__(self): raise {}\nbad = Bad()"
    with Shell(folder) as shell:
        shell.run(ON)
        for name in ("SystemExit(3)", "KeyboardInterrupt"):
            told = shell.run(bad.format(name))
            assert "the variables are not kept behind this cell" in told
        shell.run("del bad, Bad; x = 1", "na.snapshot()")

    *_, (state, _) = kept(folder / ".notebook_agents")
    assert state["x"] == 1


def test_a_folder_that_is_gone_does_not_stop_the_variables(folder: Path) -> None:
    """It is named among what did not come back."""
    (folder / "work").mkdir()
    lived(folder, ON, "import os; os.chdir('work'); x = 1", "na.snapshot()")
    (folder / "work").rmdir()

    with Shell(folder) as shell:
        report = shell.run("%agents restore")
        assert "failed the working folder: " in report
        assert shell.run("print(x)") == "1\n"


def test_a_snapshot_knows_its_cell(folder: Path) -> None:
    """The cell that asks for it, with autosave or without, and the one behind which it is."""
    with Shell(folder) as shell:
        shell.run("import notebook_agents as na", "x = na.snapshot()  # by hand")
        shell.run("%agents autosave on", "y = 1  # kept", "1")
        shown = shell.run("print([(s.cell, s.line) for s in reversed(na.snapshots())])")

    assert "(2, 'x = na.snapshot()  # by hand')" in shown
    assert "(4, 'y = 1  # kept')" in shown


def test_a_bad_record_is_refused_by_name_and_the_others_are_usable(folder: Path) -> None:
    """A bit that flipped in the newest: nothing of it is unpickled."""
    lived(folder, ON, "x = 1", "y = [2]", "na.snapshot()")
    with na.Journal.open(folder / ".notebook_agents") as journal:
        seqs = [record.seq for record in journal.select(kinds=[Kind.SNAPSHOT])]
        (newest,) = journal.sealed(seqs[-1:])
        assert newest.payload is not None
        bad = newest.payload[:-1] + bytes([newest.payload[-1] ^ 1])
        journal._writer.execute(
            "UPDATE records SET payload = $payload WHERE seq = $seq",
            {"payload": bad, "seq": newest.seq},
        )

    with Shell(folder) as shell:
        told = shell.run("%agents restore")
        assert f"record {newest.seq} (snapshot) of thread" in told
        assert "does not open" in told
        assert "Traceback" not in told
        assert shell.run("print('x' in globals())") == "False\n"
        shell.run("%agents restore --at 2")
        assert shell.run("print(x)") == "1\n"


def test_a_restore_loses_nothing_and_is_what_the_next_one_brings_back(folder: Path) -> None:
    """What changed since is kept first; behind an undo the newest is what came back."""
    lived(folder, ON, "x = [1]", "x.append(2)", "na.snapshot()")

    with Shell(folder) as shell:
        shown = shell.run("%agents restore")
        assert "autosave on keeps what changes from now on" in shown
        shell.run("x.append('new')", "%agents restore")
        assert shell.run("print(x)") == "[1, 2]\n"
        number = int(shell.run("print(na.snapshots()[1].number)"))
        assert "what there was before" in shell.run("print(na.snapshots()[1].line)")
        shell.run(f"%agents restore --at {number}")
        assert shell.run("print(x)") == "[1, 2, 'new']\n"
        shell.kill("%agents restore --at 2")

    with Shell(folder) as shell:
        shell.run("%agents restore")
        assert shell.run("print(x)") == "[1]\n"


def test_what_a_restore_does_around_the_variables_is_taken_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that run again, since something did not load, run where they ran the first time."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STAGE", "a")
    before, drawn = namespace.surroundings(), random.getstate()
    (folder / "data").mkdir()
    monkeypatch.chdir(folder / "data")
    monkeypatch.setenv("STAGE", "aa")
    monkeypatch.syspath_prepend("/nowhere")
    random.random()
    namespace.take_back(before)
    assert (Path.cwd(), os.environ["STAGE"]) == (folder, "a")
    assert "/nowhere" not in sys.path
    assert random.getstate() == drawn
