"""`@step`: a durable call inside a node.

The first time, its intent is on disk before the function begins and its result is recorded before
the caller gets it. When the node runs again after a kill, a call that returned gives its recorded
result, and one that may or may not have happened is treated as its author said: again with the
same idempotency key, or not before somebody knows.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from notebook_agents import ids
from notebook_agents.errors import NotDurableError, StepInDoubt, StepTimeoutError
from notebook_agents.model import Proof, Said
from notebook_agents.runtime import previews
from notebook_agents.runtime.digests import digest
from notebook_agents.runtime.reconciling import reconciliation
from notebook_agents.runtime.retries import Retries

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from notebook_agents.journal import Draft
    from notebook_agents.runtime.driver import Attempt, RunDriver, StepState
    from notebook_agents.runtime.retries import Errors

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("notebook_agents.runtime")
_current: ContextVar[tuple[RunDriver, Attempt] | None] = ContextVar("na_attempt", default=None)


@dataclass(frozen=True)
class Answer:
    """What a `reconcile` function or a person found out; made by `did` and `did_not`."""

    happened: bool
    result: Any = None


def did(result: Any = None) -> Answer:
    """Say, from a `reconcile` function or to `resolve`, that a step happened: what it returned."""
    return Answer(happened=True, result=result)


def did_not() -> Answer:
    """Say, from a `reconcile` function or to `resolve`, that a step did not happen: it is run."""
    return Answer(happened=False)


def current() -> tuple[RunDriver, Attempt] | None:
    """Return the driver and the attempt that this code runs in, or None outside a run."""
    return _current.get()


class inside:  # noqa: N801 - used like a function in `with`
    """Make an attempt the current one for the code in the block."""

    def __init__(self, driver: RunDriver, attempt: Attempt) -> None:
        self._value = (driver, attempt)

    def __enter__(self) -> None:
        driver, attempt = self._value
        driver.under_way[id(attempt)] = attempt
        self._token = _current.set(self._value)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        driver, attempt = self._value
        driver.under_way.pop(id(attempt), None)


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
    retry_on: Errors | Callable[[Exception], bool] | None = None,
    tries: int = 3,
    wait: float | timedelta = 0.5,
    timeout: float | timedelta | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    at_most_once: bool = False,
    reconcile: Callable[[str], Answer | None] | None = None,
    key: Callable[..., str] | None = None,
    retry_on: Errors | Callable[[Exception], bool] | None = None,
    tries: int = 3,
    wait: float | timedelta = 0.5,
    timeout: float | timedelta | None = None,
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
        retry_on: Errors (types, or a function that judges one) for which the call is made again in
            place, each time as an attempt of its own under the same idempotency key. With
            `at_most_once` it names types, and says by them that nothing had happened.
        tries: How often it is made in all before the last error goes to the caller.
        wait: Seconds before the second try; doubled for each further one, with jitter, up to 128.
        timeout: Seconds for one try of an async call. It is then cancelled and waited for: the
            caller gets a `StepTimeoutError`, an at-most-once call is in doubt; what it returns in
            spite of that is recorded as late and not used.

    Returns:
        The decorated function. Calling it raises `NotDurableError` outside a run, `StepInDoubt`
        where an at-most-once call is doubtful and nobody can say, and `ValueNotKeptError` where
        the result or an argument cannot be kept.

    Raises:
        ValueError: `at_most_once` with a `retry_on` that names no errors, a `timeout` for a
            function that is not async, or a number that means nothing.
    """
    decorate = _decorator(at_most_once, reconcile, key, retry_on, tries, wait, timeout)
    return decorate if function is None else decorate(function)


