"""Where in a value is the part that cannot be pickled?

Both searches look at what an object visibly holds: items, attributes, a function's closure,
defaults and the globals it mentions. What only an object's own `__reduce__` brings up is not found;
the innermost object around it is named then.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from cloudpickle.cloudpickle import _extract_code_globals

from notebook_agents.pickling.rules import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_MOST_OBJECTS = 200_000
"""Objects looked at for a refused one, and children of one object looked at for a failing one."""
_MOST_TRIES = 300
_LONGEST_KEY = 40
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...))

Child = tuple[str, object]


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


def path_to(root: object, target: object, by_value: frozenset[str]) -> str | None:
    """Return a shortest way from `root` to the very object `target`, or None if none is seen.

    Args:
        root: Where the way begins.
        target: Where it ends.
        by_value: Modules, besides `__main__`, whose classes and functions are looked into.
    """
    if root is target:
        return ""
    seen = {id(root)}
    queue: deque[Child] = deque([("", root)])
    while queue and len(seen) < _MOST_OBJECTS:
        path, parent = queue.popleft()
        for step, child in _parts(parent, by_value):
            if child is target:
                return path + step
            if not isinstance(child, _ATOMS) and id(child) not in seen:
                seen.add(id(child))
                queue.append((path + step, child))
    return None


def smallest_failing(
    root: object,
    error: Exception,
    attempt: Callable[[object], Exception | None],
    by_value: frozenset[str],
) -> Culprit:
    """Return the innermost part of `root` that fails alone.

    Args:
        root: A value that fails.
        error: What pickling it raised.
        attempt: Pickles a value and returns what that raised, or None. Called a few hundred times
            at most, by bisection.
        by_value: Modules, besides `__main__`, whose classes and functions are looked into.
    """
    tries = itertools.count()

    def fails(parts: list[Child]) -> Exception | None:
        next(tries)
        # Alone, a part's own error is wanted; of several, it only matters that one fails.
        return attempt(parts[0][1] if len(parts) == 1 else [value for _, value in parts])

    culprit = Culprit("", root, error)
    seen = {id(root)}
    while next(tries) < _MOST_TRIES:
        parts = [
            (step, child)
            for step, child in _parts(culprit.value, by_value)
            if not isinstance(child, _ATOMS) and id(child) not in seen
        ]
        found = _first_failing(parts, fails)
        if found is None:
            break
        step, child, child_error = found
        culprit = Culprit(culprit.path + step, child, child_error)
        seen.add(id(child))
    return culprit


def _first_failing(
    parts: list[Child], fails: Callable[[list[Child]], Exception | None]
) -> tuple[str, object, Exception] | None:
    if not parts or fails(parts) is None:
        return None
    while len(parts) > 1:
        half = len(parts) // 2
        parts = parts[:half] if fails(parts[:half]) is not None else parts[half:]
    error = fails(parts)
    return None if error is None else (*parts[0], error)


def _parts(value: object, by_value: frozenset[str]) -> list[Child]:
    """Return what `value` holds, as far as it can be listed."""
    parts: list[Child] = []
    with contextlib.suppress(Exception):  # a dead proxy, a `__dict__` that raises, …
        parts.extend(itertools.islice(_children(value, by_value), _MOST_OBJECTS))
    return parts


def _children(value: Any, by_value: frozenset[str]) -> Iterator[Child]:
    """Yield what `value` holds, each with the code that leads there from it."""
    if isinstance(value, dict | types.MappingProxyType):
        yield from _of_mapping(value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", item) for name, item in zip(value._fields, value, strict=False))
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{{{_short(item)}}}", item) for item in value)
    elif isinstance(value, types.FunctionType):
        if _goes_by_value(value, by_value):
            yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, property):
        yield from ((".fget", value.fget), (".fset", value.fset), (".fdel", value.fdel))
    elif isinstance(value, staticmethod | classmethod):
        yield ".__func__", value.__func__
    elif isinstance(value, types.CellType):
        yield from _of_cell(".cell_contents", value)
    elif isinstance(value, type):
        if _goes_by_value(value, by_value):
            yield from ((f".{name}", item) for name, item in list(vars(value).items()))
    elif not isinstance(value, types.ModuleType):
        yield from _of_instance(value)
        if _goes_by_value(type(value), by_value):
            yield ".__class__", type(value)


def _of_mapping(value: Mapping[Any, Any]) -> Iterator[Child]:
    for key, item in list(value.items()):
        yield f"[{_short(key)}]", item
        if not isinstance(key, _ATOMS):
            yield f".keys(){{{_short(key)}}}", key


def _of_function(function: types.FunctionType) -> Iterator[Child]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield from _of_cell(f".<closure>[{name!r}]", cell)
    for index, default in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{index}]", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", default
    for name in _extract_code_globals(function.__code__):
        if name in function.__globals__:
            yield f".__globals__[{name!r}]", function.__globals__[name]
    yield from ((f".{name}", item) for name, item in list(vars(function).items()))
    yield ".__annotations__", function.__annotations__


def _of_cell(path: str, cell: types.CellType) -> Iterator[Child]:
    try:
        content = cell.cell_contents
    except ValueError:
        return
    yield path, content


def _of_instance(value: object) -> Iterator[Child]:
    attributes: object = None
    with contextlib.suppress(AttributeError):
        attributes = object.__getattribute__(value, "__dict__")
    if isinstance(attributes, dict):
        yield from ((f".{name}", item) for name, item in list(attributes.items()))
    for base in type(value).__mro__:
        for name, slot in list(base.__dict__.items()):
            if isinstance(slot, types.MemberDescriptorType) and not name.startswith("__"):
                try:
                    yield f".{name}", slot.__get__(value)
                except AttributeError:
                    continue
    if isinstance(value, BaseException):
        yield ".args", value.args


def _goes_by_value(value: Any, by_value: frozenset[str]) -> bool:
    """Say whether a class or function goes by value, so that its content is pickled too."""
    return "<locals>" in value.__qualname__ or within(value.__module__, by_value | {"__main__"})


def _short(key: object) -> str:
    """Return a key as code if it is a plain value, else its type."""
    if not isinstance(key, _ATOMS):
        return f"<{type(key).__qualname__}>"
    text = repr(key)
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…"
