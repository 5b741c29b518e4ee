"""A journal's life equals a dictionary's: whatever is put, pruned, deleted, killed, in any order.

Lives that end badly are shrunk and printed. CONTRIBUTING.md says how to have more of them.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from langchain_core.messages import HumanMessage
from support.dictionary import (
    DRIVEN,
    PLAIN,
    SPACES,
    At,
    Compact,
    Copy,
    Delete,
    Desk,
    Ingest,
    Keep,
    Latest,
    Model,
    Put,
    PutWrites,
    WithoutRuns,
)
from support.modelled import Beside, Fork, Resume, Run, adopt, killed, own

from notebook_agents.faults import Fault
from notebook_agents.journal.check import check

if TYPE_CHECKING:
    from support.dictionary import Glance, Operation, Seen

EXAMPLES, STEPS = 5, 40
SIZES = (2, 70, 300, 5000)
"""Characters: inline, in the record, a chunk, and one that is no page's."""
EDITS = ("grow", "many", "mutate", "shrink", "share", "replace", "drop", "nothing")
CHANNELS = ("lines", "messages", "nested")
SPECIAL = ("__error__", "__interrupt__", "__resume__")
COMMITS = (Fault.COMMIT_BEFORE, Fault.COMMIT_AFTER, None)
AGENTS = (
    *COMMITS, Fault.RUN_START_BEFORE, Fault.INTENT_BEFORE, Fault.INTENT_AFTER, Fault.RESULT_BEFORE,
    Fault.RESULT_AFTER, Fault.WRITES_AFTER, Fault.CHECKPOINT_AFTER, Fault.RUN_END_BEFORE,
    Fault.RUN_END_AFTER,
)  # fmt: skip
INGESTS = tuple(fault for fault in Fault if fault.name.startswith("INGEST"))
COMPACTS = tuple(fault for fault in Fault if fault.name.startswith("COMPACT"))
RUNS = ("run 0", "run 1", "run 2")
KINDS = ("put", "put", "put_writes", "latest", "keep", "without_runs", "delete", "copy")
LESS = st.sampled_from(["latest", "keep", "without_runs"])
THREADS = st.sampled_from([PLAIN[0], *PLAIN])


