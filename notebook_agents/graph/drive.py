"""One process taking one run up: claim the thread, run the graph, put the run down."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import threading
import weakref
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from langgraph.errors import (
    EmptyInputError,
    GraphBubbleUp,
    GraphInterrupt,
    InvalidUpdateError,
    is_invalid_resume,
)
from langgraph.pregel import Pregel
from pydantic import ValidationError

from notebook_agents import faults
from notebook_agents.errors import (
    FencedError,
    InputError,
    JournalError,
    StepInDoubt,
    ValueNotKeptError,
)
from notebook_agents.faults import Fault
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.graph.driver_saver import DriverSaver
from notebook_agents.graph.handover import handed_over
from notebook_agents.graph.loop import in_loop_thread
from notebook_agents.graph.private import path_of, placed, schema_types
from notebook_agents.graph.toolcalls import close_tool_calls
from notebook_agents.graph.unhandled import Unhandled
from notebook_agents.graph.wrap import durable, message_channels
from notebook_agents.journal.values import pack
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime.driver import RunDriver, describe
from notebook_agents.runtime.leaving import was_left
from notebook_agents.runtime.stopping import RunStopped
from notebook_agents.saying import say

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager

    from langchain_core.runnables import RunnableConfig
    from langgraph.types import StreamMode

    from notebook_agents.graph.people import Replies
    from notebook_agents.graph.usage import Prices
    from notebook_agents.graph.wrap import Graph
    from notebook_agents.journal import Claim, Draft, Journal

_logger = logging.getLogger("notebook_agents.graph")
_CLOSING_SECONDS = 0.002
_going: weakref.WeakValueDictionary[tuple[str, str], Drive] = weakref.WeakValueDictionary()
"""The runs that this process drives, by journal and thread."""


def going(journal: Journal, thread: str) -> Drive | None:
    """Return this process's drive of a thread, if it drives it now."""
    driven = thread in journal.driving or was_left(journal.id, thread)
    return _going.get((journal.id, thread)) if driven else None


Part = tuple[tuple[str, ...], str, Any]
"""Of a stream: whose (the namespace), which mode, what."""


class aclosing:  # noqa: N801 - named after contextlib's
    """Close an async generator at the end of a block, whoever else is closing it just then.

    The collector finds a stream's generators together, and has their loop close each.
    """

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator

    async def __aenter__(self) -> AsyncGenerator[Any, None]:
        return self._generator

    async def __aexit__(self, *_: object) -> None:
        while True:
            try:
                await self._generator.aclose()
            except RuntimeError:
                if not getattr(self._generator, "ag_running", False):
                    raise
                await asyncio.sleep(_CLOSING_SECONDS)
            else:
                return


