"""`@step`: a durable call inside a node.

The first time, its intent is on disk before the function begins and its result is recorded before
the caller gets it. When the node runs again after a kill, a call that returned gives its recorded
result, and one that may or may not have happened is treated as its author said: again with the
same idempotency key, or not before somebody knows.
"""

from __future__ import annotations

import functools
import inspect
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from notebook_agents import ids
from notebook_agents.errors import NotDurableError, StepInDoubt
from notebook_agents.runtime.digests import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("notebook_agents.runtime")
_current: ContextVar[tuple[RunDriver, Attempt] | None] = ContextVar("na_attempt", default=None)


@dataclass(frozen=True)
class Answer:
    """What a `reconcile` function found out; made by `did` and `did_not`."""

    happened: bool
    result: Any = None


def did(result: Any = None) -> Answer:
    """Say, from a `reconcile` function, that the step happened and what it returned."""
    return Answer(happened=True, result=result)


def did_not() -> Answer:
    """Say, from a `reconcile` function, that the step did not happen: it is run."""
    return Answer(happened=False)


def current() -> tuple[RunDriver, Attempt] | None:
    """Return the driver and the attempt that this code runs in, or None outside a run."""
    return _current.get()


class inside:  # noqa: N801 - used like a function in `with`
    """Make an attempt the current one for the code in the block."""

    def __init__(self, driver: RunDriver, attempt: Attempt) -> None:
        self._value = (driver, attempt)

    def __enter__(self) -> None:
        self._token = _current.set(self._value)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def idempotency_key() -> str:
    """Return the key under which every attempt of the current step reaches the outside world.

    Hand it to whatever is called, so that a second attempt after a kill is recognised there.
    Inside a `@step` it is that call's key, elsewhere in a node the node's.

    Raises:
        NotDurableError: This code does not run inside a step.
    """
    return ids.idempotency_key(_inside("idempotency_key()")[1].step.id)


