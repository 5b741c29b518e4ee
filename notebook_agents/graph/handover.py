"""What LangGraph stores is handed over at once, and what runs in workers can be left behind.

LangGraph gives each checkpoint and each task's writes to a worker thread, which gives them to the
saver. A driver's saver only takes them in, so there is nothing to wait for; and the node that rests
on a checkpoint would wait for two threads to be woken, 0.14 ms of each step. So for as long as a
driver's graph runs, the executor that LangGraph makes for it runs those two calls at once.

And LangGraph waits for its workers before it lets a KeyboardInterrupt out, as long as the slowest
node takes. Here it goes out at once, and the run is told what still runs (`runtime/leaving.py`).

LangGraph offers no place for either: the function that makes the executor and the end of what uses
it are replaced, once. Outside a driver's graph they do what they did. Were they not there, nothing
would break: the barrier (`driver_saver.py`) waits for what comes from a worker, and Ctrl-C for the
workers.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import TYPE_CHECKING, Any

from langchain_core.runnables.config import ContextThreadPoolExecutor

from notebook_agents.graph.private import EXECUTORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from notebook_agents.runtime.leaving import Workers

_PUT = "_checkpointer_put_after_previous"
_driving: ContextVar[tuple[object, Workers] | None] = ContextVar("na_driving", default=None)
_NAME = "get_executor_for_config"
_original: Any = getattr(EXECUTORS, _NAME, None)
_background: Any = getattr(EXECUTORS, "BackgroundExecutor", None)


@contextmanager
def handed_over(saver: object, workers: Workers) -> Iterator[None]:
    """Have LangGraph give `saver` what it stores at once, and run nodes in `workers`, in the block.

    A KeyboardInterrupt leaves the block without waiting for them.
    """
    token = _driving.set((saver, workers))
    try:
        yield
    finally:
        _driving.reset(token)


class _Pool(ContextThreadPoolExecutor):
    """An executor that calls a saver at once and can be left while its threads run."""

    def __init__(self, config: Any, receiver: object, workers: Workers) -> None:
        super().__init__(max_workers=(config or {}).get("max_concurrency"))
        self._receiver = receiver
        self.workers = workers

    def submit(  # type: ignore[override]  # as LangChain's does
        self, run: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if not (args and isinstance(args[0], MethodType)):
            return super().submit(self.workers.run, run, *args, **kwargs)
        if not self._stores(args[0]):
            # Tasks are functions. A method is LangGraph's own: waiting for a stream's next chunk.
            return super().submit(run, *args, **kwargs)
        done: Future[Any] = Future()
        try:
            done.set_result(run(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - LangGraph asks the future
            done.set_exception(error)
        return done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Wait for what runs, as a `ToolNode` does for its tools, but not after Ctrl-C."""
        if isinstance(error, KeyboardInterrupt):
            self.leave()
            return None
        try:
            return super().__exit__(kind, error, traceback)
        except KeyboardInterrupt:  # it came while we waited
            self.leave()
            raise

    def leave(self) -> None:
        """Wait for nobody; what is queued ends as soon as it starts."""
        self.shutdown(wait=False)

    def _stores(self, function: MethodType) -> bool:
        """Whether a function gives our saver something; LangGraph has it run in its own context."""
        owner = function.__self__
        return owner is self._receiver or (
            function.__name__ == _PUT and getattr(owner, "checkpointer", None) is self._receiver
        )


def _executor_for(config: Any) -> Any:
    driving = _driving.get()
    return _original(config) if driving is None else _Pool(config, *driving)


def leave_tools(module: Any) -> None:
    """Have the tools that a `ToolNode` runs side by side in worker threads be left too.

    Args:
        module: Where `ToolNode` looks for what makes its executor.
    """
    if getattr(module, _NAME, None) is _original is not None:
        setattr(module, _NAME, _executor_for)


def _leaving(waits: Callable[..., bool | None]) -> Callable[..., bool | None]:
    """Return how a graph's executor ends: as LangGraph has it, but not waiting after Ctrl-C."""

    def end(
        self: Any,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        pool = self.executor
        if not isinstance(pool, _Pool):
            return waits(self, kind, error, traceback)
        closed = isinstance(error, GeneratorExit) and pool.workers.left
        if closed or isinstance(error, KeyboardInterrupt):
            pool.leave()
            return None
        try:
            return waits(self, kind, error, traceback)
        except KeyboardInterrupt:  # it came while LangGraph waited
            pool.leave()
            raise

    return end


if _original is not None:
    setattr(EXECUTORS, _NAME, _executor_for)
    if _background is not None:
        _background.__exit__ = _leaving(_background.__exit__)
