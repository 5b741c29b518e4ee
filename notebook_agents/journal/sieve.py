"""Which records a compaction leaves out.

Those of deleted threads go, and those that a deletion hides, but what is still built on stays: see
"Records" in store/FORMAT.md. What a living driver may refer to stays, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents.journal import compacted
from notebook_agents.journal.copying import NEEDED
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from notebook_agents.journal.queue import Head


@dataclass(slots=True)
class Plan:
    """What of the records up to a number goes.

    Attributes:
        upto: The number.
        gone: The ranges of numbers that go, in order.
        count: How many records those are.
        bytes: What their payloads take.
        kept_bytes: What those of the others take.
        scopes: Those of threads that there are, some of whose records go.
        of_thread: How many records go of those that each head counts.
        first: The first record that each thread keeps.
    """

    upto: int
    gone: compacted.Ranges = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    kept_bytes: int = 0
    scopes: set[str] = field(default_factory=set)
    of_thread: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    def leave_out(self, seq: int, thread: str, size: int, *, counted: bool) -> None:
        """Have a record go; of several the newest first.

        Args:
            seq: Its number.
            thread: Its thread.
            size: The bytes of its payload.
            counted: Whether it is among those that the thread's head counts, if there is one.
        """
        if self.gone and self.gone[-1][0] == seq + 1:
            self.gone[-1] = (seq, self.gone[-1][1])
        else:
            self.gone.append((seq, seq))
        self.count += 1
        self.bytes += size
        if counted:
            self.of_thread[thread] = self.of_thread.get(thread, 0) + 1

    def keep(self, seq: int, thread: str, size: int) -> None:
        """Have a record stay."""
        self.kept_bytes += size
        self.first[thread] = min(seq, self.first.get(thread, seq))


class Sieve:
    """Decides about records, the newest first: by then all that refer to one have been seen.

    Args:
        upto: The newest number that is looked at.
        heads: The threads that there are.
        spared: Scopes that somebody may be using: parts of values stay.
        before: What earlier compactions left out.
        deletions: Number, thread, name and references of all deletions, the oldest first.
        ends: Each thread's newest number.
    """

    def __init__(
        self,
        upto: int,
        heads: Iterable[Head],
        spared: set[str],
        before: compacted.Ranges,
        deletions: Iterable[tuple[int, str, str | None, list[int] | None]],
        ends: dict[str, int],
    ) -> None:
        self.plan = Plan(upto)
        self._heads = {head.thread: head for head in heads}
        self._unfinished = {
            head.thread: head.run
            for head in self._heads.values()
            if not head.info().status.finished
        }
        self._scopes = {head.scope for head in self._heads.values()}
        self._spared = spared
        self._before = before
        self._ends = ends
        self._deleted: dict[str, int] = {}
        self._hidden: dict[str, set[int]] = {}
        self._wanted: set[int] = set()
        self._undecided: list[tuple[int, str, list[int] | None, int]] = []
        for seq, thread, name, refs in deletions:
            if not refs:
                self._deleted[thread] = seq
                continue
            hidden = self._hidden.setdefault(thread, set())
            if name == NEEDED:
                hidden.difference_update(refs)
            else:
                hidden.update(refs)

    def take(self, row: tuple[Any, ...]) -> None:
        """Decide about the next older record, a row of `archive.outline`; deletions wait."""
        seq, kind, thread, scope, run, refs, size = row
        if kind == Kind.DELETION:
            self._undecided.append((seq, thread, refs, size))
            return
        plan = self.plan
        if seq in self._wanted or not self._may_go(seq, kind, thread, scope, run):
            plan.keep(seq, thread, size)
            self._wanted.discard(seq)
            self._wanted.update(refs or ())
            return
        dead = seq < self._deleted.get(thread, 0)
        plan.leave_out(seq, thread, size, counted=not dead)
        if scope in self._scopes and (kind == Kind.CHUNK or not dead):
            plan.scopes.add(scope)

    def _may_go(self, seq: int, kind: str, thread: str, scope: str, run: int | None) -> bool:
        if self._last(seq, thread):
            return False
        dead = seq < self._deleted.get(thread, 0)
        if kind == Kind.CHUNK:
            return scope not in self._spared and (dead or thread in self._heads)
        if dead:
            return True
        if scope in self._spared or seq not in self._hidden.get(thread, ()):
            return False
        return run is None or self._unfinished.get(thread) != run

    def decided(self) -> Plan:
        """Return the plan, when every record was taken."""
        plan = self.plan
        gone = compacted.joined(self._before, plan.gone)
        for seq, thread, refs, size in self._undecided:
            shown = seq > self._deleted.get(thread, 0)
            if refs and shown:
                idle = all(compacted.within(gone, ref) for ref in refs)
            else:  # what it ended is not there any more
                idle = bool(refs) or plan.first.get(thread, seq) >= seq
            if idle and not self._last(seq, thread):
                plan.leave_out(seq, thread, size, counted=shown)
            else:
                plan.keep(seq, thread, size)
        plan.gone = compacted.joined(plan.gone)
        return plan

    def _last(self, seq: int, thread: str) -> bool:
        """Whether numbers, or the thread's head, go up to this one."""
        return seq == self.plan.upto or (thread in self._heads and seq == self._ends[thread])
