"""Objects by name: what is pickled together, what is refused, and what a report says."""

from __future__ import annotations

import asyncio
import json
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
    when = pandas.Timestamp(2026, 1, 1)
    for value in (Place("here"), Path("a"), when, pandas.StringDtype(), Kind.CHUNK):
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
    for made in (torch.arange(5000), torch.ones(5000, dtype=torch.bfloat16), torch.ones(9)):
        (group,) = snapshot.take({"x": made}).groups
        assert len(group.data) < 2000
        assert [one.nbytes for one in group.raw] == [made.nbytes] * (made.nbytes > 4096)
        again = back({"x": made})["x"]
        assert torch.equal(again, made)
        assert again.dtype is made.dtype
        again.resize_(10_000)
    both = torch.zeros(5000, 2)
    assert torch.equal(back({"x": both.T[1]})["x"], both.T[1])
    assert together(a=torch.ones(5000), b=torch.ones(5000)) == [("a",), ("b",)]


def test_columns_of_polars_lie_beside() -> None:
    """Numbers and moments are taken without a copy; what has gaps or text is pickled with them."""
    moments = pandas.date_range("2026", periods=5000, freq="h")
    frame = polars.DataFrame(
        {
            "n": numpy.arange(5000),
            "half": numpy.arange(5000, dtype="f4") / 2,
            "at": moments,
            "day": polars.Series(moments).cast(polars.Date),
            "gaps": [None, 1] * 2500,
            "said": ["yes", "no"] * 2500,
            "sorted": polars.Series(["a", "b"] * 2500, dtype=polars.Enum(["b", "a"])),
            "exact": polars.Series([1, 2] * 2500).cast(polars.Decimal(10, 2)),
        }
    )
    (group,) = snapshot.take({"f": frame}).groups
    assert [one.nbytes for one in group.raw] == [40_000, 20_000, 40_000, 20_000]
    found = back({"f": frame})["f"]
    assert found.equals(frame)
    assert found.schema == frame.schema
    found[0, "n"] = 7
    assert found["n"].sum() == frame["n"].sum() + 7
    parts = polars.concat([frame, frame], rechunk=False)
    assert back({"f": parts})["f"].equals(parts)
    none = polars.DataFrame({"n": []}, schema={"n": polars.Int8})
    assert back({"f": none, "g": polars.DataFrame()})["f"].schema == none.schema
    assert together(a=frame, b=frame.clone(), c=frame["at"]) == [("a",), ("b",), ("c",)]


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
