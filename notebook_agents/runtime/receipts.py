"""Receipts: what a thread's journal says of its steps, for somebody who does not trust us.

Lines of JSON: a header, an entry for each intent, result, doubt and decision in the journal's
order, each with the hash of the line before, and a signed footer. docs/audit.md describes them;
`notebook_agents/verify_receipt.py` checks them and needs nothing of this package.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, ids
from notebook_agents._version import __version__
from notebook_agents.errors import UnknownThreadError
from notebook_agents.journal.values import unpack
from notebook_agents.journal.witnessed import Digests, forks_of, missing, witnessed
from notebook_agents.model import NOTEBOOK, Kind, Proof, RunStatus, Said
from notebook_agents.runtime.reconciling import RECONCILED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.journal import Journal
    from notebook_agents.journal.witnessed import Missing, Witnessed
    from notebook_agents.sealing.signing import SigningKey

FORMAT = 1
_SIGNED = b"notebook-agents receipt 1\n"
"""What stands before a footer where it is signed: no other signature can be taken for it."""
_FORK = "fork"
_KINDS = (
    Kind.RUN_STARTED,
    Kind.RUN_FINISHED,
    Kind.STEP_INTENDED,
    Kind.STEP_RETURNED,
    Kind.STEP_LATE,
    Kind.STEP_FAILED,
    Kind.STEP_SUSPENDED,
    Kind.DECISION,
)
_WORDS = {
    Kind.RUN_STARTED: "start",
    Kind.RUN_FINISHED: "end",
    Kind.STEP_INTENDED: "intent",
    Kind.STEP_RETURNED: "result",
    Kind.STEP_LATE: "late",
    Kind.STEP_FAILED: "failure",
    Kind.STEP_SUSPENDED: "question",
    Kind.DECISION: "decision",
}
_SETTLING = (Said.DID, Said.DID_NOT, RECONCILED)

Entry = dict[str, Any]


@dataclass(slots=True)
class Receipt:
    """A receipt that is being written; `lines` writes it once.

    Attributes:
        journal: The journal.
        thread: The thread's name.
        key: Signs it.
        run: The only run that it is about; None for all.
        first: The number of the first record that it tells of; 0 where there is none.
        last: It tells of nothing behind this record.
        counts: How many entries of each kind it has.
    """

    journal: Journal
    thread: str
    key: SigningKey
    run: int | None = None
    first: int = 0
    last: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, each with its newline.

        What others record meanwhile is not in it, nor waited for.

        Raises:
            UnknownThreadError: There is no such thread or run, it has no steps because LangGraph
                ran it alone, or it was deleted meanwhile.
            SealError: A record does not open; nothing behind it is told, and no footer comes.
            JournalDamagedError: A record is nowhere.
        """
        self.last = self.journal.newest()
        self.journal.flush()  # a receipt tells of nothing that a power loss could take back
        gone = missing(self.journal, self.thread, upto=self.last)
        head = self.journal.head(self.thread)
        self.first = 0 if head is None else head.first_seq
        self._check_run()
        of = {"journal": self.journal.id, "run": self.run, "thread": self.thread, "v": FORMAT}
        header = canonical(self._header(of, gone))
        yield header + b"\n"
        previous = _sha256(canonical(of))
        for entry in _Story(self.journal, self.thread, self.run, self.last).entries():
            self.counts[entry["kind"]] += 1
            line = canonical({**entry, "n": self.counts.total(), "prev": previous})
            previous = _sha256(line)
            yield line + b"\n"
        self._check_there(gone, was_there=head is not None)
        footer: Entry = {
            "kind": "footer",
            "header": _sha256(header),
            "entries": self.counts.total(),
            "counts": dict(self.counts),
            "last": previous,
            "key": self.key.public,
        }
        footer["signature"] = self.key.sign(_SIGNED + canonical(footer))
        yield canonical(footer) + b"\n"

    def _header(self, of: Entry, gone: Missing) -> Entry:
        there = self.first > 0
        return {
            "kind": "header",
            "of": of,
            "records": [self.first, self.last],
            "written": _iso(clock.now_us()),
            "by": {
                "notebook-agents": __version__,
                "python": platform.python_version(),
            },
            "status": str(self.journal.thread(self.thread).status) if there else "deleted",
            "forks": forks_of(self.journal, self.thread, name=_FORK),
            "deleted": [{"seq": seq, "at": _iso(ts)} for seq, ts in gone.deletions],
            "hidden": gone.hidden,
            "lost": [list(pair) for pair in gone.lost],
        }

    def _check_run(self) -> None:
        if self.first and not self.journal.thread(self.thread).run:
            raise UnknownThreadError(
                f"thread {self.thread!r} was never run by an agent, so no step of it was recorded "
                "and a receipt would say nothing of what it did: run its graph by `na.Agent`"
            )
        if self.run is None:
            return
        starts = self.journal.select(
            thread=self.thread, run=self.run, kinds=[Kind.RUN_STARTED], limit=1
        )
        if not starts:
            raise UnknownThreadError(
                f"thread {self.thread!r} has no run {self.run}: `notebook-agents log "
                f"{self.thread}` shows those that it has"
            )

    def _check_there(self, before: Missing, *, was_there: bool) -> None:
        if not was_there:
            return
        now = missing(self.journal, self.thread, upto=self.journal.newest())
        if set(now.deletions) - set(before.deletions) or self.journal.head(self.thread) is None:
            raise UnknownThreadError(
                f"thread {self.thread!r} was deleted while its receipt was written: what was "
                "written is no receipt; ask again"
            )


