"""Reading: the newest state, lists, pages, opening; none of it grows with what others have.

The journals are made by `bulk.py` through the journal's own writer; `--full` makes them as large as
the bars say. What is measured in a fresh process is told by it: from before the journal is opened,
with everything imported.
"""

from __future__ import annotations

import json
import operator
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

import notebook_agents as na
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Kind
from notebook_agents.runtime.view import steps_page

from .bulk import bulk, count, notes, talk
from .measure import ROOT, Bench, child, interleave, quartiles, sandbox
from .texts import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph.checkpoint.base import BaseCheckpointSaver

ROUNDS = 7
CHAT, LONG = "chat", "long"
_PAGE = 100


def run(bench: Bench) -> None:
    """Build the journals, ask them, judge the times."""
    with sandbox() as home:
        _driving(bench, home)
        _growing(bench, home)
        _many(bench, home)
        _long(bench, home)
        _killed(bench, home)
        _replayed(bench, home)


# -- the driving process ------------------------------------------------------------------------


def _driving(bench: Bench, home: Path) -> None:
    """Compare `get_tuple` behind each `put`, and again, with SqliteSaver's."""
    for messages in (20, 2_000)[: bench.size(2, 1)]:
        folder = home / f"driving{messages}"
        folder.mkdir()
        with (
            na.Journal.open(folder / "journal") as journal,
            SqliteSaver.from_conn_string(str(folder / "saver.sqlite")) as peer,
        ):
            savers: dict[str, BaseCheckpointSaver[Any]] = {
                "ours": na.JournalSaver(journal),
                "theirs": peer,
            }
            talks = {name: _Talk(saver, messages) for name, saver in savers.items()}
            arms = {name: talk_.round for name, talk_ in talks.items()}
            found = interleave(bench, arms, rounds=4 * ROUNDS)
        for n, what in enumerate(("behind a put", "again")):
            ours, theirs = ([pair[n] for pair in found[name]] for name in ("ours", "theirs"))
            ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
            line = (
                f"get_tuple of the newest checkpoint in the process that writes, {messages} "
                f"messages, {what}: {statistics.median(ours) * 1e3:.2f} ms, ÷ SqliteSaver"
            )
            middle = statistics.median(ratios)
            bench.judge(line, middle, 1.0, spread=quartiles(ratios))


class _Talk:
    """A conversation that grows by a message each round."""

    def __init__(self, saver: BaseCheckpointSaver[Any], messages: int) -> None:
        self._saver = saver
        self._said = [_message(n) for n in range(messages)]
        self._config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    def round(self) -> tuple[float, float]:
        """Put a checkpoint; return the seconds of getting it, twice."""
        n = len(self._said)
        self._said = [*self._said, _message(n)]
        checkpoint = {
            **empty_checkpoint(),
            "channel_values": {"n": n, "messages": self._said},
            "channel_versions": {"n": n, "messages": n},
        }
        metadata: Any = {"source": "loop", "step": n, "parents": {}}
        self._config = self._saver.put(self._config, checkpoint, metadata, {})  # type: ignore[arg-type]
        self._saver.put_writes(self._config, [("n", n + 1)], "task")
        newest: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        took = (_seconds(partial(self._saver.get_tuple, newest)) for _ in "ab")
        return next(took), next(took)


class _State(TypedDict):
    n: int
    messages: Annotated[list[Any], operator.add]


def _growing(bench: Bench, home: Path) -> None:
    """Compare what a step costs late and early in a conversation."""
    few, many = 20, bench.size(2_000, 40)
    arms = {
        f"{kind} {messages}": partial(_step, home, kind, messages)
        for kind in ("Agent", "SqliteSaver")
        for messages in (few, many)
    }
    found = interleave(bench, arms, rounds=ROUNDS)
    line = f"cost of a step at message {many} ÷ at message {few}"
    for kind in ("SqliteSaver", "Agent"):
        late, early = found[f"{kind} {many}"], found[f"{kind} {few}"]
        ratios = [one / other for one, other in zip(late, early, strict=True)]
        took = f"{_middle(late):.1f} ÷ {_middle(early):.1f} ms ="
        if kind == "Agent":
            shown = f"{line}, {kind}: {took}"
            bench.judge(shown, statistics.median(ratios), 3, spread=quartiles(ratios))
        else:
            bench.say(f"  {line}, {kind}: {took} {statistics.median(ratios):.2f}")


