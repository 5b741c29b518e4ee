"""A notebook's run as the journal has it: a thread whose steps are the notebook's cells.

A cell's intent is on disk before it runs and says in which kernel. Its variables are recorded by
the kernel, then its result by this process: only with both is a cell done for a later kernel. A
step's id stands for the cell's source and all source before it, so what was changed is another
step, and so is everything behind it.

Whoever runs the same notebook with the same parameters looks for the newest such thread: one that
is unfinished is gone on with, else a new one begins, whose name follows from the one before. So of
two that begin at the same time one is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_agents import ids
from notebook_agents.errors import KeyMissingError
from notebook_agents.journal import Claim, Draft, Journal, Record, locks
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import Decoder, pack, unpack
from notebook_agents.model import NOTEBOOK, Kind, RunStatus
from notebook_agents.runtime.plain import PlainCodec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from notebook_agents.journal.queue import Head
    from notebook_agents.notebook.cells import Cell

_RUN = 1
"""Each thread has one run: so old ones are deleted one by one, and live as long as they may."""
_DEATH_SECONDS = 10.0
_LOOK_SECONDS = 0.01


def begun_with(journal: Journal, thread: str) -> tuple[str, dict[str, Any]]:
    """Return the notebook that a thread is the run of, and its parameters.

    Raises:
        SealError: What was recorded does not open.
    """
    first = journal.select(thread=thread, kinds=[Kind.RUN_STARTED], limit=1)[0]
    refs, payload = journal.parts([first.seq])[first.seq]
    trees = unpack(payload)
    decoder = Decoder(PlainCodec(), journal.parts)
    told = {name: decoder.decode(trees[name], refs) for name in ("notebook", "input")}
    return told["notebook"], json.loads(told["input"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A cell that finished.

    Attributes:
        kept: What it put into the notebook.
        missing: The variables that could not be kept behind it, with why.
        snapshot: The number of the record with all of them, or None.
    """

    kept: Mapping[str, Any]
    missing: Mapping[str, str] = field(default_factory=dict)
    snapshot: int | None = None


