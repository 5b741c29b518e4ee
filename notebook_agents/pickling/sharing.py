"""Which of the objects that a pickler met bring together those who have them."""

from __future__ import annotations

import enum
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMPILED = "cython_function_or_method"
_CONTAINERS = (list, dict, set)
_OF_VALUES = (sys.stdlib_module_names | {"pandas", "numpy", "polars"}) - {"__main__"}
"""Packages where what has a hash of its own is a value, which nobody changes: a path, a moment, the
type of a column, which frames share that share nothing else."""


_VALUES = (str, bytes, int, float, complex, tuple, frozenset)


class Sharing(dict[type, bool]):
    """Whether it matters of objects of a type: they can be changed, or are known by identity.

    Classes and functions are the same ones wherever they are loaded. It is for one moment: classes
    are asked once for what they hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[type, frozenset[int]] = {}

    def __missing__(self, kind: type) -> bool:
        own: Any = kind.__hash__
        named = issubclass(kind, type | types.FunctionType | types.ModuleType)
        found = own is None or own is object.__hash__ or _has_state(kind)
        self[kind] = found = found and not named and kind.__name__ != _COMPILED
        return found

    def held_by(self, classes: Iterable[type]) -> set[int]:
        """Return the ids of the containers that classes hold, which went by name.

        What pandas keeps of a frame has a list of its class in it. It is no frame's own.
        """
        found: set[int] = set()
        for cls in classes:
            if cls not in self._held:
                held = (one for base in cls.__mro__ for one in vars(base).values())
                self._held[cls] = frozenset(id(one) for one in held if type(one) in _CONTAINERS)
            found |= self._held[cls]
        return found


def _has_state(kind: type) -> bool:
    """Whether objects of a type that says itself how they are hashed can be changed all the same.

    Those of a class with attributes can. A tensor is hashed by its identity, and an optimizer in
    one variable moves those of the model in another one.
    """
    module: Any = kind.__module__
    if isinstance(module, str) and module.partition(".")[0] in _OF_VALUES:
        return False
    if issubclass(kind, (enum.Enum, *_VALUES)) or _is_frozen(kind):
        return False
    return bool(kind.__dictoffset__) or any(vars(one).get("__slots__") for one in kind.__mro__)


def _is_frozen(kind: Any) -> bool:
    """Whether it is a class of dataclasses or attrs whose objects cannot be changed."""
    if getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        return True
    return getattr(kind.__setattr__, "__name__", "") == "_frozen_setattrs"


def dtype(value: Any) -> Any:
    """Return what `__reduce__` may return of a NumPy record type, None of anything else.

    What it returns itself has a dict in it that all arrays of that type share.
    """
    if type(value).__name__ != "VoidDType":
        return None
    made, arguments, state = value.__reduce__()
    return made, arguments, tuple(one.copy() if type(one) is dict else one for one in state)
