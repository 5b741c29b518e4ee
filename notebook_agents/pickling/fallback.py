"""dill, for what cloudpickle has no rule for: a bound `super`, descriptors of C types and the like.

Only imported when cloudpickle failed. dill's own ways with classes and functions of `__main__` are
never reached: they cannot reload an Enum, a pydantic model or a tool that was defined in a cell.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import cloudpickle

_loaded_by_user = "dill" in sys.modules
import dill  # noqa: E402 - who was first is asked above

from notebook_agents.pickling.rules import rule_for  # noqa: E402 - as above

if not _loaded_by_user:
    # Importing dill adds its rules to everybody's `pickle._Pickler`.
    dill.extend(use_dill=False)

_ATOMS = frozenset({type(None), bool, int, float, complex, bytes, str})


class FallbackPickler(dill.Pickler):  # type: ignore[misc]  # dill ships no types
    """The same rules, then cloudpickle's, then dill's."""

    by_value: frozenset[str] = frozenset()
    _dynamic_function_reduce = cloudpickle.Pickler._dynamic_function_reduce
    _function_reduce = cloudpickle.Pickler._function_reduce
    _function_getnewargs = cloudpickle.Pickler._function_getnewargs

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=cloudpickle.DEFAULT_PROTOCOL)
        self.globals_ref: dict[int, dict[str, Any]] = {}

    def reducer_override(self, value: Any) -> Any:
        """Reduce `value`, or leave it to dill by returning NotImplemented."""
        t = type(value)
        if t in _ATOMS:
            return NotImplemented
        rule = rule_for(t)
        if rule is not None:
            reduced = rule(self, value)
            if reduced is not NotImplemented:
                return reduced
            if isinstance(value, type | types.FunctionType):
                return value.__qualname__
        known = cloudpickle.Pickler.dispatch_table.get(t)
        return NotImplemented if known is None else known(value)