def _step(home: Path, kind: str, messages: int) -> float:
    """Return the seconds from one step to the next, with so many messages in the state."""
    begun: list[float] = []

    def work(state: _State) -> dict[str, Any]:
        begun.append(time.perf_counter())
        at = len(state["messages"])
        return {"n": state["n"] + 1, "messages": [_message(at)]}

    graph = StateGraph(_State)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: "work" if state["n"] < 12 else END)
    given: Any = {"n": 0, "messages": [_message(n) for n in range(messages)]}
    with tempfile.TemporaryDirectory(dir=home) as folder:
        if kind == "Agent":
            with na.Journal.open(Path(folder) / "journal") as journal:
                na.Agent(graph, "grows", journal).run(given, thread="t")
        else:
            with SqliteSaver.from_conn_string(str(Path(folder) / "saver.sqlite")) as saver:
                config: Any = {"configurable": {"thread_id": "t"}}
                graph.compile(checkpointer=saver).invoke(given, config, durability="sync")
    return statistics.median(late - early for early, late in pairwise(begun[2:]))


def _message(n: int) -> HumanMessage:
    return HumanMessage(say("random words", n), id=str(n))


# -- many threads -------------------------------------------------------------------------------


def _many(bench: Bench, home: Path) -> None:
    """Measure a conversation among many threads, the list of them, and what others cost."""
    few, many = bench.size(10, 2), bench.size(1_000, 20, 10_000)
    messages = bench.size(2_000, 16)
    for threads in (few, many):
        with bulk(home / f"{threads}") as into:
            for n in range(threads - 1):
                count(into, f"t{n}", 2)
            talk(into, CHAT, messages)
    arms = {
        f"{threads} {what}": partial(_fresh, home / f"{threads}", what, CHAT)
        for threads in (few, many)
        for what in ("state", "list", "page")
    }
    found = interleave(bench, arms, rounds=ROUNDS)
    _judge(bench, f"newest state of {messages} messages among {many} threads", found, many, "state")
    bench.say(f"    among {few} threads: {_middle(found[f'{few} state']):.1f} ms")
    _judge(bench, f"list of {many} threads", found, many, "list", bar=50)
    _judge(bench, f"page of {_PAGE} steps among {many} threads", found, many, "page")
    bench.say(f"    among {few} threads: {_middle(found[f'{few} page']):.1f} ms")


def _judge(
    bench: Bench,
    what: str,
    found: dict[str, list[float]],
    journal: object,
    arm: str,
    *,
    bar: float = 100,
) -> None:
    taken = [seconds * 1e3 for seconds in found[f"{journal} {arm}"]]
    line = f"{what}, in a fresh process, opening included, ms"
    bench.judge(line, statistics.median(taken), bar, spread=quartiles(taken, ".1f"))


def _middle(taken: list[float]) -> float:
    return statistics.median(taken) * 1e3


# -- a long thread ------------------------------------------------------------------------------


def _long(bench: Bench, home: Path) -> None:
    """Measure a thread of ten records a step: opening, its newest state, a page of its steps."""
    steps = bench.size(10_000, 20, 100_000)
    folder = home / LONG
    with bulk(folder) as into:
        notes(into, LONG, steps)
        into.flush()
        records = into.journal.newest()
    arms = {
        f"{LONG} {what}": partial(_fresh, folder, what, LONG)
        for what in ("open", "state", "page", "middle", "first")
    }
    found = interleave(bench, arms, rounds=ROUNDS)
    of = f"of a journal of {records:,} records"
    _judge(bench, f"open {of}", found, LONG, "open", bar=500)
    _judge(bench, f"open {of}, and DuckDB", found, LONG, "first", bar=500)
    _judge(bench, f"newest state of a thread {of}", found, LONG, "state", bar=2_000)
    _judge(bench, f"first page of {_PAGE} steps of {steps:,}", found, LONG, "page")
    _judge(bench, f"page of {_PAGE} steps in the middle of {steps:,}", found, LONG, "middle")