class CellJournal:
    """One run of a notebook, from its claim to its end.

    Args:
        journal: The journal.
        notebook: The notebook's path.
        parameters: What it is run with.

    Attributes:
        thread: The run's thread.
        resumed: Whether another process began it.
    """

    def __init__(self, journal: Journal, notebook: Path, parameters: Mapping[str, Any]) -> None:
        self.journal = journal
        self.thread = ""
        self.resumed = False
        self._notebook = str(notebook)
        self._stem = notebook.stem
        self._parameters = parameters
        self._identity = json.dumps([self._notebook, sorted(parameters.items())]).encode()
        self._claim: Claim | None = None
        self._attempts: dict[str, int] = {}

    # -- beginning ------------------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        """Go on with the newest run of this notebook with these parameters, or begin one.

        Args:
            resume: Whether to go on with one. An unfinished one is cancelled otherwise.

        Raises:
            ThreadBusyError: Another process runs it now.
        """
        with self.journal.reading():
            head = self._newest()
        if head is not None and not head.info().status.finished:
            self._take(head.thread, head.session + 1)
            self._end_kernel()
            if resume:
                self.resumed = True
                return
            self.finish(RunStatus.CANCELLED)
        seed = hashlib.blake2b(self._identity, digest_size=8)
        if head is not None:
            seed.update(head.thread.encode())
        name = ids.thread_name(self._stem, seed.digest())
        there = self.journal.head(name)
        if there is not None and there.info().status.finished:
            name = ids.new_thread_name(self._stem)
        self._take(name, 1)

    def _newest(self) -> Head | None:
        for head in self.journal.heads():
            if head.agent == NOTEBOOK and head.notebook == self._notebook and self._same(head):
                return head
        return None

    def _same(self, head: Head) -> bool:
        """Whether a thread is one of this notebook with these parameters."""
        first = self.journal.select(thread=head.thread, kinds=[Kind.RUN_STARTED], limit=1)
        try:
            key = self.journal.data_key(head.scope, create=False)
        except KeyMissingError:
            return False
        return bool(first) and first[0].digest == key.digest(self._identity)

    def _take(self, thread: str, session: int) -> None:
        """Claim a thread with the run's start, or with its being taken up again.

        Raises:
            ThreadBusyError: Another process has it.
        """
        self.thread = thread
        claim = Claim(
            agent=NOTEBOOK,
            run=_RUN,
            session=session,
            notebook=self._notebook,
            fresh=session == 1,
        )
        told: dict[str, Any] = {
            "session": {"pid": os.getpid(), "python": platform.python_version()}
        }
        digest = None
        if session == 1:
            told |= {"notebook": self._notebook, "input": json.dumps(self._parameters)}
            digest = self.journal.data_key(thread).digest(self._identity)
        encoder = self._encoder(None)
        trees = {name: encoder.placed(encoder.encode(value, name)) for name, value in told.items()}
        draft = Draft(
            kind=Kind.RUN_STARTED,
            thread=thread,
            scope=thread,
            run=_RUN,
            name=NOTEBOOK,
            attempt=session,
            digest=digest,
            claim=claim,
            plain=pack(trees),
            refs=encoder.refs,
            size=encoder.size,
        )
        self.journal.append([*encoder.new, draft], durable=True)
        self._claim = claim

    def _end_kernel(self) -> None:
        """Kill the kernel that a killed process left behind: it may still be at work.

        It ends by itself within a second or two, but until then two would be.
        """
        intents = self._select(Kind.STEP_INTENDED)
        if not intents:
            return
        kernel = unpack(self.journal.payload(intents[-1].seq))["kernel"]
        until = time.monotonic() + _DEATH_SECONDS
        while locks.life(**kernel) is not locks.Life.GONE and time.monotonic() < until:
            if kernel["host"] != locks.host_name():
                return  # it cannot be seen from here, and its process had its lease to end
            if kernel["started"]:  # else its number may be another process's by now
                with suppress(ProcessLookupError):
                    os.kill(kernel["pid"], signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)

    # -- what was done --------------------------------------------------------------------------

    def done(self, cells: Sequence[Cell]) -> list[Done]:
        """Return the cells that finished before, from the first on, up to one that has not."""
        with self.journal.reading():
            for record in self._select(Kind.STEP_INTENDED):
                self._attempts[record.step or ""] = record.attempt or 1
            results = {record.step: record for record in self._select(Kind.STEP_RETURNED)}
            snapshots = {
                (record.step, record.attempt): record.seq for record in self._select(Kind.SNAPSHOT)
            }
            found = []
            for cell in cells:
                result = results.get(self.step(cell))
                if result is None:
                    break
                found.append(self._done(result, snapshots))
        return found

    def changed(self, cells: Sequence[Cell]) -> bool:
        """Whether the process before this one ran cells that are not in the notebook any more."""
        *before, _ = self._select(Kind.RUN_STARTED)
        now = {self.step(cell) for cell in cells}
        begun = self._select(Kind.STEP_INTENDED)
        return any(record.seq > before[-1].seq and record.step not in now for record in begun)

    def _done(self, result: Record, snapshots: Mapping[Any, int]) -> Done:
        refs, payload = self.journal.parts([result.seq])[result.seq]
        told = Decoder(PlainCodec(), self.journal.parts).decode(unpack(payload), refs)
        return Done(
            kept=json.loads(told["kept"]),
            missing=told["missing"],
            snapshot=None if told["missing"] else snapshots.get((result.step, result.attempt)),
        )

    # -- what is done now -----------------------------------------------------------------------

    def step(self, cell: Cell) -> str:
        """Return the id of the step that a cell is."""
        return ids.digest_id("cell", self.thread, cell.chain)

    def place(self, cell: Cell) -> dict[str, Any]:
        """Return where a kernel records the variables behind a cell."""
        assert self._claim is not None
        step = self.step(cell)
        return {
            "home": str(self.journal.home),
            "thread": self.thread,
            "run": _RUN,
            "token": self._claim.token,
            "step": step,
            "attempt": self._attempts[step],
            "name": cell.name,
        }

    def intended(self, cell: Cell, kernel: int) -> None:
        """Record that a cell is about to run in the kernel with this process id."""
        step = self.step(cell)
        self._attempts[step] = self._attempts.get(step, 0) + 1
        process = {**locks.this_process(), "pid": kernel, "started": locks.process_started(kernel)}
        draft = self._draft(Kind.STEP_INTENDED, cell)
        draft.plain = pack({"kernel": process})
        self.journal.append([draft], durable=True)

    def returned(self, cell: Cell, kept: Mapping[str, Any], missing: Mapping[str, str]) -> Done:
        """Record that a cell finished; its variables were recorded unless some are missing."""
        encoder = self._encoder(self._claim)
        told = {"kept": json.dumps(kept), "missing": dict(missing)}
        tree = encoder.encode(told, f"the result of {cell.name}")
        draft = self._draft(Kind.STEP_RETURNED, cell)
        draft.plain, draft.refs = pack(encoder.placed(tree)), encoder.refs
        draft.size = encoder.size
        self.journal.append([*encoder.new, draft], durable=True)
        own = [
            record.seq
            for record in self._select(Kind.SNAPSHOT, step=draft.step)
            if record.attempt == draft.attempt
        ]
        snapshot = own[-1] if own and not missing else None
        return Done(kept=kept, missing=missing, snapshot=snapshot)

    def failed(self, cell: Cell, error: str) -> None:
        """Record that a cell raised, or took too long."""
        draft = self._draft(Kind.STEP_FAILED, cell)
        draft.plain = pack((error, None))
        self.journal.append([draft], durable=False)

    def finish(self, status: RunStatus, *, value: Any = None, error: str | None = None) -> None:
        """Record where the run stands and give the thread back.

        Nobody needs the variables of one that is finished: they go with the next compaction.
        """
        assert self._claim is not None
        encoder = self._encoder(self._claim)
        tree = None if value is None else encoder.placed(encoder.encode(value, "the result"))
        end = self._draft(Kind.RUN_FINISHED, None)
        end.name, end.attempt = str(status), self._claim.session
        end.plain, end.refs, end.size = pack((tree, error)), encoder.refs, encoder.size
        drafts = [*encoder.new, end]
        if status.finished and (snapshots := self._select(Kind.SNAPSHOT)):
            gone = self._draft(Kind.DELETION, None)
            gone.run, gone.refs = None, [record.seq for record in snapshots]
            drafts.insert(-1, gone)
        self.journal.append(drafts, durable=True)
        self.journal.driving.discard(self.thread)
        self._claim = None

    def release(self) -> None:
        """Give the thread back without an end of its run, unless that was recorded."""
        if self._claim is not None:
            self.journal.release(self.thread, self._claim.token)
            self._claim = None

    # -- helpers --------------------------------------------------------------------------------

    def _select(self, *kinds: Kind, step: str | None = None) -> list[Record]:
        filters: dict[str, Any] = {} if step is None else {"step": step}
        return self.journal.select(thread=self.thread, run=_RUN, kinds=kinds, **filters)

    def _encoder(self, claim: Claim | None) -> Encoder:
        return Encoder(
            PlainCodec(),
            self.journal.chunks(self.thread),
            thread=self.thread,
            scope=self.thread,
            token=None if claim is None else claim.token,
        )

    def _draft(self, kind: Kind, cell: Cell | None) -> Draft:
        assert self._claim is not None
        step = None if cell is None else self.step(cell)
        return Draft(
            kind=kind,
            thread=self.thread,
            scope=self.thread,
            run=_RUN,
            token=self._claim.token,
            step=step,
            name=None if cell is None else cell.name,
            attempt=None if step is None else self._attempts[step],
        )
