"""What LangGraph stores is handed over by the thread that has it, not by a worker.

LangGraph gives each checkpoint and each task's writes to a worker thread, which gives them to the
saver. A driver's saver only takes them in, so there is nothing to wait for; and the node that rests
on a checkpoint would wait for two threads to be woken, 0.14 ms of each step. So for as long as a
driver's graph is invoked, the executor that LangGraph makes for it runs those two calls at once.

LangGraph offers no place for this: the function that makes the executor is replaced, once. Outside
a driver's graph it does what it did. Were it not there, nothing would break: the barrier
(`driver_saver.py`) waits for what comes from a worker.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from notebook_agents.graph.private import EXECUTORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PUT = "_checkpointer_put_after_previous"
_receiver: ContextVar[object | None] = ContextVar("na_receiver", default=None)
_NAME = "get_executor_for_config"
_original: Any = getattr(EXECUTORS, _NAME, None)


@contextmanager
def handed_over(saver: object) -> Iterator[None]:
    """Have LangGraph give `saver` what it stores at once, in the block."""
    token = _receiver.set(saver)
    try:
        yield
    finally:
        _receiver.reset(token)


class _HandsOver:
    """An executor that calls a saver at once and leaves everything else to another executor."""

    def __init__(self, pool: Any, receiver: object) -> None:
        self._pool = pool
        self._receiver = receiver

    def submit(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        if not (args and self._stores(args[0])):
            future: Future[Any] = self._pool.submit(run, *args, **kwargs)
            return future
        done: Future[Any] = Future()
        try:
            done.set_result(run(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - LangGraph asks the future
            done.set_exception(error)
        return done

    def _stores(self, function: object) -> bool:
        """Whether a function gives our saver something; LangGraph has it run in its own context."""
        owner = getattr(function, "__self__", None)
        return owner is self._receiver or (
            getattr(function, "__name__", "") == _PUT
            and getattr(owner, "checkpointer", None) is self._receiver
        )


@contextmanager
def _executor_for(config: Any) -> Iterator[Any]:
    receiver = _receiver.get()
    with _original(config) as pool:
        yield pool if receiver is None else _HandsOver(pool, receiver)


if _original is not None:
    setattr(EXECUTORS, _NAME, _executor_for)
