"""Where in a value is the part that cannot be pickled?

Both searches look at what pickling looks at: the items of the builtin containers, and what an
object's reduction brings up, so that nobody is sent to an attribute that is not pickled at all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from cloudpickle.cloudpickle import _extract_code_globals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Reduce = Callable[[object], object]
    Attempt = Callable[[object], Exception | None]

_MOST_OBJECTS = 200_000
"""Objects looked at for a refused one, and parts of one object looked at for a failing one."""
_MOST_TRIES = 300
_LONGEST_KEY = 40
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...))
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"),
    types.CellType: ("cell_contents",),
    functools.partial: ("func", "args", "keywords"),
    functools._lru_cache_wrapper: ("__wrapped__",),
    functools.cached_property: ("func",),
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
}
"""What to call the parts of objects whose reduction would show them by number."""

Part = tuple[str, object]
"""The code that leads to a part from what holds it, and the part."""


class Culprit(NamedTuple):
    """The smallest part of a value that still fails to pickle.

    Attributes:
        path: The way to it from the value, as code: `['rows'][3].handle`; "" for the value itself.
        value: The part.
        error: What pickling it raised.
    """

    path: str
    value: object
    error: Exception


def path_to(root: object, target: object, reduce: Reduce) -> str | None:
    """Return a shortest way from `root` to the very object `target`, or None if none is seen.

    Args:
        root: Where the way begins.
        target: Where it ends.
        reduce: Returns what `__reduce_ex__` would for an object, as the pickler has it.
    """
    if root is target:
        return ""
    seen = {id(root): root}  # holds on to what reductions make, so that no id is used twice
    queue: deque[Part] = deque([("", root)])
    while queue and len(seen) < _MOST_OBJECTS:
        path, parent = queue.popleft()
        for step, part in _parts(parent, reduce):
            if part is target:
                return path + step
            if not isinstance(part, _ATOMS) and id(part) not in seen:
                seen[id(part)] = part
                queue.append((path + step, part))
    return None


def smallest_failing(root: object, error: Exception, attempt: Attempt, reduce: Reduce) -> Culprit:
    """Return the innermost part of `root` that fails alone.

    Args:
        root: A value that fails.
        error: What pickling it raised.
        attempt: Pickles a value and returns what that raised, or None. Called a few hundred times
            at most, by bisection.
        reduce: Returns what `__reduce_ex__` would for an object, as the pickler has it.
    """
    tries = itertools.count()

    def fails(parts: list[Part]) -> Exception | None:
        next(tries)
        # Alone, a part's own error is wanted; of several, it only matters that one fails.
        return attempt(parts[0][1] if len(parts) == 1 else [value for _, value in parts])

    culprit = Culprit("", root, error)
    seen = {id(root): root}
    while next(tries) < _MOST_TRIES:
        parts = [
            (step, part)
            for step, part in _parts(culprit.value, reduce)
            if not isinstance(part, _ATOMS) and id(part) not in seen
        ]
        found = _first_failing(parts, fails)
        if found is None:
            break
        step, part, part_error = found
        culprit = Culprit(culprit.path + step, part, part_error)
        seen[id(part)] = part
    return culprit


def _first_failing(
    parts: list[Part], fails: Callable[[list[Part]], Exception | None]
) -> tuple[str, object, Exception] | None:
    if not parts or fails(parts) is None:
        return None
    while len(parts) > 1:
        half = len(parts) // 2
        parts = parts[:half] if fails(parts[:half]) is not None else parts[half:]
    error = fails(parts)
    return None if error is None else (*parts[0], error)


def _parts(value: object, reduce: Reduce) -> list[Part]:
    """Return what `value` holds, as far as it can be listed."""
    parts: list[Part] = []
    with contextlib.suppress(Exception):  # a refused object, a `__getstate__` that raises, …
        parts.extend(itertools.islice(_children(value, reduce), _MOST_OBJECTS))
    return parts


def _children(value: Any, reduce: Reduce) -> Iterator[Part]:
    t = type(value)
    if t is dict or t is types.MappingProxyType:
        yield from _of_items(list(value.items()))
    elif t is list or t is tuple:
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif t is set or t is frozenset:
        yield from ((f"{{{_short(item)}}}", item) for item in value)
    else:
        reduced = reduce(value)
        if not isinstance(reduced, tuple):
            return  # it goes by its name
        if isinstance(value, types.FunctionType):
            yield from _of_function(value)
        elif isinstance(value, type):
            yield from ((f".{name}", item) for name, item in list(vars(value).items()))
            yield from ((f".__bases__[{i}]", base) for i, base in enumerate(value.__bases__))
        elif t in _ATTRIBUTES:
            yield from ((f".{name}", getattr(value, name)) for name in _ATTRIBUTES[t])
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            yield from ((f".{name}", getattr(value, name)) for name in value._fields)
            yield ".__class__", t
        else:
            yield from _of_reduced(value, *reduced)


def _of_items(items: Iterable[tuple[Any, Any]]) -> Iterator[Part]:
    for key, item in items:
        yield f"[{_short(key)}]", item
        if not isinstance(key, _ATOMS):
            yield f".keys(){{{_short(key)}}}", key


def _of_function(function: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # an empty cell
            yield f".<closure>[{name!r}]", cell.cell_contents
    for index, default in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{index}]", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", default
    for name in _extract_code_globals(function.__code__):
        if name in function.__globals__:
            yield f".__globals__[{name!r}]", function.__globals__[name]
    yield from ((f".{name}", item) for name, item in list(vars(function).items()))
    yield ".__annotations__", function.__annotations__


def _of_reduced(
    value: Any,
    make: object,
    arguments: tuple[Any, ...],
    state: Any = None,
    items: Iterable[Any] | None = None,
    pairs: Iterable[tuple[Any, Any]] | None = None,
    *_: object,
) -> Iterator[Part]:
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())
        elif part is not None:
            yield ".__getstate__()", part
    yield from ((f"[{index}]", item) for index, item in enumerate(items or ()))
    yield from _of_items(pairs or ())
    if isinstance(value, BaseException):
        yield ".args", value.args
        arguments = (type(value),)
    for index, part in enumerate(arguments):
        if part is type(value):
            yield ".__class__", part
        else:
            yield f".__reduce__()[1][{index}]", part
    yield ".__reduce__()[0]", make


def _short(key: object) -> str:
    """Return a key as code if it is a plain value, else its type."""
    if not isinstance(key, _ATOMS):
        return f"<{type(key).__qualname__}>"
    text = repr(key)
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…"