def text(number: int, size: int) -> str:
    """Return a text of about that size, of which there are few, so that some are equal."""
    return f"{number % 7} " * (size // 2)


def element(channel: str, number: int, size: int) -> Any:
    """Return an element of a channel's list: a string, a message, or something nested."""
    said = text(number, size)
    if channel == "lines":
        return said
    if channel == "messages" and number % 2:
        return HumanMessage(said, id=str(number % 5))
    return {"role": "user", "n": number, "parts": [{"text": said}, "x" * (number % 300)]}


def edit(values: dict[str, Any], channel: str, how: str, number: int, size: int) -> None:
    """Change a state in place, as a node might."""
    items = values.setdefault(channel, [])
    place = number % len(items) if items else 0
    if how == "grow":
        items.append(element(channel, number, size))
    elif how == "many":
        items.extend(element(channel, number + n, min(size, 300)) for n in range(20 + number % 20))
    elif how == "mutate" and items:
        if isinstance(items[place], dict):
            items[place]["parts"][0]["text"] += f" and {number}"
        elif isinstance(items[place], HumanMessage):
            items[place].content = text(number + 1, size)
        else:
            items[place] = text(number + 1, size)
    elif how == "shrink" and items:
        del items[place:]
    elif how == "share" and items:
        items.append(items[place])
        values.setdefault("shared", {})[channel] = items[place]
    elif how == "replace":
        values[channel] = [element(channel, number, size)]
    elif how == "drop":
        del values[channel]
    values["count"] = values.get("count", 0) + 1


def same(seen: Glance, expected: Seen) -> None:
    """Check that somebody sees what he should; name the first difference."""
    for one in fields(seen):
        found, wanted = getattr(seen, one.name), getattr(expected, one.name)
        if isinstance(wanted, dict):
            assert set(found) == set(wanted), one.name
            for key, value in wanted.items():
                assert found[key] == value, f"{one.name} of {key}"
        else:
            assert found == wanted, one.name


class Life(RuleBasedStateMachine):
    """A journal's life, and a dictionary that lives it too.

    Args:
        scratch: A directory for the journal and for logs.
    """

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(dir=scratch))
        self.home = self.scratch / "journal"
        self.model = Model()
        self.states: dict[tuple[str, str], tuple[str, Any, dict[str, int]]] = {}
        self.ids = self.steps = 0
        self.sound = True
        self.open()

    def open(self) -> None:
        """Open the journal in this process, and in one beside it."""
        self.beside = Beside(self.home, self.scratch / "beside.log")
        self.desk = Desk(self.home)

    def close(self) -> None:
        """Have nobody use the journal."""
        self.desk.close()
        self.beside.end()

    def teardown(self) -> None:
        """End the life; whoever opens the journal next sees all of it."""
        self.close()
        if self.sound:  # else it is said already what is wrong
            assert check(self.home).findings == []
            desk = Desk(self.home)
            same(desk.look(), self.model.seen())
            desk.close()
        shutil.rmtree(self.scratch)

    # -- what is done ------------------------------------------------------------------------------

    def drawn(self, data: Any, kind: str, model: Model) -> Operation | None:
        """Return an operation that is possible where `model` stands, or None."""
        if kind == "put":
            return self.a_put(data, model)
        if kind == "put_writes":
            return self.some_writes(data, model)
        if kind == "without_runs":
            return WithoutRuns(data.draw(st.lists(st.sampled_from(RUNS), min_size=1, max_size=2)))
        if not model.threads:
            return None
        if kind == "delete":
            return Delete(data.draw(st.sampled_from(sorted(model.threads))))
        longest = sorted(model.threads, key=lambda thread: (-len(model.of(thread)), thread))
        thread = data.draw(st.sampled_from([longest[0], *longest]))
        if kind == "latest":
            return Latest(sorted({thread, longest[0]}))
        if kind == "keep":
            return Keep(thread, data.draw(st.integers(1, 4)))
        free = sorted(set(PLAIN) - model.threads)
        return Copy(thread, data.draw(st.sampled_from(free))) if free else None

    def a_put(self, data: Any, model: Model, on: str | None = None) -> Put:
        """Return a checkpoint that follows on another one, with what changed since.

        Args:
            data: What draws.
            model: What is there.
            on: The thread of which it follows on the newest; None: any, and any that is there.
        """
        thread = on or data.draw(THREADS)
        ns = "" if on else data.draw(st.sampled_from([*SPACES, ""]))
        parents = ["mine"] if on else ["mine", "newest", "older", "none"]
        parent = data.draw(st.sampled_from(parents))
        again, back = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
        prior, values, versions = self.parent(parent, model, thread, ns, data)
        before = copy.deepcopy(values)
        if data.draw(st.integers(0, 5)):
            edit(
                values,
                data.draw(st.sampled_from(CHANNELS)),
                data.draw(st.sampled_from(EDITS)),
                data.draw(st.integers(0, 300)),
                data.draw(st.sampled_from(SIZES)),
            )
        number = max(versions.values(), default=0) + 1
        changed = [one for one in values if one not in before or before[one] != values[one]]
        versions = {**versions, **dict.fromkeys(changed, number)}
        self.ids += 1
        place = f"2{self.ids - (4 if not back else 0):07}-{self.ids}"
        every = model.of(thread, ns)
        if not again and every and own(every[0]):  # stored once more, with other values
            place, versions = every[0].id, dict.fromkeys(values, self.ids + 1000)
            prior = model.held[every[0]].prior
        self.states[thread, ns] = (place, values, versions)
        metadata = {"source": "loop", "step": self.ids, "parents": {}}
        if run := data.draw(st.sampled_from([None, *RUNS])):
            metadata["run_id"] = run
        return Put(At(place, ns, thread), prior, values, dict(versions), metadata)

    def parent(
        self, which: str, model: Model, thread: str, ns: str, data: Any
    ) -> tuple[str | None, dict[str, Any], dict[str, int]]:
        """Return a parent's id, a state to change in place, and its versions."""
        if which == "mine" and (thread, ns) in self.states:
            return self.states[thread, ns]  # also where others hid or deleted it meanwhile
        every = model.of(thread, ns)
        if which == "none" or not every:
            return None, {}, {}
        at = every[0] if which != "older" else data.draw(st.sampled_from(every))
        held = model.held[at]
        return at.id, copy.deepcopy(held.values), dict(held.versions)

    def some_writes(self, data: Any, model: Model) -> PutWrites:
        """Return writes for a checkpoint that is there, or that is not stored yet."""
        there = [at for at in model.held if at.thread in PLAIN and own(at)]
        later = At(f"2{self.ids + 1:07}-{self.ids + 1}", "", data.draw(st.sampled_from(PLAIN)))
        at = data.draw(st.sampled_from([*sorted(there)[-4:], later]))
        channels = st.sampled_from([*CHANNELS, *CHANNELS, *SPECIAL])
        writes = [
            (channel, [element("nested", number, size)] if number % 3 else number)
            for channel, number, size in data.draw(
                st.lists(
                    st.tuples(channels, st.integers(0, 50), st.sampled_from(SIZES)),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda one: one[0],
                )
            )
        ]
        task = data.draw(st.integers(0, 2))
        return PutWrites(at, f"task {task}", f"path {2 - task}", writes)

    def do(self, what: Operation | None, *, beside: bool) -> None:
        """Do it here, or in the process beside; the dictionary is told."""
        self.sound = False
        if what is not None:
            (self.beside if beside else self.desk).do(what)
            what.tell(self.model)

    @rule(data=st.data(), beside=st.booleans())
    def put(self, data: Any, beside: bool) -> None:
        self.do(self.a_put(data, self.model), beside=beside)

    @rule(data=st.data(), beside=st.booleans(), times=st.integers(2, 6))
    def go_on(self, data: Any, beside: bool, times: int) -> None:
        """Put one checkpoint after the other, as a graph does."""
        thread = data.draw(THREADS)
        for _ in range(times):
            self.do(self.a_put(data, self.model, thread), beside=beside)
        if data.draw(st.booleans()):
            self.do(self.drawn(data, data.draw(LESS), self.model), beside=beside)
            self.do(self.a_put(data, self.model, thread), beside=beside)
            self.do(data.draw(st.sampled_from([Compact(), None])), beside=beside)

    @rule(data=st.data(), beside=st.booleans())
    def put_writes(self, data: Any, beside: bool) -> None:
        self.do(self.some_writes(data, self.model), beside=beside)

    @rule(data=st.data(), kind=LESS, beside=st.booleans())
    def keep_less(self, data: Any, kind: str, beside: bool) -> None:
        self.do(self.drawn(data, kind, self.model), beside=beside)

    @rule(data=st.data(), beside=st.booleans())
    def delete(self, data: Any, beside: bool) -> None:
        self.do(self.drawn(data, "delete", self.model), beside=beside)

    @rule(data=st.data(), beside=st.booleans())
    def copy(self, data: Any, beside: bool) -> None:
        self.do(self.drawn(data, "copy", self.model), beside=beside)

    @rule(beside=st.booleans())
    def ingest(self, beside: bool) -> None:
        self.do(Ingest(), beside=beside)

    @rule(beside=st.booleans())
    def compact(self, beside: bool) -> None:
        self.do(Compact(), beside=beside)

    @rule()
    def reopen(self) -> None:
        """Nobody has it open for a moment, and whoever opens it remembers nothing."""
        self.close()
        self.open()

    @rule()
    def beside_dies(self) -> None:
        self.beside.kill()
        self.beside = Beside(self.home, self.scratch / "beside.log")

    @rule()
    def check(self) -> None:
        """Numbers without gaps, and whatever else the format states."""
        assert check(self.home).findings == []

    # -- killed on the way -------------------------------------------------------------------------

    @rule(
        data=st.data(),
        alone=st.booleans(),
        inherits=st.booleans(),
        hit=st.sampled_from([0, 0, 1, 2]),
    )
    def crash(self, data: Any, alone: bool, inherits: bool, hit: int) -> None:
        """A process dies: what it acknowledged is there, the rest wholly or not at all."""
        models, operations = [self.model], []
        for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)):
            if (one := self.drawn(data, kind, models[-1])) is not None:
                operations.append(one)
                models.append(models[-1].copy())
                one.tell(models[-1])
        last = data.draw(st.sampled_from(["", "", "ingest", "compact"]))
        points: Any = {"ingest": INGESTS, "compact": COMPACTS}.get(last, COMMITS)
        if last:
            operations.append(Ingest() if last == "ingest" else Compact())
            models.append(models[-1])
        done = self.kill(operations, data.draw(st.sampled_from(points)), hit, alone, inherits)
        seen = self.desk.look()
        self.model = models[done]
        if done < len(operations) and seen != models[done].seen():
            self.model = models[done + 1]

    def kill(self, operations: Any, at: Fault | None, hit: int, alone: bool, inherits: bool) -> int:
        """Have a process killed; return how many operations it acknowledged."""
        self.sound = False
        if alone:
            self.close()
        desk = self.desk if inherits and not alone else None
        done = killed(self.home, self.scratch, operations, at=at, hit=hit, desk=desk)
        if alone:
            self.open()
        return done

    # -- an agent's threads ------------------------------------------------------------------------

    @rule(
        data=st.data(),
        thread=st.sampled_from(DRIVEN),
        how=st.sampled_from(["here", "beside", "crash", "crash"]),
    )
    def run_agent(self, data: Any, thread: str, how: str) -> None:
        """What its steps returned is there afterwards, and is not made again by a resume."""
        self.ids += 1
        what: Any = Run(thread, f"line {self.ids}")
        recorded = self.model.results.get(thread, {})
        if how == "crash":
            flags = data.draw(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()))
            self.kill([what], data.draw(st.sampled_from(AGENTS)), *flags)
            recorded = self.others_stay(thread)
        (self.beside if how == "beside" else self.desk).do(what)
        seen = self.desk.look()
        found = seen.results[thread]
        assert {place: found.get(place) for place in recorded} == recorded
        before = self.model.results.get(thread, {})
        new = [found[place] for place in found if place not in before]
        work = next(value for value in new if isinstance(value, list))
        assert sorted(map(str, new)) == sorted(map(str, [work, {"lines": work}]))
        newest = self.model.of(thread, "")[:1]
        lines = self.model.held[newest[0]].values["lines"] if newest else []
        lines = [*lines, what.line, *work]
        assert seen.newest[thread, ""][2]["lines"] == lines
        assert seen.answers[thread] == [
            *self.model.answers.get(thread, []),
            {"lines": lines},
        ]
        adopt(self.model, seen, thread)

    def others_stay(self, thread: str) -> dict[tuple[int, str], Any]:
        """Check that a run that was killed changed nothing but added; return what is recorded."""
        seen, wanted = self.desk.look(), self.model.seen()
        assert [row for row in seen.listed if row[0].thread != thread] == [
            row for row in wanted.listed if row[0].thread != thread
        ]
        for at, row in wanted.named.items():
            if at.thread == thread:
                assert seen.named[at][:-1] == row[:-1]
        found = seen.results.get(thread, {})
        before = self.model.results.get(thread, {})
        assert {place: found.get(place) for place in before} == before
        return found

    @precondition(lambda self: {*DRIVEN} & self.model.threads and {*DRIVEN} - self.model.threads)
    @rule(data=st.data(), how=st.sampled_from(["here", "beside", "crash"]), whole=st.booleans())
    def fork(self, data: Any, how: str, whole: bool) -> None:
        """A fork has its original's past up to the point, and goes on from there."""
        source = data.draw(st.sampled_from(sorted({*DRIVEN} & self.model.threads)))
        target = data.draw(st.sampled_from(sorted({*DRIVEN} - self.model.threads)))
        places = self.model.of(source)
        at = None if whole or not places else data.draw(st.sampled_from(places)).id
        what: Any = Fork(source, target, at)
        if how == "crash":
            flags = data.draw(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()))
            done = self.kill([what], data.draw(st.sampled_from(COMMITS)), *flags)
            if not done and target not in self.desk.look().threads:
                return
        else:
            (self.beside if how == "beside" else self.desk).do(what)
        seen, model = self.desk.look(), self.model
        rows = [model.row(place) for place in places if at is None or place.id <= at]
        rows = [(row[0]._replace(thread=target), *row[1:]) for row in rows]
        if at is not None:
            rows[0] = (*rows[0][:-1], [])
        assert [row for row in seen.listed if row[0].thread == target] == rows
        kept, every = seen.results[target], model.results[source]
        assert kept == (every if at is None else {place: every[place] for place in kept})
        answers = seen.answers[target]
        assert answers == model.answers[source][: len(answers) if at else None]
        self.desk.do(Resume(target))
        seen = self.desk.look()
        assert {place: seen.results[target][place] for place in kept} == kept
        assert seen.answers[target][: len(answers)] == answers
        adopt(model, seen, target)

    @invariant()
    def sees(self) -> None:
        """This process and the one beside it see what the dictionary has; in turn, all of it."""
        expected, self.sound = self.model.seen(), False
        self.steps += 1
        same(self.desk.look() if self.steps % 2 else self.desk.glance(), expected)
        same(self.beside.glance() if self.steps % 4 else self.beside.look(), expected)
        self.sound = True


def test_a_journals_life_equals_a_dictionarys(tmp_path: Path) -> None:
    """Whoever looks, after whatever was done or killed, sees what a dictionary would hold."""
    examples, seeded = (os.environ.get(name) for name in ("MODEL_EXAMPLES", "MODEL_SEED"))
    life = partial(Life, tmp_path)
    if seeded:
        seed(int(seeded))(life)
    run_state_machine_as_test(
        life,  # type: ignore[arg-type]
        settings=settings(
            max_examples=int(examples or EXAMPLES),
            stateful_step_count=STEPS,
            derandomize=not seeded,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],  # no line of the code explains such a failure
            suppress_health_check=list(HealthCheck),
        ),
    )
