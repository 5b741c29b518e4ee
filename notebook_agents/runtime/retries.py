"""Trying a durable call again in place: when, how often, and how long to wait in between.

tenacity does the counting and the waiting; it comes with langchain-core, so it costs no dependency
that an agent would not have. Its defaults here are those of LangGraph's `RetryPolicy`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import NotebookAgentsError, StepTimeoutError
from notebook_agents.runtime import stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LONGEST_WAIT = 128.0  # seconds, as in LangGraph's RetryPolicy
_NAP = 0.2  # seconds after which a wait looks whether the run shall stop

Errors = type[Exception] | tuple[type[Exception], ...]


class Retries:
    """Which errors are tried again.

    Args:
        on: Types of errors, or a function that says of an error whether to try again.
        tries: How often the call is made in all.
        wait: Seconds before the second try; each further wait is twice as long, with some jitter.
    """

    def __init__(
        self, on: Errors | Callable[[Exception], bool], *, tries: int, wait: float
    ) -> None:
        types = on if isinstance(on, tuple) else (on,)
        self.names: tuple[type[Exception], ...] = tuple(t for t in types if isinstance(t, type))
        """The types of errors that it names; none if it is a function."""
        self._says = on if callable(on) and not self.names else None
        if (len(self.names) != len(types) and self._says is None) or not types:
            raise ValueError("@step(retry_on=...) takes types of errors, or one function")
        self._tries = tries
        self._wait = wait

    def matches(self, error: BaseException) -> bool:
        """Whether an error is one to try again for."""
        if not isinstance(error, Exception) or (
            # The journal's own troubles: the call may well have happened, or cannot be recorded.
            isinstance(error, NotebookAgentsError) and not isinstance(error, StepTimeoutError)
        ):
            return False
        return isinstance(error, self.names) if self._says is None else bool(self._says(error))

    def call(self, attempt: Callable[[], Any], *, also: Callable[[Exception], bool]) -> Any:
        """Call `attempt` until it returns or raises what is not to be tried again.

        Args:
            attempt: Makes one attempt.
            also: Has to agree that an error is tried again.

        Raises:
            RunStopped: The process was asked to stop while it waited.
        """
        from tenacity import Retrying

        return Retrying(sleep=_nap, **self._policy(also))(attempt)

    async def call_async(
        self, attempt: Callable[[], Awaitable[Any]], *, also: Callable[[Exception], bool]
    ) -> Any:
        """Do as `call` on the running event loop."""
        from tenacity import AsyncRetrying

        return await AsyncRetrying(sleep=_nap_async, **self._policy(also))(attempt)

    def _policy(self, also: Callable[[Exception], bool]) -> dict[str, Any]:
        from tenacity import retry_if_exception, stop_after_attempt, wait_exponential, wait_random

        return {
            "retry": retry_if_exception(
                lambda error: self.matches(error) and also(error)  # type: ignore[arg-type]  # `matches` lets only an Exception pass
            ),
            "stop": stop_after_attempt(self._tries),
            "wait": wait_exponential(multiplier=self._wait, max=_LONGEST_WAIT)
            + wait_random(0, self._wait / 4),
            "reraise": True,
        }


def _nap(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stopping.check()
        time.sleep(min(left, _NAP))


async def _nap_async(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stopping.check()
        await asyncio.sleep(min(left, _NAP))
