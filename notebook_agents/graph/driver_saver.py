"""The saver under a driver: what it stores becomes durable with the next intent, in order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from notebook_agents import faults
from notebook_agents.errors import JournalWriteError, ValueNotKeptError
from notebook_agents.faults import Fault
from notebook_agents.graph.codec import ResultCodec, StateCodec
from notebook_agents.graph.private import CONTROL, ERROR, ERROR_SOURCE_NODE, RETURN
from notebook_agents.graph.saver import JournalSaver, stored_config
from notebook_agents.runtime.stopping import RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
    )

    from notebook_agents.journal import Draft, Journal

# Where it is not handed over at once (see handover.py), the checkpoint is on its way in
# another thread, which needs the interpreter's lock and little else. Letting it run and looking
# again is quicker than being woken: 0.81 to 1.05 ms of overhead a step against 1.02 to 1.21. A
# checkpoint that takes longer is waited for.
_YIELDS = 100


class DriverSaver(JournalSaver):
    """The saver of a graph that a driver runs: what it gets goes out with the next intent.

    LangGraph hands checkpoints and writes over from other threads and in no fixed order with the
    nodes. So they are only taken in there; whoever is about to declare an intent waits at the
    barrier for the checkpoint that it rests on, and then encodes what has come in, before any node
    that could change it runs.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        scope: str,
        run: int,
        token: int,
        allow: Iterable[tuple[str, ...] | type] = (),
    ) -> None:
        super().__init__(journal, allow=allow)
        self._fixed = {"scope": scope, "run": run, "token": token}
        self._cached_codec = StateCodec(self.serde)
        self._taken_in: deque[Callable[[], Sequence[Draft]]] = deque()
        self._encoding = threading.Lock()
        self._news = False  # a checkpoint is among it
        self._lost: ValueNotKeptError | None = None
        self.barrier = Barrier()
        self.result_codec = ResultCodec(self.serde)
        """Serialises what nodes return."""

    def settle_checkpoints(self) -> None:
        """Encode and stage what came in up to the newest checkpoint, if that is still to be done.

        What a task wrote may wait for the next checkpoint: its result is recorded, and writes that
        are missing after a kill are made from that again. One thread then encodes the writes of a
        wide superstep, where each task would have, in turn, while the others wait.

        Raises:
            ValueNotKeptError: A state value cannot be kept; its channel is named.
        """
        if self._news or self._encoding.locked() or self._lost is not None:
            self.settle()

    def settle(self) -> None:
        """Encode and stage all that has come in.

        Raises:
            ValueNotKeptError: A state value cannot be kept; its channel is named. Nothing behind it
                is stored, then or later.
        """
        with self._encoding:
            if self._lost is not None:
                raise self._lost
            self._news = False  # what comes in from here on says so again
            try:
                while self._taken_in:
                    self.journal.stage(self._taken_in[0]())
                    self._taken_in.popleft()  # an interrupt before this: it is stored twice
            except ValueNotKeptError as error:
                self._lost = error
                raise

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint, what has come in included."""
        found = super().get_tuple(config)
        if found is not None:
            self.barrier.arrive(found.checkpoint["id"])
            if found.pending_writes:
                # What a `@task` returned is known by its arguments (graph/tasks.py), and LangGraph
                # would give it to whichever call comes at its place.
                found = found._replace(
                    pending_writes=[write for write in found.pending_writes if write[1] != RETURN]
                )
        return found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Take a checkpoint in."""
        try:
            self._taken_in.append(partial(self._checkpoint_drafts, config, checkpoint, metadata))
            self._news = True
            faults.hit(Fault.CHECKPOINT_AFTER)
        except BaseException as error:
            self.barrier.fail(error)  # LangGraph gives no later checkpoint after this
            raise
        self.barrier.arrive(checkpoint["id"], parents=(metadata.get("parents") or {}).values())
        return stored_config(config, checkpoint)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Take a checkpoint in."""
        return self.put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Take in what a task writes."""
        if any(isinstance(value, RunStopped) for _, value in writes):
            return  # it did not fail: its run was left before it began
        channels = {channel for channel, _ in writes}
        if ERROR in channels and ERROR_SOURCE_NODE not in channels:  # no handler goes on from it
            # LangGraph takes a task that wrote something for done. Where a conditional edge raised
            # the node's writes are there and where to go is not: the run would end without a word.
            writes = [write for write in writes if write[0] in CONTROL]
        try:
            self._taken_in.append(
                partial(self._writes_drafts, config, tuple(writes), task_id, task_path)
            )
            faults.hit(Fault.WRITES_AFTER)
        except BaseException as error:
            self.barrier.fail(error)  # with a DeltaChannel the next checkpoint waits for it
            raise

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Take in what a task writes."""
        self.put_writes(config, writes, task_id, task_path)

    def _bring_up(self) -> None:
        with suppress(ValueNotKeptError):  # it ends the run where a node rests on it
            self.settle()
        self.journal.flush(durable=False)

    @property
    def _codec(self) -> StateCodec:
        return self._cached_codec

    def _columns(self) -> dict[str, Any]:
        return self._fixed


class Barrier:
    """Which checkpoints have reached the saver; threads and coroutines wait for one to arrive.

    A step's id hashes the id of its checkpoint. Were the intent on disk and the checkpoint not,
    LangGraph would make another checkpoint after a kill, and the step would have another id and
    another idempotency key. A checkpoint in a subgraph rests on those of the graphs around it.

    A signal can raise in the main thread between any two instructions of Python, also inside
    `threading.Condition.__enter__` when it has its lock already: nobody ever gets that lock again.
    So this rests on plain locks alone, which are taken and given back in C.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived: dict[str, tuple[str, ...]] = {}
        self._waiting: dict[object, Callable[[], object]] = {}
        self._failure: BaseException | None = None

    def arrive(self, checkpoint_id: str, parents: Iterable[str] = ()) -> None:
        """Note a checkpoint and those it rests on."""
        with self._lock:
            self._arrived[checkpoint_id] = tuple(parents)
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Note that a checkpoint did not arrive: nobody may wait for it, or for a later one."""
        with self._lock:
            self._failure = error
            self._wake()

    def wait(self, checkpoint_id: str) -> None:
        """Return when a checkpoint and all it rests on have arrived.

        Raises:
            JournalWriteError: Something kept one from arriving.
        """
        for _ in range(_YIELDS):
            if self._complete(checkpoint_id):
                return
            time.sleep(0)
        news: SimpleQueue[None] = SimpleQueue()
        try:
            while not self._complete_or_wait(checkpoint_id, news, partial(news.put, None)):
                news.get()
        finally:
            self._waiting.pop(news, None)

    async def wait_async(self, checkpoint_id: str) -> None:
        """Do as `wait` without blocking the event loop."""
        news = asyncio.Event()
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, news.set)
        try:
            while not self._complete_or_wait(checkpoint_id, news, tell):
                await news.wait()
                news.clear()
        finally:
            self._waiting.pop(news, None)

    def _complete_or_wait(
        self, checkpoint_id: str, who: object, tell: Callable[[], object]
    ) -> bool:
        with self._lock:
            if self._complete(checkpoint_id):
                return True
            self._waiting[who] = tell
            return False

    def _complete(self, checkpoint_id: str) -> bool:
        if self._failure is not None:
            raise JournalWriteError(
                f"a checkpoint could not be handed over ({self._failure}): nothing that rests on "
                "it is run, resume the run"
            ) from self._failure
        todo, seen = [checkpoint_id], set()
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            if current not in self._arrived:
                return False
            todo.extend(self._arrived[current])
        return True

    def _wake(self) -> None:
        for tell in list(self._waiting.values()):
            tell()
