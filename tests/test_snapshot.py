"""Objects by name: what is pickled together, what is refused, and what a report says."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pytest

import notebook_agents as na
from notebook_agents.errors import ValueNotKeptError
from notebook_agents.model import Kind
from notebook_agents.pickling import reopen, snapshot


class Node:
    """Something with an identity."""

    def __init__(self, held: Any = None) -> None:
        self.held = held


def together(**objects: Any) -> list[tuple[str, ...]]:
    """Return what is kept, by what is pickled together."""
    taken = snapshot.take(objects)
    assert taken.refused == {}
    return sorted(group.names for group in taken.groups)


def back(objects: dict[str, Any]) -> dict[str, Any]:
    """Keep objects and load them again."""
    found: dict[str, Any] = {}
    for group in snapshot.take(objects).groups:
        copied = group.copied()
        assert copied.digest == group.digest
        found.update(
            snapshot.give(b"".join(copied.data), [b"".join(one) for one in copied.buffers])
        )
    return found


def test_what_is_pickled_together():
    """Names that share something which can be changed; an equal or constant thing is not that."""
    rows, text, array = [1], "text" * 100, numpy.arange(9)
    assert together(a=rows, b={"r": rows}, c=[1], d=text, e=[text]) == [
        ("a", "b"),
        ("c",),
        ("d",),
        ("e",),
    ]
    assert together(a=Node(), b=Node(), c=Node(Node)) == [("a",), ("b",), ("c",)]
    assert together(a=array, b=array[2:], c=array.copy(), d=[array]) == [("a", "d"), ("b",), ("c",)]
    first, second = Node(), Node()
    assert together(a=Node(first), b=[first, second], c={1: second}) == [("a", "b", "c")]
    found = back({"a": rows, "b": {"r": rows}})
    assert found["b"]["r"] is found["a"]


def test_what_a_class_of_a_cell_holds() -> None:
    """It brings its objects together only where a variable has it, too: a registry, say."""
    cell = {"__name__": "__main__"}
    exec("class Plugin:\n    known = []\n    def name(self): return super().__str__()", cell)
    made: Any = cell["Plugin"]
    assert together(a=made, b=made(), c=[made()]) == [("a",), ("b",), ("c",)]
    assert together(a=made, b=made(), c=made.known, d=[]) == [("a", "b", "c"), ("d",)]
    found = back({"a": made(), "c": made.known})
    assert found["a"].known is found["c"]
    ann, bob = made(), made()
    made.known.append(ann)
    bob.own = made.known
    assert together(a=ann, b=bob, c=Node()) == [("a", "b"), ("c",)]
    found = back({"a": ann, "b": bob})
    assert found["b"].own is type(found["a"]).known
    assert found["b"].own[0] is found["a"]


class Account:
    """Known by its name, whatever lies in it."""

    def __init__(self, name: str) -> None:
        self.name, self.balance = name, 0

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and other.name == self.name


@dataclass(unsafe_hash=True, slots=True)
class Slotted:
    """The same, without a dict of its own."""

    name: str
    balance: int = field(default=0, hash=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A value that says itself that nobody changes it."""

    name: str


@pytest.mark.parametrize("kind", [Account, Slotted])
def test_what_hashes_itself_may_be_shared_too(kind: type) -> None:
    """A class's own hash does not say that its objects do not change; what is a value stays so."""
    ann = kind("ann")
    assert together(a=ann, b={ann: 1}) == [("a", "b")]
    found = back({"a": ann, "b": {ann: 1}})
    assert found["a"] is next(iter(found["b"]))
    nameless: Any = type("Nameless", (Account,), {"__module__": None})("a")
    assert together(a=nameless, b=[nameless]) == [("a", "b")]
    when = pandas.Timestamp(2026, 1, 1)
    named = type("Named", (str,), {})("a")
    for value in (Place("here"), Path("a"), when, pandas.StringDtype(), Kind.CHUNK, named):
        assert together(a=[value], b=[value]) == [("a",), ("b",)]


