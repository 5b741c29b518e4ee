"""Functions that pickles call when they are loaded.

Journals name them by this module and their own name: rename one, or change what it takes, and
older journals do not open.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import types
import typing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BYTECODE = importlib.util.MAGIC_NUMBER
PYTHON = platform.python_version()


def code(bytecode: bytes, python: str, *parts: Any) -> types.CodeType:
    """Rebuild a code object, if this interpreter speaks its bytecode.

    Another version's bytecode loads without complaint and crashes the interpreter when it runs.

    Args:
        bytecode: The magic number of the bytecode's version.
        python: The version that compiled it, for the message.
        *parts: The arguments of `types.CodeType`.

    Raises:
        ImportError: It was compiled by another version of Python.
    """
    if bytecode != BYTECODE:
        raise ImportError(
            f"a function in it was compiled by Python {python}, and this is Python {PYTHON}"
        )
    return types.CodeType(*parts)


def module(name: str) -> types.ModuleType:
    """Rebuild a module that went by value, empty yet. It is not put into `sys.modules`."""
    return types.ModuleType(name)


def exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Rebuild an exception without calling the `__init__` that its class defines in Python.

    Python would call it with `args`, which is what the class gave to `super().__init__`: often
    one finished message instead of the arguments that made it.
    """
    error = cls.__new__(cls, *args)
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if init is not None and not isinstance(init, types.FunctionType):
            init(error, *args)  # written in C: it sets fields of C, such as UnicodeError's
            break
    return error


def cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Rebuild a function under `functools.lru_cache`, its cache empty."""
    return functools.lru_cache(**parameters)(function)


def type_parameter(kind: str, module: str, name: str, *rest: Any) -> Any:
    """Rebuild a name of `typing` that was made in a cell: NewType, ParamSpec, TypeVarTuple."""
    made = getattr(typing, kind)(name, *rest)
    made.__module__ = module
    return made


def type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Rebuild what a `type` statement made, from Python 3.12 on."""
    make: Any = vars(typing)["TypeAliasType"]
    return make(name, value, type_params=parameters)


def weak_mapping(cls: type[Any], items: list[tuple[Any, Any]]) -> Any:
    """Rebuild a `WeakKeyDictionary` or `WeakValueDictionary` with what was alive in it."""
    return cls(items)


def view(data: bytes, code: str, shape: tuple[int, ...]) -> memoryview:
    """Rebuild a memoryview, over bytes of its own."""
    flat = memoryview(data)
    return flat if code == "B" and len(shape) == 1 else flat.cast(code, shape)  # type: ignore[call-overload]


def texts(
    data: Any, between: str, missing: dict[int, float | None], shape: tuple[int, ...], order: Any
) -> Any:
    """Rebuild an array of strings; equal ones become one object.

    Args:
        data: All of them as UTF-8.
        between: What stands between two of them.
        missing: What is in other places, by place; there `data` has an empty one.
        shape: The array's.
        order: "C" or "F": in which order `data` has them.
    """
    import numpy

    held: list[Any] = str(data, "utf-8", "surrogatepass").split(between)
    once = {text: text for text in held}
    held = [once[text] for text in held]
    for place, one in missing.items():
        held[place] = one if one is None else numpy.nan
    found = numpy.empty(len(held), dtype=object)
    found[:] = held
    return found.reshape(shape, order=order)


def torch_storage(kind: str, data: Any) -> Any:
    """Rebuild a tensor's memory; torch's own, so that it can be resized.

    Args:
        kind: The name of its elements' type in torch.
        data: Its bytes.
    """
    torch = importlib.import_module("torch")
    held = torch.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype=torch.uint8)
    return torch.storage.TypedStorage(
        wrap_storage=held.clone().untyped_storage(), dtype=getattr(torch, kind), _internal=True
    )


def polars_frame(columns: list[Any]) -> Any:
    """Rebuild a data frame of polars of its columns."""
    return importlib.import_module("polars").DataFrame(columns)


def polars_column(name: str, kind: Any, plain: str, data: Any) -> Any:
    """Rebuild a column of a data frame of polars.

    Args:
        name: Its name.
        kind: Its type in polars.
        plain: The type of its numbers in NumPy.
        data: Their bytes.
    """
    polars, numpy = importlib.import_module("polars"), importlib.import_module("numpy")
    return polars.Series(name, numpy.frombuffer(data, dtype=plain)).cast(kind)