class Drive:
    """A run in this process, from its claim to its end.

    Args:
        journal: The journal.
        graph: The user's compiled graph.
        claim: What is asked of the thread.
        thread: The thread's name.
        scope: Its scope.
        started: What the run's first record holds; None where the run was started before.
        allow: Types that may come back out of the state.
        last_superstep: The number of the last superstep that the run's recursion limit allows,
            where the run was begun by another process; None leaves it to LangGraph.
        prices: What models cost; see `Agent`.
        replies: The answers that it starts with, if it was begun before.
        origins: The threads that this one was forked from.
        show: Shows the run while it works, in a block.
    """

    def __init__(
        self,
        journal: Journal,
        graph: Graph,
        *,
        claim: Claim,
        thread: str,
        scope: str,
        started: dict[str, Any] | None,
        digest: bytes | None,
        allow: tuple[Any, ...],
        last_superstep: int | None,
        replies: Replies | None,
        prices: Prices | None = None,
        origins: tuple[str, ...] = (),
        show: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        faults.hit(Fault.RUN_START_BEFORE)
        self.show = show
        self._wished = False  # a button asked to stop, not Ctrl-C
        self.runner: int | None = None
        """The worker thread, or the main one, in which nodes run or are waited for now."""
        self.journal = journal
        self.thread = thread
        self._task: asyncio.Future[Any] | None = None
        self._cuts = 0  # how often the consumer of a stream was cancelled in the run's stead
        types = {*schema_types(graph), *allow}
        serializer = strict_serializer(types)
        self.driver = RunDriver(
            journal,
            thread=thread,
            scope=scope,
            number=claim.run,
            claim=claim,
            codec=ResultCodec(serializer),
            suspension=(GraphInterrupt,),
            signal=(GraphBubbleUp,),
            prices=prices,
            origins=origins,
            placed=placed,
        )
        answers = [] if replies is None else replies.drafts(self.driver, serializer)
        self.workers = self.driver.workers
        self._start(claim, started, digest, answers)
        _going[journal.id, thread] = self  # from here on it can be cancelled
        try:
            self.driver.load()
            self._saver = DriverSaver(
                journal, scope=scope, run=claim.run, token=claim.token, allow=types
            )
            # What the state would refuse shall fail the node, not the graph after it.
            self._saver.result_codec = ResultCodec(serializer, into_state=_keeps_all(graph))
            self.graph = durable(graph, self.driver, self._saver, last_superstep)
        except BaseException:
            journal.release(thread, claim.token)
            raise

    def _start(
        self,
        claim: Claim,
        started: dict[str, Any] | None,
        digest: bytes | None,
        answers: list[Draft],
    ) -> None:
        """Claim the thread with the run's start, or with its being taken up and given answers."""
        encoder = self.driver.encoder()
        session = {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "langgraph": _langgraph_version(),
        }
        trees = {
            name: encoder.placed(encoder.encode(value, f"{name} of thread {self.thread!r}"))
            for name, value in {"session": session, **(started or {})}.items()
        }
        draft = self.driver.draft(
            Kind.RUN_STARTED, name=claim.agent, attempt=claim.session, digest=digest
        )
        draft.claim, draft.token = claim, None
        draft.plain, draft.refs, draft.size = pack(trees), encoder.refs, encoder.size
        for chunk in encoder.new:
            chunk.token = None  # the claim's own token is given at the commit
        try:
            self.journal.append([*encoder.new, draft, *answers], durable=bool(answers))
        except BaseException:
            if self.thread in self.journal.driving and not going(self.journal, self.thread):
                self.journal.release(self.thread, claim.token)  # Ctrl-C right behind the commit
            raise

    # -- running --------------------------------------------------------------------------------

    def invoke(self, given: Any, config: RunnableConfig, context: Any) -> None:
        """Run the graph to its end and record where it stands."""
        with self.show():
            if needs_loop(self.graph):
                try:
                    in_loop_thread(self._ainvoke(given, config, context), self.left)
                except BaseException as error:
                    if self._task is not None:
                        raise  # it was recorded there
                    self._broke(error)
                return
            try:
                with self._running(), handed_over(self._saver, self.workers):
                    value = self.graph.invoke(given, config, context=context, durability="async")
                self._ended(value, config)
            except BaseException as error:  # noqa: BLE001 - recorded, and raised again
                self._broke(error)

    async def ainvoke(self, given: Any, config: RunnableConfig, context: Any) -> None:
        """Run the graph to its end on the running loop and record where it stands."""
        with self.show():
            await self._ainvoke(given, config, context)

    async def _ainvoke(self, given: Any, config: RunnableConfig, context: Any) -> None:
        try:
            work = self.graph.ainvoke(given, config, context=context, durability="async")
            self._task = asyncio.ensure_future(work)
            value = await self._task
            self._ended(value, config)
        except BaseException as error:
            error = await self._after_workers(error)
            self._broke(error)
            if _cancelled_from_outside(error):
                raise error from None

    # -- cancelling -----------------------------------------------------------------------------

    def cancel(self) -> None:
        """Let no further step begin, and cancel what runs on an event loop; from any thread."""
        self.driver.cancelled = True
        if not self._cut() and self.driver.under_way:
            self._say_what_runs()

    def stop(self) -> bool:
        """Let no further step begin, and leave what runs on an event loop; from any thread.

        Returns:
            Whether it runs on an event loop, and so ends now.
        """
        self._wished = self.driver.stopped = True
        return self._cut()

    def _cut(self) -> bool:
        task = self._task
        if task is not None:
            with suppress(RuntimeError):  # its loop is closed: it has ended
                task.get_loop().call_soon_threadsafe(self._cut_off, task)
        return task is not None

    @contextmanager
    def _running(self) -> Iterator[None]:
        self.runner = threading.get_ident()
        try:
            yield
        finally:
            self.runner = None

    def _say_what_runs(self) -> None:
        say(
            f"thread {self.thread!r} begins no other step, and ends when "
            f"{self.workers.names} has returned"
        )

    def _cut_off(self, task: asyncio.Future[Any]) -> None:
        if self._task is task:  # else a consumer has its chunk: what it does is not the run's
            self._cuts += task.cancel()

    def finish_cancelled(self) -> None:
        """Mark the run cancelled; its state is left so that a model accepts it."""
        self._settle()
        checkpoints = self.journal.select(thread=self.thread, kinds=[Kind.CHECKPOINT], ns="")
        if checkpoints:
            close_tool_calls(
                self._saver,
                {"configurable": {"thread_id": self.thread}},
                message_channels(self.graph),
                self.driver.returned_since(checkpoints[-1].seq),
            )
        self._settle()
        self.driver.finish(RunStatus.CANCELLED)

    def stream(
        self,
        given: Any,
        config: RunnableConfig,
        context: Any,
        modes: Sequence[StreamMode],
        *,
        subgraphs: bool,
    ) -> Generator[Part, None, None]:
        """Run the graph and yield what LangGraph streams; close it to put the run down.

        Args:
            given: What LangGraph is given.
            config: LangGraph's config.
            context: The graph's runtime context.
            modes: LangGraph's stream modes; "values" has to be one of them.
            subgraphs: Whether those of subgraphs are streamed too.

        Yields:
            Namespace, mode and chunk.
        """
        with self.show():
            value = None
            try:
                parts: Any = self.graph.stream(
                    given,
                    config,
                    context=context,
                    durability="async",
                    stream_mode=list(modes),
                    subgraphs=subgraphs,
                )
                # Closed here: its nodes have ended before the thread is given back.
                with closing(parts):
                    for part in self._each(parts):
                        value = part[2] if part[:2] == ((), "values") else value
                        yield part
                self._ended(value, config)
            except BaseException as error:  # noqa: BLE001 - recorded, and raised again
                self._broke(error)

    async def astream(
        self,
        given: Any,
        config: RunnableConfig,
        context: Any,
        modes: Sequence[StreamMode],
        *,
        subgraphs: bool,
    ) -> AsyncGenerator[Part, None]:
        """Do as `stream` on the running loop."""
        with self.show():
            value = None
            try:
                parts: Any = self.graph.astream(
                    given,
                    config,
                    context=context,
                    durability="async",
                    stream_mode=list(modes),
                    subgraphs=subgraphs,
                )
                async with aclosing(parts), aclosing(self._each_async(parts)) as each:
                    async for part in each:
                        value = part[2] if part[:2] == ((), "values") else value
                        yield part
                self._ended(value, config)
            except BaseException as error:
                error = await self._after_workers(error)
                self._broke(error)
                if _cancelled_from_outside(error):
                    raise error from None

    def _each(self, parts: Generator[Any, None, None]) -> Generator[Part, None, None]:
        """Yield what LangGraph streams; between two chunks the context is the consumer's own."""
        while True:
            with self._running(), handed_over(self._saver, self.workers):
                part = next(parts, None)
            if part is None:
                return
            yield _part(part)

    async def _each_async(self, parts: AsyncGenerator[Any, None]) -> AsyncGenerator[Part, None]:
        """Yield what LangGraph streams; while it is waited for, `cancel` can cut it off."""
        while True:
            self._task = task = asyncio.current_task()
            try:
                part = await anext(parts, None)
            finally:
                self._task = None
                while self._cuts and task is not None:
                    task.uncancel()
                    self._cuts -= 1
            if part is None:
                return
            yield _part(part)

    def put_down(self) -> None:
        """Give the thread back without an end: whoever resumes it finds it orphaned."""
        try:
            if self.driver.cancelled and self.thread in self.journal.driving:
                self.finish_cancelled()
            self.journal.release(self.thread, self.driver.claim.token)
        except Exception:  # the journal may be what broke; the first error is the one to show
            _logger.warning("thread %r could not be given back", self.thread, exc_info=True)

    def stand_aside(self) -> None:
        """Let this process take the thread up again before the rest is done: no step runs on."""
        if not self.workers.running:
            self.journal.driving.discard(self.thread)

    def left(self) -> bool:
        """Whether the run was left while steps run in worker threads."""
        return was_left(self.journal.id, self.thread)

    async def _after_workers(self, error: BaseException) -> BaseException:
        """Wait for what still runs in worker threads, where LangGraph does not; return what ends.

        Whoever cancels the run from outside, or closes its stream, leaves them instead.
        """
        cut = isinstance(error, asyncio.CancelledError) and not _cancelled_from_outside(error)
        if cut and self._wished:
            return RunStopped()
        if cut or isinstance(error, Exception | RunStopped):
            if self.driver.cancelled and self.workers.running:
                self._say_what_runs()
            try:
                await self.workers.end()
            except asyncio.CancelledError as cancelled:
                return cancelled
        return error

    def _ended(self, value: Any, config: RunnableConfig) -> None:
        waiting = self.driver.waiting
        if not waiting and (self.graph.interrupt_before_nodes or self.graph.interrupt_after_nodes):
            waiting = bool(self.graph.get_state(config).next)
        self._saver.settle()
        if self.driver.cancelled:  # also in its last superstep: whoever cancels wants no answer
            self.finish_cancelled()
        elif waiting:
            self.driver.finish(RunStatus.WAITING)
        else:
            self.driver.finish(RunStatus.SUCCEEDED, value=value)

    def _broke(self, error: BaseException) -> None:
        """Record what ended the run, as far as it can be, and raise what its caller shall see."""
        if isinstance(error, Unhandled):
            error = error.cause
        if self._wished and isinstance(error, KeyboardInterrupt):
            error = RunStopped()
        if not isinstance(error, Exception) and self._left_behind():
            raise error
        if self.driver.cancelled and not isinstance(error, FencedError | JournalError):
            self.finish_cancelled()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise error  # no word of the run's
            return
        if isinstance(error, StepInDoubt):
            self._settle()
            self.driver.finish(RunStatus.IN_DOUBT, error=str(error))
            return
        if not isinstance(error, Exception) or isinstance(error, FencedError | JournalError):
            self.put_down()
            raise error
        self._settle()
        if not self.driver.began and isinstance(
            error, EmptyInputError | InvalidUpdateError | ValidationError
        ):
            wrong = InputError(
                f"agent {self.driver.claim.agent!r} cannot take this input on thread "
                f"{self.thread!r} ({describe(error)}): give it what its graph's input schema says"
            )
            self.driver.finish(RunStatus.FAILED, error=describe(wrong))
            raise wrong from error
        self.driver.finish(RunStatus.FAILED, error=describe(error))
        if is_invalid_resume(error):
            error.add_note(
                f"Run {self.driver.number} of thread {self.thread!r} asks again: answer it by "
                f'na.resume("{self.thread}", answer=...).'
            )
            raise error
        error.add_note(
            f"Run {self.driver.number} of thread {self.thread!r} failed here; what returned before "
            f'is kept. Mend it and run the same again, or call na.resume("{self.thread}").'
        )
        raise error

    def _left_behind(self) -> bool:
        """Whether steps still run in worker threads; the last of them puts the run down."""
        self.driver.stopped = True
        self.journal.hold()

        def ended() -> None:
            try:
                self.put_down()
            finally:
                self.journal.let_go()

        if not self.workers.leave(ended):
            self.journal.let_go()
            return False
        say(
            f"thread {self.thread!r} was left while {self.workers.names} still runs: what it "
            "returns is recorded, and this process cannot end before"
        )
        return True

    def _settle(self) -> None:
        """Store what came in before the end, if it can be stored: it may be what ended the run."""
        try:
            self._saver.settle()
        except ValueNotKeptError:
            _logger.info("thread %r ended before its state was stored", self.thread, exc_info=True)


def _cancelled_from_outside(error: BaseException) -> bool:
    """Whether somebody else than `na.cancel` cancelled the task that drives a run."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


def _part(part: Any) -> Part:
    """Return what LangGraph streams; it names no namespace without subgraphs."""
    return part if len(part) == 3 else ((), *part)


@cache
def _langgraph_version() -> str:
    return version("langgraph")


def _keeps_all(graph: Graph) -> bool:
    """Whether everything that nodes return goes into checkpoints."""
    return not any(
        type(channel).__name__ == "UntrackedValue" for channel in graph.channels.values()
    )


def needs_loop(graph: Graph) -> bool:
    """Whether some node or conditional edge has no synchronous function."""
    for node in graph.nodes.values():
        for path in filter(None, map(path_of, node.writers)):
            path = getattr(path, "inner", path)
            if getattr(path, "afunc", None) is not None and getattr(path, "func", None) is None:
                return True
        bound = getattr(node.bound, "inner", node.bound)
        if isinstance(bound, Pregel):
            if needs_loop(bound):
                return True
        elif getattr(bound, "afunc", None) is not None and getattr(bound, "func", None) is None:
            return True
    return False
