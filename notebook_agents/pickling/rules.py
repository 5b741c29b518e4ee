"""Which rule pickles an object: one per type, decided once.

In this order: classes and functions as cloudpickle has them; what `register` was told; the
refusals; the few types that would come back as something else than they were; nothing special.
"""

from __future__ import annotations

import functools
import io
import operator
import os
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle
from cloudpickle import cloudpickle as by_value

from notebook_agents.pickling import rebuild
from notebook_agents.pickling.refusals import Refusal, refusal_of

if TYPE_CHECKING:
    from typing import Protocol

    class Pickler(Protocol):
        """What a rule may ask of the pickler that applies it."""

        by_value: frozenset[str]

        def _dynamic_function_reduce(self, function: types.FunctionType) -> tuple[Any, ...]: ...


Reduced = tuple[Any, ...] | str
Rule = Callable[["Pickler", Any], Any]
"""Reduces an object as `__reduce_ex__` does, or returns NotImplemented for the usual way."""

_MOST_RULES = 4096
"""Types remembered before all are forgotten: a cell that is run again makes new ones each time."""

_OF_THE_IMPORT = frozenset({"__builtins__", "__cached__", "__loader__", "__name__", "__spec__"})
_TYPE_ALIAS: Any = getattr(typing, "TypeAliasType", ())  # from Python 3.12 on

_registered: list[tuple[Callable[[type], bool], Callable[[Any], Reduced]]] = []
_rules: dict[type, Rule | None] = {}


class RefusedError(Exception):
    """An object of a refused type is a part of what shall be pickled."""

    def __init__(self, value: object, refusal: Refusal) -> None:
        super().__init__(refusal.is_a)
        self.value = value
        self.refusal = refusal


def register(test: Callable[[type], bool], reduce: Callable[[Any], Reduced]) -> None:
    """Teach `dumps` a kind of object that does not pickle, wherever in a value it turns up.

    The newest rule wins, over the refusals too. Classes and functions themselves are never asked
    about.

    Args:
        test: Says of an exact type whether `reduce` is for its instances. Asked once per type.
        reduce: Returns what `__reduce__` may return: a function that can be imported where the
            pickle is loaded, its arguments, and more. It raises `pickle.PicklingError` for an
            object that cannot be kept.
    """
    global _rules
    _registered.insert(0, (test, reduce))
    _rules = {}


def rule_for(t: type) -> Rule | None:
    """Return the rule for objects of exactly this type, or None."""
    rules = _rules
    try:
        return rules[t]
    except KeyError:
        if len(rules) >= _MOST_RULES:
            rules.clear()
        rule = rules[t] = _decide(t)
        return rule


def _decide(t: type) -> Rule | None:
    if issubclass(t, type):
        return _reduce_class
    if t is types.FunctionType:
        return _reduce_function
    for test, reduce in _registered:
        if test(t):
            return lambda _pickler, value: reduce(value)
    refusal = refusal_of(t)
    if issubclass(t, io.IOBase) and not issubclass(t, io.BytesIO | io.StringIO):
        return functools.partial(_reduce_stream, refusal)
    if refusal is not None:
        return functools.partial(_refuse, refusal)
    if rule := _EXACT.get(t):
        return rule
    if issubclass(t, BaseException):
        return _reduce_exception if _only_init_in_python(t) else None
    return _reduce_named if _may_go_by_name(t) else None


def _refuse(refusal: Refusal, _pickler: Pickler, value: object) -> Any:
    raise RefusedError(value, refusal)


def _reduce_class(pickler: Pickler, cls: Any) -> Any:
    if type(cls).__name__ == "PyCArrayType":
        item, length = getattr(cls, "_type_", None), getattr(cls, "_length_", None)
        if item is not None and length is not None and cls is item * length:
            return operator.mul, (item, length)  # ctypes makes it once, wherever it is made
    if pickler.by_value and within(cls.__module__, pickler.by_value):
        return by_value._dynamic_class_reduce(cls)
    return cloudpickle.Pickler.reducer_override(pickler, cls)


def _reduce_function(pickler: Pickler, function: types.FunctionType) -> Any:
    if pickler.by_value and within(function.__module__, pickler.by_value):
        return pickler._dynamic_function_reduce(function)
    return cloudpickle.Pickler.reducer_override(pickler, function)


def _reduce_module(pickler: Pickler, module: types.ModuleType) -> Any:
    """Reduce a module to its content, where cloudpickle never ends if a function mentions it."""
    if not (pickler.by_value and within(module.__name__, pickler.by_value)):
        return NotImplemented
    content = {name: value for name, value in vars(module).items() if name not in _OF_THE_IMPORT}
    return rebuild.module, (module.__name__,), content


