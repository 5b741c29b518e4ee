"""A coroutine run to its end from code that is not async, whether or not a loop runs here."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_LOOK_AGAIN_SECONDS = 0.2


def in_loop_thread(work: Coroutine[Any, Any, None], left: Callable[[], bool]) -> None:
    """Run a coroutine on a loop of its own in another thread: this one may have a loop already.

    The loop's workers are waited for unless they were `left`.
    """
    context = contextvars.copy_context()
    loop = asyncio.new_event_loop()
    outcome: list[BaseException] = []
    started: list[asyncio.Task[None]] = []
    # Not Thread.join(): a signal's exception in it makes Python 3.11 take the thread for ended. Not
    # threading.Event: one inside it can leave its lock taken for ever.
    ended: SimpleQueue[None] = SimpleQueue()
    # A signal can raise in start() when the thread runs already: it waits to be told that it may.
    may: SimpleQueue[object] = SimpleQueue()
    told = False

    def serve() -> None:
        if may.get() is None:
            work.close()
            loop.close()
            return
        asyncio.set_event_loop(loop)
        task = loop.create_task(work)
        started.append(task)
        try:
            loop.run_until_complete(task)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            outcome.append(error)
        finally:
            try:
                loop.run_until_complete(loop.shutdown_asyncgens())
                if not left():
                    loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                loop.close()
                ended.put(None)

    thread = threading.Thread(target=context.run, args=(serve,), name="notebook-agents-loop")
    try:
        thread.start()
        told = True
        may.put(work)
        ended.get()
    except BaseException:
        may.put(None)
        if started and not loop.is_closed():
            with suppress(RuntimeError):  # closed in this moment
                loop.call_soon_threadsafe(started[0].cancel)
        while told and not loop.is_closed():
            with suppress(Empty):
                ended.get(timeout=_LOOK_AGAIN_SECONDS)  # the interrupted call may have taken it
        raise
    if outcome:
        raise outcome[0]
