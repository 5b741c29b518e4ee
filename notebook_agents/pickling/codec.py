"""`dumps` and `loads`: the picklers that apply the rules, and what is said when they cannot.

The first byte of the output tells the engine: `c` cloudpickle, `d` dill's rules were needed. Both
are pickles of protocol 5 behind it. Persistent ids are `("env", variable)` for a secret, and
`("ref", token)` for an object of this package.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import cloudpickle

from notebook_agents.errors import NotebookAgentsError, ValueNotKeptError, ValueTooLargeError
from notebook_agents.pickling import environment
from notebook_agents.pickling.refusals import type_name
from notebook_agents.pickling.rules import RefusedError, rule_for
from notebook_agents.pickling.search import path_to, smallest_failing

CLOUDPICKLE = b"c"
_DILL = b"d"
_LONGEST_REASON = 200
_NEVER_REFERENCES = frozenset(
    {type(None), bool, int, float, complex, bytes, list, tuple, dict, set}
)

Refer = Callable[[object], str | None]
Reduce = Callable[[object], Any]
Encode = Callable[[object], bytes]


class _Options(NamedTuple):
    by_value: frozenset[str] = frozenset()
    variables: Mapping[str, str] = {}
    reference: Refer | None = None
    reduce: Reduce | None = None
    limit: int | None = None
    instead: str | None = None


_PLAIN = _Options()


def dumps(
    obj: object,
    *,
    what: str,
    by_value: Collection[str] = (),
    secrets: Mapping[str, str] | None = None,
    reference: Refer | None = None,
    reduce: Reduce | None = None,
    limit: int | None = None,
    instead: str | None = None,
) -> bytes:
    """Pickle an object so that it comes back in a process that has none of this one's cells.

    Args:
        obj: Anything. What belongs to `__main__` goes by value, exceptions without their traceback.
        what: Names the object in errors: "result of node 'fetch'".
        by_value: Modules and packages whose classes and functions go by value too.
        secrets: Values of environment variables, by the variable's name. A string that equals one
            is left out and read from the environment again by `loads`.
        reference: Returns a token for an object that shall be kept as a reference, else None.
        reduce: Returns what `__reduce__` may return, for objects that only this call can keep, else
            None. Asked before all other rules.
        limit: How many bytes it may become; None for any number.
        instead: What errors advise; None: what is right for what a step returns.

    Returns:
        Bytes for `loads`.

    Raises:
        ValueNotKeptError: Something in it cannot be kept. The message says where it is, what it is
            and what to do instead.
        ValueTooLargeError: It becomes more bytes than `limit`.
        DefinitionError: A secret's value is a part of something in it.
    """
    options = _PLAIN
    given = (reference, reduce, limit, instead)
    if by_value or secrets or given.count(None) < len(given):
        variables = environment.names_by_value(secrets or {})
        options = _Options(frozenset(by_value), variables, reference, reduce, limit, instead)
    try:
        data: bytes | str = _encode(obj, options)
    except (NotebookAgentsError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - user classes may raise anything here
        data = _fall_back(obj, error, options)
    if isinstance(data, str):
        raise ValueNotKeptError(environment.hide(f"{what} cannot be kept: {data}", secrets or {}))
    if secrets:
        environment.refuse_inside(data, secrets, what)
    return data


def loads(
    data: bytes,
    *,
    reference: Callable[[str], object] | None = None,
    main: dict[str, Any] | None = None,
    imports: bool = True,
    buffers: Iterable[Any] | None = None,
) -> object:
    """Rebuild what `dumps` was given.

    Only for bytes that this user's key has authenticated: a pickle is code.

    Args:
        data: What `dumps` returned.
        reference: Returns the object for a token that `dumps` was given for it.
        main: The namespace in which functions of `__main__` look for globals, which gets those that
            it lacks; None: one of their own, which has what they used when they were kept.
        imports: Whether modules may be imported for it that this process does not have yet.
        buffers: The large parts that `snapshot.take` kept beside it.

    Raises:
        ValueNotKeptError: A module, a name or an environment variable that it needs is not here, or
            another version of Python compiled a function in it.
    """
    if data[:1] == _DILL:
        _fallback_class()  # before the pickle imports dill by itself: see there
    elif data[:1] != CLOUDPICKLE:
        raise ValueNotKeptError(
            "what was kept was not pickled by this version of notebook-agents: install a newer one"
        )
    file = io.BytesIO(data)
    file.seek(1)
    try:
        return (Unpickler if imports else _NoImports)(file, reference, main, buffers).load()
    except (NotebookAgentsError, MemoryError):
        raise
    except Exception as error:
        raise ValueNotKeptError(
            f"what was kept cannot be rebuilt here ({_reason(error)}): import, install or define "
            "what is missing first, then resume"
        ) from error


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """Applies the rules, and cloudpickle's behind them."""

    by_value: frozenset[str] = frozenset()

    def reducer_override(self, value: Any) -> Any:
        """Reduce a value by its rule, or leave it to cloudpickle by returning NotImplemented."""
        rule = rule_for(type(value))
        return NotImplemented if rule is None else rule(self, value)


class _Referring:
    """Adds references. A pickler without it is spared a call for every object."""

    options: _Options

    def persistent_id(self, value: object) -> tuple[str, str] | None:
        if type(value) is str:
            name = self.options.variables.get(value)
            return None if name is None else ("env", name)
        refer = self.options.reference
        if refer is None or type(value) in _NEVER_REFERENCES:
            return None
        token = refer(value)
        return None if token is None else ("ref", token)

    def reducer_override(self, value: Any) -> Any:
        reduce = self.options.reduce
        if reduce is not None and (reduced := reduce(value)) is not None:
            return reduced
        return super().reducer_override(value)  # type: ignore[misc]  # the pickler's own