def _reduce_stream(refusal: Refusal | None, _pickler: Pickler, stream: object) -> Any:
    """Reduce the standard streams to their names: every process has its own."""
    for name in ("stdin", "stdout", "stderr"):
        if stream is getattr(sys, name):
            return getattr, (sys, name)
    if refusal is not None:
        raise RefusedError(stream, refusal)
    return NotImplemented


def _reduce_environment(_pickler: Pickler, variables: object) -> Any:
    """Reduce `os.environ` to its name: by value it would carry every secret in it."""
    return (getattr, (os, "environ")) if variables is os.environ else NotImplemented


def _reduce_code(_pickler: Pickler, code: types.CodeType) -> Any:
    _, parts = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return rebuild.code, (rebuild.BYTECODE, rebuild.PYTHON, *parts)


def _reduce_view(_pickler: Pickler, view: memoryview) -> Any:
    """Reduce a memoryview to one; cloudpickle would return bytes."""
    return rebuild.view, (view.tobytes(), view.format, view.shape)


def _reduce_weak_mapping(_pickler: Pickler, mapping: Any) -> Any:
    """Reduce a weak mapping to its living items: `functools.singledispatch` has one."""
    return rebuild.weak_mapping, (type(mapping), list(mapping.items()))


def _reduce_cached(pickler: Pickler, function: Any) -> Any:
    """Reduce an `lru_cache` from a cell, which goes by its name otherwise and is not found."""
    if _importable(function) and not within(function.__module__, pickler.by_value):
        return NotImplemented
    parts = (function.__wrapped__, function.cache_parameters())
    return rebuild.cached, parts, dict(vars(function))


def _reduce_cached_property(_pickler: Pickler, cached: Any) -> Any:
    """Reduce a cached property without the lock that it has up to Python 3.11."""
    return functools.cached_property, (cached.func,), {"attrname": cached.attrname}


def _reduce_exception(_pickler: Pickler, error: BaseException) -> Any:
    return rebuild.exception, (type(error), error.args), dict(vars(error)) or None


def _only_init_in_python(t: type[BaseException]) -> bool:
    return (
        t.__reduce__ is BaseException.__reduce__
        and t.__reduce_ex__ is object.__reduce_ex__
        and isinstance(t.__init__, types.FunctionType)
        and isinstance(t.__new__, types.BuiltinFunctionType)
    )


def _may_go_by_name(t: type) -> bool:
    """Say whether an object of this type may pickle itself as a name in a module of its own."""
    own: Any = t
    reduces = (own.__reduce__, own.__reduce_ex__) != (object.__reduce__, object.__reduce_ex__)
    has_module = t.__dictoffset__ != 0 or not isinstance(t.__dict__.get("__module__"), str)
    return reduces and has_module and t not in cloudpickle.Pickler.dispatch_table


def _reduce_named(pickler: Pickler, value: Any) -> Any:
    """Reduce by value what a cell made and what would go by its name: there is no such cell later.

    Raises:
        PicklingError: The name is all that is known of it.
    """
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or not within(module, pickler.by_value | {"__main__"}):
        return NotImplemented
    if isinstance(value, typing.NewType):
        return rebuild.type_parameter, ("NewType", module, value.__name__, value.__supertype__)
    if isinstance(value, typing.ParamSpec | typing.TypeVarTuple):
        return rebuild.type_parameter, (type(value).__name__, module, value.__name__)
    if isinstance(value, _TYPE_ALIAS):
        return rebuild.type_alias, (value.__name__, value.__value__, value.__type_params__)
    reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if isinstance(reduced, str):
        raise pickle.PicklingError(f"it pickles only as the name {module}.{reduced}")
    return reduced


def _importable(value: Any) -> bool:
    """Say whether another process finds this very object by its module and qualified name."""
    found: Any = sys.modules.get(value.__module__) if value.__module__ != "__main__" else None
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def within(module: str | None, packages: frozenset[str]) -> bool:
    """Say whether a module is one of these packages or lies in one."""
    return module is not None and any(
        module == package or module.startswith(f"{package}.") for package in packages
    )


_EXACT: dict[type, Rule] = {
    types.CodeType: _reduce_code,
    types.ModuleType: _reduce_module,
    type(os.environ): _reduce_environment,
    memoryview: _reduce_view,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
    functools._lru_cache_wrapper: _reduce_cached,
    functools.cached_property: _reduce_cached_property,
}