def test_an_optimizer_moves_the_model_that_it_came_with() -> None:
    """Torch hashes tensors by their identity: those of the model are those that it has."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = torch.nn.Linear(2, 2)
    found = back({"model": model, "way": torch.optim.SGD(model.parameters())})
    assert found["way"].param_groups[0]["params"][0] is found["model"].weight


def test_a_tensor_lies_beside_as_an_array_does() -> None:
    """Taken without a copy, in any type; it comes back as torch's own, of its own."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    kinds = (torch.int64, torch.bfloat16, torch.uint16, torch.float8_e5m2)
    for made in [*(torch.ones(5000).to(kind) for kind in kinds), torch.ones(9), torch.ones(0)]:
        (group,) = snapshot.take({"x": made}).groups
        assert len(group.data) < 2000
        assert [one.nbytes for one in group.raw] == [made.nbytes] * (made.nbytes > 4096)
        again = back({"x": made})["x"]
        assert torch.equal(again.view(torch.uint8), made.view(torch.uint8))
        assert again.dtype is made.dtype
        again.resize_(10_000)
    assert together(a=torch.ones(5000), b=torch.ones(5000)) == [("a",), ("b",)]
    both = torch.zeros(5000, 2)
    assert [len(group.raw) for group in snapshot.take({"x": both, "y": list(both)}).groups] == [1]
    found = back({"x": both, "y": both.T[1]})
    found["x"][3, 1] = 7
    assert found["y"][3] == 7
    assert back({"memory": both.untyped_storage()})["memory"].nbytes() == 40_000


