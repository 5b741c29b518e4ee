"""A run as a stream: what LangGraph yields while the journal keeps what happened."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from notebook_agents.errors import ThreadBusyError, UsageError
from notebook_agents.graph.drive import aclosing, needs_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.types import StreamMode

    from notebook_agents.graph.drive import Drive, Part
    from notebook_agents.graph.run import Run
    from notebook_agents.journal import Journal

_VALUES: StreamMode = "values"
_FINALIZER_SECONDS = 1.0
_standing: weakref.WeakValueDictionary[tuple[str, str], RunStream] = weakref.WeakValueDictionary()
"""The streams of this process, by journal and thread."""


class RunStream:
    """What `Agent.stream` and `Agent.astream` return: chunks to iterate over, and the run.

    It drives its thread from the call on. The graph goes on while a chunk is asked for, and
    begins no further superstep while none is. Leaving the loop early, `close`, an error in the
    consumer and Ctrl-C put the run down: it is orphaned and can be resumed. Ctrl-C, and whatever
    ends an `async for`, waits for no node in a worker thread: the last gives the thread back. Use
    `with` where the stream has a name, or an error's traceback keeps it, and its thread.

    Attributes:
        thread: The thread's name.
    """

    def __init__(
        self,
        drive: Drive | None,
        run: Callable[[], Run],
        *,
        thread: str,
        call: tuple[Any, RunnableConfig, Any],
        stream_mode: StreamMode | Sequence[StreamMode] | None,
        subgraphs: bool,
    ) -> None:
        self.thread = thread
        self._drive = drive
        self._run = run
        self._call = call
        self._subgraphs = subgraphs
        self._chunks: Generator[Part, None, None] | None = None
        self._achunks: AsyncGenerator[Part, None] | None = None
        self._over = drive is None
        self._taken = False
        self._owner = _here()
        if drive is not None:
            mode: Any = drive.graph.stream_mode if stream_mode is None else stream_mode
            self._single = isinstance(mode, str)
            self._modes = [mode] if self._single else list(mode)
            _standing[str(drive.journal.home), thread] = self

    @property
    def run(self) -> Run:
        """The run as it stands now; after the last chunk, what `Agent.run` would have returned."""
        return self._run()

    # -- iterating ------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._check(self._achunks, "async for")
        if self._over or self._drive is None:
            raise StopIteration
        self._owner = _here()
        try:
            if self._chunks is None:
                self._chunks = self._begun(self._drive)
            while True:
                part = next(self._chunks)
                if part[1] in self._modes:
                    return self._shaped(part)
        except BaseException as error:
            self._close_on(error)
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        self._check(self._chunks, "for")
        if self._over or self._drive is None:
            raise StopAsyncIteration
        self._owner = _here()
        try:
            if self._achunks is None:
                self._achunks = self._drive.astream(
                    *self._call, self._asked(), subgraphs=self._subgraphs
                )
            while True:
                part = await anext(self._achunks)
                if part[1] in self._modes:
                    return self._shaped(part)
        except BaseException:
            await self.aclose()
            raise

    def _check(self, otherwise: object, how: str) -> None:
        if otherwise is not None:
            raise UsageError(
                f"the stream of thread {self.thread!r} is being read by `{how}`: go on with that"
            )
        if self._taken:
            raise ThreadBusyError(
                f"the stream of thread {self.thread!r} ended when this process took the thread up "
                "again: read from what did"
            )

    # -- closing --------------------------------------------------------------------------------

    def close(self) -> None:
        """Put the run down, if it has not ended; nodes that are running end first.

        Raises:
            UsageError: It is read by `async for`, so `aclose` closes it.
        """
        if self._over or self._drive is None:
            return
        if self._achunks is not None:
            raise UsageError(
                f"the stream of thread {self.thread!r} is read by `async for`: await its aclose()"
            )
        self._over = True
        _close(self._chunks, self._drive)

    async def aclose(self) -> None:
        """Put the run down, if it has not ended; nodes that are running are cancelled or left."""
        if self._achunks is None:
            self.close()
        elif not self._over:
            self._over = True
            await self._achunks.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._close_on(error)

    def _close_on(self, error: BaseException | None) -> None:
        """Close, and do not wait for nodes after Ctrl-C."""
        if isinstance(error, KeyboardInterrupt) and self._drive is not None:
            self._drive.workers.left = True
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_over", True) or self._drive is None:
            return
        self._drive.workers.left = True  # it may be Ctrl-C that is on its way
        # So that this process can take the thread up again before the rest is done.
        self._drive.journal.driving.discard(self.thread)
        if self._achunks is not None:
            return  # its event loop closes it
        # This may run in the middle of anything, also of a commit, whose lock closing would wait
        # for. So another thread closes, and is not waited for in all cases.
        closed: SimpleQueue[None] = SimpleQueue()

        def close(chunks: Generator[Part, None, None] | None, drive: Drive) -> None:
            try:
                _close(chunks, drive)
            finally:
                closed.put(None)

        with suppress(RuntimeError, Empty):  # an interpreter that ends starts no thread
            _thread.start_new_thread(close, (self._chunks, self._drive))
            closed.get(timeout=_FINALIZER_SECONDS)

    def leave(self) -> None:
        """Put the run down for somebody else in this process, if nobody reads it any more."""
        here, owner = _here(), self._owner
        gone = owner.done() if isinstance(owner, asyncio.Task) else not owner.is_alive()
        running = getattr(self._chunks, "gi_running", False) or getattr(
            self._achunks, "ag_running", False
        )
        if self._over or running or (owner is not here and not gone):
            return
        self._taken = True
        if self._achunks is None:
            self.close()
        elif self._drive is not None:
            self._over = True
            self._drive.journal.driving.discard(self.thread)
            self._achunks = None  # its event loop closes it

    # -- chunks ---------------------------------------------------------------------------------

    def _asked(self) -> list[StreamMode]:
        """Return the modes to ask LangGraph for: what a graph returns is its last "values"."""
        return self._modes if _VALUES in self._modes else [*self._modes, _VALUES]

    def _begun(self, drive: Drive) -> Generator[Part, None, None]:
        if needs_loop(drive.graph):
            return _from_loop_thread(
                drive.astream(*self._call, self._asked(), subgraphs=self._subgraphs), drive.left
            )
        return drive.stream(*self._call, self._asked(), subgraphs=self._subgraphs)

    def _shaped(self, part: Part) -> Any:
        """Return a chunk in the shape that LangGraph gives it."""
        ns, mode, chunk = part
        shape = (*((ns,) if self._subgraphs else ()), *(() if self._single else (mode,)), chunk)
        return shape if len(shape) > 1 else chunk


def leave(journal: Journal, thread: str) -> None:
    """Put down what a stream of this process left standing on a thread, if nobody reads it.

    A notebook keeps the stream of a cell that was interrupted; running the cell again must not
    find its own thread busy.
    """
    stream = _standing.get((str(journal.home), thread))
    if stream is not None:
        stream.leave()


def _here() -> asyncio.Task[Any] | threading.Thread:
    """Return the task, or else the worker thread, that this code runs in."""
    with suppress(RuntimeError):  # no running event loop
        if (task := asyncio.current_task()) is not None:
            return task
    return threading.current_thread()


def _close(chunks: Generator[Part, None, None] | None, drive: Drive) -> None:
    if chunks is None:  # not begun: there is no code of the generator to run
        drive.put_down()
    else:
        chunks.close()


def _from_loop_thread(
    chunks: AsyncGenerator[Part, None], left: Callable[[], bool]
) -> Generator[Part, None, None]:
    """Yield what an async generator yields on a loop of its own in another thread.

    The loop's workers are waited for unless they were `left`.
    """

    async def following() -> Part | None:
        return await anext(chunks, None)

    async def close() -> None:
        async with aclosing(chunks):
            pass

    loop = _LoopThread(left)
    try:
        while (part := loop.do(following())) is not None:
            yield part
    finally:
        try:
            loop.do(close())
        finally:
            loop.end()


class _LoopThread:
    """An event loop in a thread of its own, that does one thing after the other."""

    def __init__(self, left: Callable[[], bool]) -> None:
        self._left = left
        self._loop = asyncio.new_event_loop()
        self._context = contextvars.copy_context()
        self._ended: SimpleQueue[None] = SimpleQueue()
        # A daemon: a stream that was never closed must not keep the process from ending.
        threading.Thread(target=self._serve, name="notebook-agents-loop", daemon=True).start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns; an interrupt here cancels it first."""
        begun: list[asyncio.Task[Any]] = []
        done: SimpleQueue[None] = SimpleQueue()
        stopped: SimpleQueue[None] = SimpleQueue()

        def begin() -> None:
            begun.append(self._loop.create_task(work, context=self._context))
            begun[0].add_done_callback(lambda _: done.put(None))

        def stop() -> None:
            begun[0].cancel()
            begun[0].add_done_callback(lambda _: stopped.put(None))

        self._loop.call_soon_threadsafe(begin)
        try:
            done.get()
        except BaseException:
            self._loop.call_soon_threadsafe(stop)
            stopped.get()
            raise
        return begun[0].result()

    def end(self) -> None:
        """Stop the loop and wait until it is closed."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._ended.get()

    def _serve(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            try:
                loop.run_until_complete(loop.shutdown_asyncgens())
                if not self._left():
                    loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                loop.close()
                self._ended.put(None)