def _killed(bench: Bench, home: Path) -> None:
    """Measure opening after a kill, with records that DuckDB does not have."""
    steps = bench.size(5_000, 20, 25_000)
    folder = home / "killed"
    ended = subprocess.run(child("reading", "killed", folder, steps), cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.returncode
    taken = [_fresh(folder, "open killed", "t") for _ in range(bench.size(ROUNDS, 1))]
    line = f"open after a kill with {4 * steps:,} records not ingested, s"
    bench.judge(line, statistics.median(taken), 3.0, spread=quartiles(taken))


def _replayed(bench: Bench, home: Path) -> None:
    """Report how long it takes to go through all that a thread did."""
    sizes = (1_000, 10_000, 100_000)[: bench.size(2, 1, 3)]
    with bulk(home / "replayed") as into:
        for events in sizes:
            count(into, f"{events}", events // 4)
    arms = {
        f"{events}": partial(_fresh, home / "replayed", "replay", f"{events}") for events in sizes
    }
    found = interleave(bench, arms, rounds=3)
    for events in sizes:
        middle = _middle(found[f"{events}"])
        bench.say(
            f"  replay of {events:,} events to the state: {middle:,.0f} ms, "
            f"{middle / events * 1e3:.0f} µs an event; for information"
        )


# -- what a fresh process does --------------------------------------------------------------------


def _fresh(folder: Path, what: str, thread: str) -> float:
    """Return the seconds that a fresh process takes for something."""
    command = child("reading", what, folder, thread)
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(told.stdout))


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _first(journal: na.Journal, _thread: str) -> None:
    with journal.burst():
        pass


def _state(journal: na.Journal, thread: str) -> None:
    found = na.JournalSaver(journal).get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None


def _page(journal: na.Journal, thread: str) -> None:
    assert steps_page(journal, thread, limit=_PAGE)


def _later(journal: na.Journal, thread: str, after: str) -> None:
    assert steps_page(journal, thread, after=after, limit=_PAGE)


def _replay(journal: na.Journal, thread: str) -> None:
    """Go through the records of a thread in order, and put what its steps returned together."""
    decoder = Decoder(ResultCodec(strict_serializer()), journal.parts)
    state: dict[str, Any] = {}
    seen = 0
    while records := journal.select(thread=thread, since=seen, limit=10_000):
        payloads = journal.payloads([record.seq for record in records])
        for record in records:
            if record.kind is Kind.STEP_RETURNED:
                state.update(decoder.decode(unpack(payloads[record.seq]), record.refs))
        seen = records[-1].seq
    assert state


_ASKED: dict[str, Callable[[na.Journal, str], object]] = {
    "open": lambda _journal, _thread: None,
    "open killed": lambda _journal, _thread: None,
    "first": _first,
    "state": _state,
    "list": lambda journal, _thread: journal.threads(),
    "page": _page,
    "replay": _replay,
}


def _ask(what: str, folder: Path, thread: str) -> None:
    """Open a journal and ask it; say the seconds of both."""
    import duckdb  # noqa: F401 - imports are not what is measured

    ask = _ASKED.get(what, _page)
    if what == "middle":
        with na.Journal.open(folder) as journal:
            records = journal.select(thread=thread, kinds=[Kind.STEP_INTENDED])
        ask = partial(_later, after=records[len(records) // 2].step or "")
    begun = time.perf_counter()
    journal = na.Journal.open(folder)
    ask(journal, thread)
    took = time.perf_counter() - begun
    print(json.dumps(took), flush=True)
    if what == "open killed":
        os._exit(0)  # closed, it would not be one that was killed
    journal.close()


def _be_killed(folder: Path, steps: int) -> None:
    with bulk(folder, ingest=False) as into:
        count(into, "t", steps)
        into.flush()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _what, _folder, _thread = sys.argv[1:]
    if _what == "killed":
        _be_killed(Path(_folder), int(_thread))
    else:
        _ask(_what, Path(_folder), _thread)