def test_columns_of_polars_lie_beside() -> None:
    """Numbers and moments are taken without a copy; what has gaps or text is pickled with them."""
    rows = 50_000
    moments = pandas.date_range("2026", periods=rows, freq="min")
    frame = polars.DataFrame(
        {
            "n": numpy.arange(rows),
            "half": numpy.arange(rows, dtype="f4") / 2,
            "at": polars.Series(moments).dt.replace_time_zone("UTC"),
            "day": polars.Series(moments).cast(polars.Date),
            "": numpy.arange(rows)[::-1].copy(),
            "gaps": [None, 1] * (rows // 2),
            "said": ["yes", "no"] * (rows // 2),
            "sorted": polars.Series(["a", "b"] * (rows // 2), dtype=polars.Enum(["b", "a"])),
            "exact": polars.Series([1, 2] * (rows // 2)).cast(polars.Decimal(10, 2)),
            "tiny": numpy.ones(rows, dtype="i1"),
        }
    ).with_columns(polars.col("n").set_sorted())
    (group,) = snapshot.take({"f": frame}).groups
    assert [one.nbytes // rows for one in group.raw] == [8, 4, 8, 4, 8]
    found = back({"f": frame})["f"]
    assert found.equals(frame)
    assert found.schema == frame.schema
    assert found["n"].flags == frame["n"].flags
    found[0, "n"] = 7
    assert found["n"].sum() == frame["n"].sum() + 7
    for one in (polars.concat([frame, frame], rechunk=False), frame[:10], frame[:0], frame[5:9000]):
        again = back({"f": one})["f"]
        assert again.equals(one)
        assert again.schema == one.schema
    assert back({"f": polars.DataFrame()})["f"].shape == (0, 0)
    assert not any(group.raw for group in snapshot.take({"f": frame[:1000]}).groups)
    assert together(a=frame, b=frame.clone(), c=frame["at"], d=[frame]) == [
        ("a", "d"),
        ("b",),
        ("c",),
    ]


def test_an_array_that_is_a_file_is_opened_again(tmp_path: Path) -> None:
    """What is written to it then is in the file; a part of it is an array of its own."""
    whole = numpy.memmap(tmp_path / "a", "i4", "w+", shape=(5000,))
    whole[1] = 1
    numpy.save(tmp_path / "b.npy", numpy.arange(10))
    read = numpy.load(tmp_path / "b.npy", mmap_mode="r")
    own = numpy.load(tmp_path / "b.npy", mmap_mode="c")
    own[0] = 5
    taken = snapshot.take({"whole": whole, "read": read})
    assert not any(group.raw for group in taken.groups)
    found = back({"whole": whole, "part": whole[:2], "read": read, "own": own})
    assert [type(found[name]) for name in ("whole", "part", "read", "own")] == [
        numpy.memmap,
        numpy.ndarray,
        numpy.memmap,
        numpy.ndarray,
    ]
    found["whole"][0] = 7
    found["part"][0] = 8
    assert (whole[0], whole[1], found["own"][0]) == (7, 1, 5)
    assert found["read"].tolist() == list(range(10))
    kept = snapshot.take({"whole": whole}).groups[0].data
    os.truncate(tmp_path / "a", 100)
    with pytest.raises(ValueNotKeptError, match="has 100 bytes by now"):
        snapshot.give(kept, [])
    assert (tmp_path / "a").stat().st_size == 100
    (tmp_path / "a").unlink()
    with pytest.raises(ValueNotKeptError, match="No such file"):
        snapshot.give(kept, [])


def test_buffers_lie_beside_and_can_be_changed():
    """A large array is no part of the pickle; the same array has the same digest."""
    array = numpy.random.default_rng(1).random(100_000)
    (group,) = snapshot.take({"a": array}).groups
    assert len(group.data) < 1000
    assert sum(len(raw) for raw in group.raw) == array.nbytes
    assert snapshot.take({"a": array}).groups[0].digest == group.digest
    array[99_999] += 1e-9
    assert snapshot.take({"a": array}).groups[0].digest != group.digest
    found = back({"a": array})["a"]
    found[0] = 5
    assert found[0] == 5


def test_weak_references():
    """One is kept where what it refers to is; elsewhere it would be dead, and is refused."""
    kid, other = Node(), Node()
    objects = {"kid": kid, "weak": weakref.ref(kid), "both": [other, weakref.ref(other)]}
    taken = snapshot.take({**objects, "lost": [weakref.ref(Node), weakref.ref(numpy)]})
    assert list(taken.refused) == ["lost"]
    assert taken.refused["lost"].startswith("it is a weak reference to what is not among the")
    found = back(objects)
    assert found["weak"]() is found["kid"]
    assert found["both"][1]() is found["both"][0]


def test_queues_and_events():
    """They are kept with what is in them, unless somebody waits for them or they are shut down."""
    stack, ranked, waited = queue.LifoQueue(), queue.PriorityQueue(2), queue.Queue()
    for number in (2, 1):
        stack.put(number)
        ranked.put(number)
    found = back({"stack": stack, "ranked": ranked, "jobs": asyncio.LifoQueue(3)})
    assert [found["stack"].get(), found["stack"].get()] == [1, 2]
    assert (found["ranked"].get(), found["ranked"].maxsize, found["jobs"].maxsize) == (1, 2, 3)
    worker = threading.Thread(target=waited.get)
    worker.start()
    while not waited.not_empty._waiters:
        pass
    assert "somebody waits for it now" in snapshot.take({"q": waited}).refused["q"]
    waited.put(1)
    worker.join()
    assert "q" not in snapshot.take({"q": waited}).refused


def test_changed_while_it_is_pickled():
    """What another thread changes meanwhile is pickled again, and refused if that never ends."""

    class Busy:
        def __init__(self, times: int) -> None:
            self.times = times

        def __reduce__(self) -> Any:
            self.times -= 1
            if self.times >= 0:
                raise RuntimeError("dictionary changed size during iteration")
            return str, ("quiet",)

    assert back({"a": Busy(2)}) == {"a": "quiet"}
    assert "dictionary changed size" in snapshot.take({"a": Busy(1000)}).refused["a"]


def test_a_hook_that_fails(monkeypatch):
    """An object whose description fails is refused by name, and the others are kept."""
    monkeypatch.setattr(reopen, "_hooks", {})
    na.on_restore("db", Node, keep=lambda node: node.nothing)
    taken = snapshot.take({"db": Node(), "rows": [1]})
    assert [group.names for group in taken.groups] == [("rows",)]
    assert "what on_restore keeps of it failed (AttributeError" in taken.refused["db"]


def test_a_report_says_it_three_times():
    """As text, as HTML in which everything is escaped, and as JSON."""
    report = na.RestoreReport(
        what="the objects of thread '<i>'",
        restored=("a", "<b>"),
        refused={"db": "it is a <connection>"},
        failed={"x": "no module 'shop' & more"},
        notes=("kept with <numpy>",),
    )
    assert str(report) == (
        "the objects of thread '<i>': 2 restored, 1 refused, 1 failed\n"
        "  note: kept with <numpy>\n  restored a\n  restored <b>\n"
        "  refused db: it is a <connection>\n  failed x: no module 'shop' & more"
    )
    html = report.to_html()
    for raw in ("<i>", "<b>", "<connection>", "<numpy>", "& more"):
        assert raw not in html
    assert html.count("<tr>") == 4
    assert json.loads(report.to_json()) == {
        "what": "the objects of thread '<i>'",
        "complete": False,
        "restored": ["a", "<b>"],
        "refused": {"db": "it is a <connection>"},
        "failed": {"x": "no module 'shop' & more"},
        "notes": ["kept with <numpy>"],
    }
    with pytest.raises(AttributeError):
        report.what = "changed"