class _ReferringPickler(_Referring, Pickler):
    pass


class Bounded(io.BytesIO):
    """Takes so many bytes and no more; `write` raises ValueTooLargeError."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def write(self, data: Any) -> int:  # noqa: D102 - BytesIO's own
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise ValueTooLargeError("it becomes more bytes than may be kept")
        return super().write(data)


class Unpickler(pickle.Unpickler):
    """Finds what references stand for, and gives functions of `__main__` live globals.

    Args:
        file: A pickle, without the byte that names its engine.
        reference: See `loads`.
        main: See `loads`.
        buffers: What was kept beside the pickle.
    """

    def __init__(
        self,
        file: io.BytesIO,
        reference: Callable[[str], object] | None,
        main: dict[str, Any] | None,
        buffers: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._reference = reference
        self._main = main

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names."""
        if name == "_make_function" and self._main is not None:
            return functools.partial(_make_function, self._main)
        if name == "_function_setstate" and self._main is not None:
            return functools.partial(_set_state, self._main)
        return super().find_class(module, name)

    def persistent_load(self, pid: tuple[str, str]) -> object:
        """Return what a reference stands for."""
        kind, token = pid
        if kind == "env":
            return environment.value_of(token)
        if kind == "ref" and self._reference is not None:
            return self._reference(token)
        raise ValueNotKeptError(
            f"what was kept refers to {token!r}, which is not known here: open that first"
        )


def _make_function(main: dict[str, Any], code: Any, owned: dict[str, Any], *rest: Any) -> Any:
    """Make a function as cloudpickle does, but one of `__main__` with the live globals.

    Else it would not see what later cells change.
    """
    return types.FunctionType(code, main if owned.get("__name__") == "__main__" else owned, *rest)


def _set_state(main: dict[str, Any], function: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Give a function its state as cloudpickle does, but leave the live globals that there are."""
    if function.__globals__ is main:
        used = state[1]["__globals__"]
        state[1]["__globals__"] = {name: used[name] for name in used if name not in main}
    cloudpickle.cloudpickle._function_setstate(function, state)


class _NoImports(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module not in sys.modules:
            raise ValueNotKeptError(f"it needs {module}.{name}: import {module} to see it")
        return super().find_class(module, name)


def _encode(value: object, options: _Options, engine: bytes = CLOUDPICKLE) -> bytes:
    file = io.BytesIO() if options.limit is None else Bounded(options.limit)
    file.write(engine)
    refers = bool(options.variables or options.reference or options.reduce)
    if engine == _DILL:
        pickler = _fallback_class(refers=refers)(file)
    else:
        pickler = _ReferringPickler(file) if refers else Pickler(file)
    if options is not _PLAIN:
        pickler.by_value = options.by_value
        pickler.options = options
    pickler.dump(value)
    return file.getvalue()


@functools.cache
def _fallback_class(*, refers: bool = False) -> Any:
    from notebook_agents.pickling.fallback import FallbackPickler

    return (
        type("ReferringFallback", (_Referring, FallbackPickler), {}) if refers else FallbackPickler
    )


def _fall_back(obj: object, error: Exception, options: _Options) -> bytes | str:
    """Return `obj` as dill's rules pickle it, or the end of a sentence that says why they do not.

    The smallest part that fails is found first: dill's pickler is written in Python, and a large
    value would be walked through slowly for nothing.
    """
    for engine in (CLOUDPICKLE, _DILL):
        if isinstance(error, RefusedError):
            return _refused(obj, error, options)
        if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
            return (
                "it is nested too deeply to be pickled; "
                f"{options.instead or 'return a flatter value'}"
            )
        attempt = functools.partial(_error_of, options, engine)
        culprit = smallest_failing(obj, error, attempt, functools.partial(_reduced, options))
        if isinstance(culprit.error, RefusedError):
            return _refused(obj, culprit.error, options)
        if engine == _DILL or _error_of(options, _DILL, culprit.value) is not None:
            break
        try:
            return _encode(obj, options, _DILL)
        except Exception as next_error:  # noqa: BLE001 - whatever it is, the value is not kept
            error = next_error
    return (
        f"{culprit.path or 'it'} is of type {_shown(culprit.value)}, which cannot be pickled "
        f"({_reason(culprit.error)}); "
        f"{options.instead or 'return plain data, or make it again inside the step'}"
    )


def _error_of(options: _Options, engine: bytes, value: object) -> Exception | None:
    try:
        _encode(value, options, engine)
    except Exception as error:  # noqa: BLE001 - user classes may raise anything here
        return error
    return None


def _refused(obj: object, error: RefusedError, options: _Options) -> str:
    path = path_to(obj, error.value, functools.partial(_reduced, options))
    where = "somewhere inside it" if path is None else path or "it"
    is_a, instead = error.refusal
    return f"{where} is {is_a} ({_shown(error.value)}); {options.instead or instead}"


def _reduced(options: _Options, value: Any) -> object:
    """Return what the picklers make of an object that is no builtin container."""
    pickler = _ReferringPickler(io.BytesIO())
    pickler.by_value, pickler.options = options.by_value, options
    if (reference := pickler.persistent_id(value)) is not None:
        return str(reference)
    reduced = pickler.reducer_override(value)
    if reduced is NotImplemented and (known := pickler.dispatch_table.get(type(value))):
        return known(value)
    return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if reduced is NotImplemented else reduced


def _shown(value: object) -> str:
    return type_name(type(value)).removeprefix("builtins.")


def _reason(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [""]
    if len(first) > _LONGEST_REASON:
        first = f"{first[:_LONGEST_REASON]}…"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
