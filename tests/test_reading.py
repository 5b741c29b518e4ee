"""What is read for the newest checkpoint, a page, a named checkpoint: all of it, and no more."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from bench.bulk import bulk, count
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from support.checks import refused
from support.shapes import build, go

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.journal import Draft
from notebook_agents.model import Kind
from notebook_agents.runtime.view import run_view, steps_page
from notebook_agents.ui import details

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPACES = ("", "inner:1")
MOST = {"newest": 10, "named": 10, "list": 40, "steps": 80}
"""How many records may be read for a checkpoint, for seven of them, for seven steps."""


def at(ns: str = "", thread: str = "t", **more: Any) -> Any:
    """Return a config that names a thread's namespace."""
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, **more}}


# -- the same answers as from the whole history ---------------------------------------------------


class Doings:
    """Does something to a thread at random, through one of two openings of a journal."""

    def __init__(self, rng: Random, journals: list[na.Journal]) -> None:
        self._rng = rng
        self._journals = journals
        self.savers = [na.JournalSaver(journal) for journal in journals]
        self._last: dict[str, Any] = {}
        self._n = 0

    def one(self) -> str:
        """Do something; return what."""
        doings = (self.put, self.put, self.put, self.write, self.write, self.ingest, self.hide)
        rare = (self.prune, self.again, self.delete, self.copy)
        do = self._rng.choice(rare if self._rng.random() < 0.15 else doings)
        do()
        return do.__name__

    @property
    def saver(self) -> na.JournalSaver:
        """One of the two."""
        return self._rng.choice(self.savers)

    def put(self) -> None:
        """Store a checkpoint, whose value grew or not, behind the newest of its namespace."""
        self._put({**empty_checkpoint(), "channel_values": self._values()})

    def again(self) -> None:
        """Store a checkpoint anew, under its id."""
        ns = self._rng.choice(SPACES)
        if ns in self._last:
            found = self._last[ns]["configurable"]["checkpoint_id"]
            self._put({**empty_checkpoint(), "id": found, "channel_values": self._values()}, ns)

    def _values(self) -> dict[str, Any]:
        self._n += 1
        return {"n": self._n, "many": ["text " * 60 + str(n) for n in range(self._n // 3)]}

    def _put(self, checkpoint: Any, ns: str | None = None) -> None:
        ns = self._rng.choice(SPACES) if ns is None else ns
        checkpoint["channel_versions"] = {"n": self._n, "many": self._n // 3}
        run = str(self._rng.randrange(20))
        self._last[ns] = self.saver.put(
            self._last.get(ns) or at(ns),
            checkpoint,
            {"source": "loop", "step": self._n, "parents": {}, "run_id": run},  # type: ignore[typeddict-unknown-key]
            {},
        )

    def write(self) -> None:
        """Store what a task writes for a checkpoint, or for one that is never stored."""
        ns = self._rng.choice(SPACES)
        config = self._last.get(ns) or at(ns, checkpoint_id=empty_checkpoint()["id"])
        task = f"task{self._rng.randrange(3)}"
        self.saver.put_writes(config, [("n", self._n), ("many", ["x" * 400])], task)

    def ingest(self) -> None:
        """Have DuckDB take what there is."""
        self._rng.choice(self._journals).ingest()

    def hide(self) -> None:
        """Delete what some runs stored."""
        self.saver.delete_for_runs([str(self._rng.randrange(20))])

    def prune(self) -> None:
        """Keep the newest state only."""
        self.saver.prune(["t"])

    def delete(self) -> None:
        """Delete the thread."""
        self.saver.delete_thread("t")
        self._last = {}

    def copy(self) -> None:
        """Have a copy under the thread's name."""
        self.saver.delete_thread("copy")
        if self._journals[0].head("t") is not None:
            self.saver.copy_thread("t", "copy")
            self.saver.delete_thread("t")
            self.saver.copy_thread("copy", "t")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_for_one_checkpoint_is_what_the_history_says(home: Path, seed: int) -> None:
    """Newest, named and listed checkpoints are those of the whole history, whoever wrote last."""
    rng = Random(seed)
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        doings = Doings(rng, [journal, other])
        remembering = na.JournalSaver(journal)
        done: list[str] = []
        for _ in range(60):
            done.append(doings.one())
            if rng.random() < 0.5:
                _compare(remembering, [*na.JournalSaver(other).list(at())], done)
                for ns in SPACES:
                    whole = [*na.JournalSaver(other).list(at(ns))]
                    for saver in (remembering, *doings.savers):
                        newest = saver.get_tuple(at(ns))
                        assert newest == (whole[0] if whole else None), done


def _compare(saver: na.JournalSaver, whole: list[Any], done: list[str]) -> None:
    for limit in (0, 1, 2, 5):
        assert [*saver.list(at(), limit=limit)] == whole[:limit], done
    for before in whole[:3]:
        rest = whole[whole.index(before) + 1 :][:2]
        assert [*saver.list(at(), before=before.config, limit=2)] == rest, done
        assert saver.get_tuple(before.config) == before, done
    every: Any = {"configurable": {"thread_id": "t"}}
    assert [*saver.list(every, limit=4)] == [*saver.list(every)][:4], done


class Point(BaseModel):
    """A type of one's own."""

    x: int


def test_a_clone_reads_its_own_types_whoever_read_before(journal: na.Journal) -> None:
    """LangGraph clones the saver for each graph: what one may not load again, another still may."""
    plain = na.JournalSaver(journal)
    allowed = plain.with_allowlist([(__name__, "Point")])
    checkpoint = {**empty_checkpoint(), "channel_values": {"p": Point(x=3)}}
    allowed.put(at(), {**checkpoint, "channel_versions": {"p": 1}}, {"parents": {}}, {})  # type: ignore[typeddict-item]

    for saver, kind in ((plain, dict), (allowed, Point), (plain, dict)):
        found = saver.get_tuple(at())
        assert found is not None
        assert type(found.checkpoint["channel_values"]["p"]) is kind


def test_what_was_returned_can_be_changed(journal: na.Journal) -> None:
    """Who changes a state that was read changes nobody else's."""
    saver = na.JournalSaver(journal)
    checkpoint = {**empty_checkpoint(), "channel_values": {"many": ["x" * 300]}}
    saver.put(at(), {**checkpoint, "channel_versions": {"many": 1}}, {"parents": {}}, {})  # type: ignore[typeddict-item]
    for _ in range(3):
        found = saver.get_tuple(at())
        assert found is not None
        values = found.checkpoint["channel_values"]
        assert values == {"many": ["x" * 300]}
        values["many"].append("more")
        values["other"] = 1


def test_a_deleted_thread_is_not_remembered(home: Path) -> None:
    """What this process has read of a thread is not given once another one deleted it."""
    with na.Journal.open(home) as journal, na.Journal.open(home) as other:
        saver = na.JournalSaver(journal)
        saver.put(at(), empty_checkpoint(), {"parents": {}}, {})
        assert saver.get_tuple(at()) is not None
        na.JournalSaver(other).delete_thread("t")
        assert saver.get_tuple(at()) is None
        made = na.JournalSaver(other).put(at(), empty_checkpoint(), {"parents": {}}, {})
        found = saver.get_tuple(at())
        assert found is not None
        assert found.config == made


# -- no more than that ----------------------------------------------------------------------------


@contextmanager
def counted(journal: na.Journal) -> Iterator[list[int]]:
    """Count the rows of records that either engine returns."""
    count = [0]
    queue, archive = journal._queue, journal._archive

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*given: Any, **named: Any) -> Any:
            found = call(*given, **named)
            count[0] += len(found[0] if type(found) is tuple else found)
            return found

        return counts

    patched = [(queue, "_found"), (queue, "by_seq"), (archive, "_found"), (archive, "by_seq")]
    for where, name in patched:
        setattr(where, name, counting(getattr(where, name)))
    try:
        yield count
    finally:
        for where, name in patched:
            delattr(where, name)


def rows(journal: na.Journal, call: Callable[[], object]) -> int:
    """Return how many records are read for something."""
    with counted(journal) as count:
        call()
    return count[0]


def costs(home: Path, others: int, steps: int, *, ingest: bool) -> dict[str, int]:
    """Return how many records are read for what, of a thread of some length beside others."""
    with bulk(home, ingest=ingest) as into:
        for n in range(others):
            count(into, f"other{n}", 30)
        count(into, "t", steps)
    with na.Journal.open(home) as journal:
        first = journal.select(thread="t", kinds=[Kind.STEP_INTENDED])[10].step
        ref = journal.select(thread="t", kinds=[Kind.CHECKPOINT])[20].ref
        asked: dict[str, Callable[[], object]] = {
            "newest": lambda: na.JournalSaver(journal).get_tuple(at()),
            "named": lambda: na.JournalSaver(journal).get_tuple(at(checkpoint_id=ref)),
            "list": lambda: [*na.JournalSaver(journal).list(at(), limit=7)],
            "steps": lambda: steps_page(journal, "t", after=first, limit=7),
        }
        return {what: rows(journal, call) for what, call in asked.items()}


@pytest.mark.parametrize("ingest", [False, True])
def test_no_more_is_read_beside_others_or_in_a_longer_thread(home: Path, ingest: bool) -> None:
    """The newest checkpoint, a named one and pages take as many records as in a small journal."""
    small = costs(home / "small", 1, 40, ingest=ingest)
    assert costs(home / "others", 12, 40, ingest=ingest) == small
    assert costs(home / "long", 1, 160, ingest=ingest) == small
    assert all(small[what] <= most for what, most in MOST.items()), small


def test_who_asks_again_reads_only_what_is_new(journal: na.Journal) -> None:
    """Nothing, where nothing was committed; else what a new checkpoint has."""
    said = ["text " * 60 + str(n) for n in range(200)]
    saver, config = na.JournalSaver(journal), at()

    def put(many: list[str]) -> None:
        nonlocal config
        checkpoint: Any = {**empty_checkpoint(), "channel_values": {"many": many}}
        checkpoint["channel_versions"] = {"many": len(many)}
        config = saver.put(config, checkpoint, {"parents": {}}, {})

    put(said)
    assert rows(journal, lambda: saver.get_tuple(at())) > 200
    assert rows(journal, lambda: saver.get_tuple(at())) == 0
    other = na.JournalSaver(journal)
    assert other.get_tuple(at()) is not None
    put([*said, "one more " * 40])
    assert rows(journal, lambda: other.get_tuple(at())) <= 6


def test_who_stored_the_newest_checkpoint_itself_reads_nothing(journal: na.Journal) -> None:
    """It has what it appended, but for an append that is too large to be remembered."""
    saver, config = na.JournalSaver(journal), at()
    for n in range(60):
        large = ["other text " * 300 + str(n * 200 + k) for k in range(200)] if n == 20 else []
        many = ["text " * 60 + str(k) for k in range(n)]
        checkpoint: Any = {**empty_checkpoint(), "channel_values": {"many": many, "large": large}}
        checkpoint["channel_versions"] = {"many": n, "large": n}
        config = saver.put(config, checkpoint, {"parents": {}}, {})
        saver.put_writes(config, [("n", n)], "task")
        found: list[Any] = []
        read = rows(journal, lambda found=found: found.append(saver.get_tuple(at())))
        assert found[0].checkpoint == checkpoint
        assert found[0].pending_writes == [("task", "n", n)]
        assert n in (0, 20) or read == 0, n
    assert len(saver._newest.appended._parts) < 100
    (known,) = saver._newest._known.values()
    assert known.reader._decoder.held < 100_000  # without the large one


def checkpoint_drafts() -> list[Draft]:
    """Drafts of checkpoints that something in this process holds, other tests' among them."""
    gc.collect()
    drafts = [one for one in gc.get_objects() if type(one) is Draft]
    return [one for one in drafts if one.kind is Kind.CHECKPOINT]


def test_a_stored_checkpoint_holds_no_earlier_ones(journal: na.Journal) -> None:
    """Two values that change in turn: each record refers to the one before it."""
    earlier = checkpoint_drafts()
    saver, config = na.JournalSaver(journal), at()
    for n in range(60):
        values = {"a": [str(n // 2) * 300], "b": [str((n + 1) // 2) * 300]}
        checkpoint: Any = {**empty_checkpoint(), "channel_values": values}
        checkpoint["channel_versions"] = dict.fromkeys(values, n)
        config = saver.put(config, checkpoint, {"parents": {}}, {})
    assert len(checkpoint_drafts()) - len(earlier) < 40


def test_a_long_run_holds_no_earlier_checkpoints(journal: na.Journal) -> None:
    """Under a driver, too: at the last step nearly nothing is left of those before it."""
    left: list[int] = []
    earlier = checkpoint_drafts()

    class Turns(TypedDict, total=False):
        n: int
        a: list[str]
        b: list[str]

    def turn(state: Turns) -> dict[str, Any]:
        n = state.get("n", 0)
        if n == 59:
            left.append(len(checkpoint_drafts()))
        return {"n": n + 1, "a": [str(n // 2) * 300], "b": [str((n + 1) // 2) * 300]}

    graph = StateGraph(Turns).add_node("turn", turn).add_edge(START, "turn")
    graph.add_conditional_edges("turn", lambda state: "turn" if state["n"] < 60 else END)
    na.Agent(graph, "turns", journal).run({"n": 0}, config={"recursion_limit": 100})
    assert left[0] - len(earlier) < 10  # which the node does not know: it would be kept with it


def test_a_value_that_comes_back_is_read_where_it_was_stored_first(journal: na.Journal) -> None:
    """Its chunk is found again, and so is not among what the process appended."""
    first, second = na.JournalSaver(journal), na.JournalSaver(journal)
    for n, (saver, text) in enumerate([(first, "a"), (second, "b"), (second, "a")]):
        checkpoint: Any = {**empty_checkpoint(), "channel_values": {"text": text * 1000}}
        checkpoint["channel_versions"] = {"text": n}
        saver.put(at(), checkpoint, {"parents": {}}, {})
        found = second.get_tuple(at())
        assert found is not None
        assert found.checkpoint == checkpoint


# -- a page of steps -----------------------------------------------------------------------------


def test_pages_of_steps_are_together_all_steps(home: Path) -> None:
    """Steps that failed and ran again, calls inside them: each is on one page, as in the whole."""

    @na.step
    def call(n: int) -> int:
        if n == 3 and not (home / "mended").exists():
            raise ValueError("not yet")
        return n

    def calls(state: Any) -> Any:
        return {"n": state["n"] + sum(call(n) for n in range(5))}

    graph = build(first=lambda state: {"n": 1}, calls=calls, last=lambda state: {"n": 2})
    graph.add_edge("first", "calls")
    graph.add_edge("calls", "last")
    with pytest.raises(ValueError, match="not yet"):
        go(home, graph)
    (home / "mended").touch()
    go(home, graph)
    for ingest in (False, True):
        with na.Journal.open(home) as journal:
            if ingest:
                journal.ingest()
            whole = run_view(journal, "t").steps
            assert max(len(step.attempts) for step in whole) == 2
            for limit in (1, 2, 3, 100):
                pages: list[Any] = []
                after = None
                while page := steps_page(journal, "t", after=after, limit=limit):
                    assert len(page) <= limit
                    pages += page
                    after = page[-1].id
                assert tuple(pages) == whole
            with refused(home, errors.UnknownThreadError, "'t'", "'nothing'"):
                steps_page(journal, "t", after="nothing")


# -- DuckDB, kept from one burst to the next ------------------------------------------------------


def test_what_a_query_leaves_in_duckdb_is_gone_behind_it(home: Path) -> None:
    """A table of one's own, named as the journal's is, hides nothing from whoever reads next."""
    with bulk(home) as into:
        count(into, "t", 3)
    with na.Journal.open(home) as journal:
        whole = journal.select(thread="t")
        journal.sql("CREATE TEMP TABLE records AS SELECT * FROM journal.records LIMIT 0")
        assert journal.select(thread="t") == whole
        assert journal.sql("SELECT count(*) FROM records") == [(len(whole),)]


@pytest.mark.parametrize("ingest", [False, True])
def test_the_newest_checkpoint_comes_with_its_payload(
    journal: na.Journal, monkeypatch: pytest.MonkeyPatch, ingest: bool
) -> None:
    """It is not looked up once more by its number, in either engine."""
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for number in range(2):  # the newest record of all stays in the queue
        kept = {**empty_checkpoint(), "channel_values": {"n": 1}}
        config["configurable"]["thread_id"] = f"t{number}"
        na.JournalSaver(journal).put(config, kept, {}, {})
    if ingest:
        journal.ingest()
    asked: list[int] = []
    parts = journal.parts

    def spied(seqs: Any) -> Any:
        asked.extend(seqs)
        return parts(seqs)

    monkeypatch.setattr(journal, "parts", spied)
    found = na.JournalSaver(journal).get_tuple({"configurable": {"thread_id": "t0"}})
    assert found is not None
    assert found.checkpoint["channel_values"] == {"n": 1}
    assert asked == []


@pytest.mark.parametrize(("ingested", "opened"), [("all", (1, 2)), ("some", (1, 0))])
def test_what_shows_a_run_opens_duckdb_few_times(
    journal: na.Journal, monkeypatch: pytest.MonkeyPatch, ingested: str, opened: tuple[int, int]
) -> None:
    """Its view takes one opening, its newest results two, or none where the queue has them."""

    def work(state: Any) -> Any:
        if state["n"] == 3 and ingested == "some":
            journal.ingest()
        return {"n": state["n"] + 1}

    graph = build(work=work)
    graph.add_conditional_edges("work", lambda state: "work" if state["n"] < 40 else END)
    na.Agent(graph, "loop", journal).run({"n": 0}, thread="t", config={"recursion_limit": 50})
    if ingested == "all":
        journal.ingest()
    connect, made = journal._archive._connect, []
    monkeypatch.setattr(journal._archive, "_connect", lambda: made.append(1) or connect())
    view = run_view(journal, "t")
    assert (len(view.steps), len(made)) == (40, opened[0])
    shown = details.results(journal, view)
    assert [shown[step.id] for step in view.steps[-20:]] == [f"{{'n': {n}}}" for n in range(21, 41)]
    assert len(made) == sum(opened)