def _decorator(
    at_most_once: bool,  # noqa: FBT001 - by position from `step` alone
    reconcile: Callable[[str], Answer | None] | None,
    key: Callable[..., str] | None,
    retry_on: Errors | Callable[[Exception], bool] | None,
    tries: int,
    wait: float | timedelta,
    timeout: float | timedelta | None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return what `step` decorates with; what it refuses is said there."""
    if tries < 1 or _seconds(wait) < 0 or (timeout is not None and _seconds(timeout) <= 0):
        raise ValueError("@step: `tries` is at least 1, `wait` not negative, `timeout` positive")
    retries = None if retry_on is None else Retries(retry_on, tries=tries, wait=_seconds(wait))
    if at_most_once and retries is not None:
        _check_names(retries)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if timeout is not None and not inspect.iscoroutinefunction(function):
            raise ValueError(
                f"@step(timeout=...) cannot stop {function.__qualname__}: a thread cannot be "
                "stopped from outside; make it async, or give what it calls a timeout of its own"
            )
        call = _Call(
            function,
            at_most_once=at_most_once,
            reconcile=reconcile,
            key=key,
            retries=retries,
            timeout=None if timeout is None else _seconds(timeout),
        )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def durable_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await call.run_async(args, kwargs)

            return cast("Callable[P, R]", durable_async)

        @functools.wraps(function)
        def durable(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("R", call.run(args, kwargs))

        return durable

    return decorate


def placed(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    key: Callable[..., str] | None = None,
    ended: Callable[[RunDriver, Attempt, Exception], list[Draft]] | None = None,
) -> _Call:
    """Return a durable call that has its place among its node's calls now and is made later.

    However often it is made, in whichever worker thread, it is the same step. `ended` returns the
    drafts of an attempt that raised, where it is a task of its own.

    Raises:
        NotDurableError: This code does not run inside a node.
        ValueNotKeptError: An argument has no stable digest.
    """
    call = _Call(function, at_most_once=False, reconcile=None, key=key, retries=None, timeout=None)
    call.place = call._place(args, kwargs)
    call.ended = ended
    return call


class _Call:
    """One decorated function."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        at_most_once: bool,
        reconcile: Callable[[str], Any] | None,
        key: Callable[..., str] | None,
        retries: Retries | None,
        timeout: float | None,
    ) -> None:
        self.retries = retries
        self.timeout = timeout
        self.function = function
        self.name = function.__qualname__.rpartition("<locals>.")[2]
        self.at_most_once = at_most_once
        self.reconcile = reconcile
        self.key = key
        self.place: tuple[RunDriver, StepState] | None = None
        self.ended: Callable[[RunDriver, Attempt, Exception], list[Draft]] | None = None

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        driver, step = self.place or self._place(args, kwargs)
        if (recorded := self._recorded(driver, step)) is not None:
            return recorded[0]
        answer: object = decided(driver, step)
        if asked := answer is None and self._doubtful(step):
            answer = self.reconcile(ids.idempotency_key(step.id)) if self.reconcile else None
        if (drafts := self._answered(driver, step, answer, asked=asked)) is not None:
            driver.journal.append(drafts, durable=True)
            return driver.result(step)
        attempt = functools.partial(driver.workers.run, self._attempt, driver, step, args, kwargs)
        if self.retries is None:
            return attempt()
        return self.retries.call(attempt, also=driver.is_failure)

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        driver, step = self.place or self._place(args, kwargs)
        if (recorded := self._recorded(driver, step)) is not None:
            return recorded[0]
        answer: object = decided(driver, step)
        if asked := answer is None and self._doubtful(step):
            answer = self.reconcile(ids.idempotency_key(step.id)) if self.reconcile else None
            if inspect.isawaitable(answer):
                answer = await answer
        if (drafts := self._answered(driver, step, answer, asked=asked)) is not None:
            await driver.journal.append_async(drafts, durable=True)
            return driver.result(step)
        attempt = functools.partial(self._attempt_async, driver, step, args, kwargs)
        if self.retries is None:
            return await attempt()
        return await self.retries.call_async(attempt, also=driver.is_failure)

    def _attempt(
        self,
        driver: RunDriver,
        step: StepState,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        attempt, intent = driver.intend(step, previews.of_call(args, kwargs))
        driver.journal.append([intent], durable=True)
        driver.intended(attempt)
        try:
            used: list[str] = []
            with self._placed(driver, step, used), inside(driver, attempt):
                value = self.function(*args, **kwargs)
            drafts = driver.returned(attempt, value)
            drafts[-1].ref = ",".join(used) or None
        except Exception as error:
            driver.journal.append(self._ended(driver, attempt, error), durable=self.at_most_once)
            raise
        driver.journal.append(drafts, durable=self.at_most_once)
        driver.recorded(attempt)
        return value

    async def _attempt_async(
        self,
        driver: RunDriver,
        step: StepState,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        attempt, intent = driver.intend(step, previews.of_call(args, kwargs))
        await driver.journal.append_async([intent], durable=True)
        driver.intended(attempt)
        limit = asyncio.timeout(self.timeout)
        try:
            used: list[str] = []
            with self._placed(driver, step, used), inside(driver, attempt):
                async with limit:
                    value = await self.function(*args, **kwargs)
            attempt.late = limit.expired()
            drafts = driver.returned(attempt, value)
            drafts[-1].ref = ",".join(used) or None
        except Exception as error:
            if limit.expired():  # whatever it raised on being cancelled
                raise self._timed_out(driver, step) from error
            await driver.journal.append_async(
                self._ended(driver, attempt, error), durable=self.at_most_once
            )
            raise
        await driver.journal.append_async(drafts, durable=self.at_most_once)
        driver.recorded(attempt)
        if limit.expired():
            raise self._timed_out(driver, step)
        return value

    def _placed(
        self, driver: RunDriver, step: StepState, used: list[str]
    ) -> AbstractContextManager[None]:
        if self.place is not None:
            return nullcontext()  # a task of its own, with places of its own
        return driver.placed(used, driver.taken(step.id))

    def _ended(self, driver: RunDriver, attempt: Attempt, error: Exception) -> list[Draft]:
        """Return the drafts of an attempt that raised."""
        if self.ended is not None:
            return self.ended(driver, attempt, error)
        if driver.suspends(error):
            return driver.suspended(attempt)
        if not self.at_most_once:
            return driver.failed(attempt, error)
        # An error does not prove that nothing happened: a payment can time out and be made. A
        # result that cannot be kept even proves that it did.
        named = self.retries is not None and self.retries.matches(error)
        return driver.failed(attempt, error, proof=Proof.NOTHING_HAPPENED if named else Proof.NONE)

    def _timed_out(self, driver: RunDriver, step: StepState) -> BaseException:
        """Return what the caller of a call that took too long gets; nothing is recorded for it."""
        if self.at_most_once:
            driver.tell(step, "in_doubt")
            return StepInDoubt(driver.thread, step.id, step.name, ids.idempotency_key(step.id))
        return StepTimeoutError(
            f"step {step.name!r} ({step.id}) of thread {driver.thread!r} took longer than "
            f"{self.timeout:g} s and was cancelled: it may have happened, and is made again with "
            "its idempotency key when the thread is resumed; give it a longer `timeout` if it "
            "needs one"
        )

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
        known = step.suspended or step.proof is Proof.NOTHING_HAPPENED
        return self.at_most_once and step.attempts > 0 and not known

    def _answered(
        self, driver: RunDriver, step: StepState, answer: object, *, asked: bool
    ) -> list[Draft] | None:
        """Return the drafts of a result that somebody knows; None where the call is to be made.

        Where `reconcile` was asked, what it said is recorded: with the result, or with the intent
        of the attempt that it allows.
        """
        if answer is None and not self._doubtful(step):
            return None
        if not isinstance(answer, Answer):
            driver.tell(step, "in_doubt")
            raise StepInDoubt(driver.thread, step.id, step.name, ids.idempotency_key(step.id))
        noted = [reconciliation(driver, step, happened=answer.happened)] if asked else []
        if answer.happened:
            return [*noted, *driver.reconciled(step, answer.result)]
        if noted:
            driver.journal.stage(noted)
        return None


def decided(driver: RunDriver, step: StepState) -> Answer | None:
    """Return what a person decided about a step's newest attempt, if it counts."""
    if step.decision is None or not step.in_doubt:
        return None
    said, result = driver.decision(step.decision)
    return did(result) if said is Said.DID else did_not()


def _check_names(retries: Retries) -> None:
    """Refuse to repeat an at-most-once call for errors that cannot prove anything."""
    if not retries.names or Exception in retries.names:
        raise ValueError(
            "@step(at_most_once=True, retry_on=...): name the errors that prove that nothing "
            "happened (types more precise than Exception); for any other the call must not be "
            "made again"
        )


def _seconds(duration: float | timedelta) -> float:
    return float(duration) if isinstance(duration, int | float) else duration.total_seconds()


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