@overload
def step(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def step(
    *,
    at_most_once: bool = False,
    reconcile: Callable[[str], Answer | None] | None = None,
    key: Callable[..., str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    at_most_once: bool = False,
    reconcile: Callable[[str], Answer | None] | None = None,
    key: Callable[..., str] | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function, sync or async, a durable call inside a node.

    A call is known by the function's name, a digest of its arguments, and how many equal calls the
    node made before it. The undecorated function is its `__wrapped__`.

    Args:
        function: The function.
        at_most_once: Never call it a second time unless it is known that the first call did not
            happen. Its result is on disk (one more fsync) before it is returned. Without this, a
            call that may or may not have happened is made again with the same idempotency key.
        reconcile: Asked about a doubtful call, with its idempotency key: returns `did(result)`,
            `did_not()`, or None if it cannot say. May be a coroutine function for an async step.
        key: Gets the arguments and returns what stands for them, where they have no stable digest.

    Returns:
        The decorated function. Calling it raises `NotDurableError` outside a run, `StepInDoubt`
        where an at-most-once call is doubtful and nobody can say, and `ValueNotKeptError` where
        the result or an argument cannot be kept.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        call = _Call(function, at_most_once=at_most_once, reconcile=reconcile, key=key)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def durable_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await call.run_async(args, kwargs)

            return cast("Callable[P, R]", durable_async)

        @functools.wraps(function)
        def durable(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("R", call.run(args, kwargs))

        return durable

    return decorate if function is None else decorate(function)


class _Call:
    """One decorated function."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        at_most_once: bool,
        reconcile: Callable[[str], Any] | None,
        key: Callable[..., str] | None,
    ) -> None:
        self.function = function
        self.name = function.__qualname__.rpartition("<locals>.")[2]
        self.at_most_once = at_most_once
        self.reconcile = reconcile
        self.key = key

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        driver, step = self._place(args, kwargs)
        if (recorded := self._recorded(driver, step)) is not None:
            return recorded[0]
        if self._doubtful(step):
            answer = self.reconcile(ids.idempotency_key(step.id)) if self.reconcile else None
            if (drafts := self._answered(driver, step, answer)) is not None:
                driver.journal.append(drafts, durable=True)
                return driver.result(step)
        attempt, intent = driver.intend(step)
        driver.journal.append([intent], durable=True)
        driver.intended(attempt)
        try:
            with inside(driver, attempt):
                value = self.function(*args, **kwargs)
            drafts = driver.returned(attempt, value)
        except Exception as error:
            driver.journal.append(driver.failed(attempt, error), durable=self.at_most_once)
            raise
        driver.journal.append(drafts, durable=self.at_most_once)
        driver.recorded(attempt)
        return value

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        driver, step = self._place(args, kwargs)
        if (recorded := self._recorded(driver, step)) is not None:
            return recorded[0]
        if self._doubtful(step):
            answer = self.reconcile(ids.idempotency_key(step.id)) if self.reconcile else None
            if inspect.isawaitable(answer):
                answer = await answer
            if (drafts := self._answered(driver, step, answer)) is not None:
                await driver.journal.append_async(drafts, durable=True)
                return driver.result(step)
        attempt, intent = driver.intend(step)
        await driver.journal.append_async([intent], durable=True)
        driver.intended(attempt)
        try:
            with inside(driver, attempt):
                value = await self.function(*args, **kwargs)
            drafts = driver.returned(attempt, value)
        except Exception as error:
            await driver.journal.append_async(
                driver.failed(attempt, error), durable=self.at_most_once
            )
            raise
        await driver.journal.append_async(drafts, durable=self.at_most_once)
        driver.recorded(attempt)
        return value

    def _place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[RunDriver, StepState]:
        """Return the driver, and the step that this call is. Takes the ordinal: call it at once."""
        driver, outer = _inside(f"step {self.name!r}")
        stands_for = (
            self.key(*args, **kwargs)
            if self.key
            else digest(
                (args, kwargs), f"step {self.name!r}: call", instead="give the step a `key=`"
            )
        )
        with outer.lock:
            ordinal = outer.calls.get((self.name, stands_for), 0)
            outer.calls[(self.name, stands_for)] = ordinal + 1
        step = driver.call_step(outer.step, self.name, stands_for, ordinal)
        step.used = True
        return driver, step

    def _recorded(self, driver: RunDriver, step: StepState) -> tuple[Any] | None:
        """Return the recorded result in a tuple, raise the recorded error, or return None."""
        if step.returned is not None:
            return (driver.result(step),)
        if step.failed is not None and step.went_on:
            # The node caught this error and went on from there: it must meet it again. The error
            # of a node that ended with it is not replayed, or a mended node could never get on.
            driver.tell(step, "replayed")
            raise driver.error(step)
        return None

    def _doubtful(self, step: StepState) -> bool:
        """Whether a call that must not be made twice may have been made."""
        # An error does not prove that nothing happened: a payment can time out and be made.
        return self.at_most_once and step.attempts > 0

    def _answered(self, driver: RunDriver, step: StepState, answer: object) -> list[Draft] | None:
        """Return the drafts of a reconciled result; None where the call did not happen."""
        if not isinstance(answer, Answer):
            driver.tell(step, "in_doubt")
            raise StepInDoubt(driver.thread, step.id, step.name, ids.idempotency_key(step.id))
        if not answer.happened:
            return None
        return driver.reconciled(step, answer.result)


def _inside(what: str) -> tuple[RunDriver, Attempt]:
    found = _current.get()
    if found is None:
        raise NotDurableError(
            f"{what} was called outside a run, where nothing can record it: call it inside a node "
            "of an agent (in a worker thread of yours, through contextvars.copy_context().run), or "
            "call the function's __wrapped__ to go without"
        )
    return found


def warn_of_other_calls(driver: RunDriver, attempt: Attempt) -> None:
    """Say so if a step that ran again did not make the calls that it had made before."""
    if attempt.number > 1 and (names := driver.unused(attempt.step.id)):
        _logger.warning(
            "step %r (%s) of thread %r ran again and did not make these recorded calls: %s; its "
            "code or its input changed, and their effects stand",
            attempt.step.name,
            attempt.step.id,
            driver.thread,
            ", ".join(names),
        )