class _Story:
    """A thread's entries, one after the other; holds the attempts that have not ended.

    An entry depends on nothing that comes after it, so that a later receipt begins with the
    entries of an earlier one.
    """

    def __init__(self, journal: Journal, thread: str, run: int | None, upto: int) -> None:
        self._journal = journal
        self._thread = thread
        self._run = run
        self._upto = upto
        self._digests = Digests(journal)
        self._open: dict[tuple[str, int], Entry] = {}
        self._spaces: dict[str, str | None] = {}  # the namespaces of steps that have not ended
        self._agent: str | None = None

    def entries(self) -> Iterator[Entry]:
        copied, source = self._origin()
        pages = witnessed(self._journal, self._thread, kinds=_KINDS, upto=self._upto, run=self._run)
        for page in pages:
            for found in page:
                for entry in self._told(found):
                    if source is not None and found.record.seq < copied:
                        entry["from"] = source
                    yield {name: value for name, value in entry.items() if value is not None}

    def _origin(self) -> tuple[int, str | None]:
        """Return before which number records are copies, and the thread that they are from."""
        if self._journal.head(self._thread) is None:
            return 0, None
        marks = [
            found.record
            for page in witnessed(
                self._journal, self._thread, kinds=[Kind.DECISION], upto=self._upto, name=_FORK
            )
            for found in page
        ]
        return (marks[-1].seq, marks[-1].parent) if marks else (0, None)

    def _told(self, found: Witnessed) -> Iterator[Entry]:
        """Yield a record's entry, and those of the doubts that it shows."""
        record = found.record
        place = (record.step or "", record.attempt or 1)
        if record.kind is Kind.RUN_STARTED:
            self._agent = record.name
            yield from self._doubts(found, list(self._open), "its driver was gone")
        elif record.kind is Kind.STEP_INTENDED:
            before = (place[0], place[1] - 1)
            yield from self._doubts(found, [before], "it ended without a word")
            self._open.pop(before, None)
        elif record.kind is Kind.DECISION and record.name in _SETTLING:
            yield from self._doubts(found, [place], "it ended without a word")
        entry = self._entry(found)
        yield entry
        if record.kind is Kind.STEP_INTENDED:
            kept = ("run", "step", "name", "key", "attempt")
            self._open[place] = {name: entry[name] for name in kept}
            self._spaces[place[0]] = record.ns
        elif record.kind is Kind.STEP_FAILED and record.ref == Proof.NONE:
            yield from self._doubts(found, [place], "its error proves nothing")
        elif record.kind in (Kind.STEP_RETURNED, Kind.STEP_FAILED, Kind.STEP_SUSPENDED):
            self._open.pop(place, None)
            self._spaces.pop(place[0], None)

    def _doubts(self, found: Witnessed, places: list[tuple[str, int]], why: str) -> Iterator[Entry]:
        """Yield a doubt of each of these attempts that has not ended, once."""
        for place in places:
            about = self._open.get(place)
            if about is not None and "doubted" not in about:
                at = {"seq": found.record.seq, "at": _iso(found.record.ts)}
                yield {"kind": "doubt", **at, **about, "why": why}
                about["doubted"] = True

    def _entry(self, found: Witnessed) -> Entry:
        record, plain = found
        entry: Entry = {
            "kind": _WORDS[record.kind],
            "seq": record.seq,
            "at": _iso(record.ts),
            "run": record.run,
        }
        if record.kind is Kind.RUN_STARTED:
            return entry | {"agent": record.name, "session": record.attempt}
        if record.kind is Kind.RUN_FINISHED:
            return entry | {"status": str(RunStatus(record.name or ""))}
        if record.kind is Kind.DECISION:
            return entry | self._decision(found)
        entry |= _about(found)
        if record.kind is Kind.STEP_INTENDED:
            what = "cell" if self._agent == NOTEBOOK else self._sort(found)
            given = hashlib.sha256(plain).hexdigest() if plain and what == "call" else None
            entry |= {"what": what, "parent": record.parent, "ns": record.ns, "arguments": given}
        elif record.kind in (Kind.STEP_RETURNED, Kind.STEP_LATE):
            entry["result"] = self._digests.of(found)
        elif record.kind is Kind.STEP_FAILED:
            entry |= {"error": hashlib.sha256(plain).hexdigest(), "proves": record.ref}
        return entry

    def _sort(self, found: Witnessed) -> str:
        """Return whether a step is a durable call, or a node (a conditional edge counts as one).

        Not every call says what it was given. A node has a namespace of its own; a call has that
        of the node that it is made in.
        """
        record = found.record
        around = self._spaces.get(record.parent or "", "elsewhere")
        return "call" if found.plain or around == record.ns else "node"

    def _decision(self, found: Witnessed) -> Entry:
        record = found.record
        if record.step is None or record.name == _FORK:
            point = {"at_step": record.step} if record.name == _FORK else {}
            return {"said": record.name, "of": record.parent, **point}
        # `unpack` takes what is stored: a byte says that it is not compressed.
        user, host, tree = unpack(b"\0" + found.plain) if found.plain else (None, None, None)
        said: Entry = {**_about(found), "said": record.name, "user": user, "host": host}
        if record.name == RECONCILED:
            said |= {"said": record.ref, "how": "reconcile"}
        elif record.name in (Said.DID, Said.DID_NOT):
            said["how"] = "a person"
        else:
            said |= {"how": "a person", "question": record.ref}
        if tree is not None:
            said["value"] = self._digests.of(found)
        # The step's own name is in its intent: a decision's column has what was said.
        return {name: value for name, value in said.items() if name != "name"}


def canonical(value: Entry) -> bytes:
    """Return the one way in which an object is written: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _about(found: Witnessed) -> Entry:
    record = found.record
    return {
        "step": record.step,
        "name": record.name,
        "key": ids.idempotency_key(record.step or ""),
        "attempt": record.attempt or 1,
    }


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _iso(microseconds: int) -> str:
    return clock.from_us(microseconds).isoformat(timespec="microseconds")
