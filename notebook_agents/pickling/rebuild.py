"""Functions that pickles call when they are loaded.

Journals name them by this module and their own name: rename one, or change what it takes, and
older journals do not open.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import platform
import types
import typing
from pathlib import Path
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


def torch_memory(data: Any) -> Any:
    """Rebuild a tensor's memory of its bytes; torch's own, so that it can be resized."""
    torch = importlib.import_module("torch")
    if not len(data):
        return torch.UntypedStorage(0)
    held = torch.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype=torch.uint8)
    return held.clone().untyped_storage()


def torch_storage(kind: str, memory: Any) -> Any:
    """Rebuild what a tensor is made of.

    Args:
        kind: The name of its elements' type in torch.
        memory: What `torch_memory` returned.
    """
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(
        wrap_storage=memory, dtype=getattr(torch, kind), _internal=True
    )


def polars_frame(order: list[str], beside: dict[str, Any], rest: Any) -> Any:
    """Rebuild a data frame of polars.

    Args:
        order: The names of its columns.
        beside: Some of the columns, by name.
        rest: A data frame of the others.
    """
    columns = {**beside, **{one.name: one for one in rest.get_columns()}}
    return importlib.import_module("polars").DataFrame({name: columns[name] for name in order})


def polars_column(name: str, kind: Any, falls: list[bool], plain: str, data: Any) -> Any:
    """Rebuild a column of a data frame of polars.

    Args:
        name: Its name.
        kind: Its type in polars.
        falls: Whether it is known to be sorted downwards; empty where nothing is known.
        plain: The type of its numbers in NumPy.
        data: Their bytes.
    """
    polars, numpy = importlib.import_module("polars"), importlib.import_module("numpy")
    made = polars.Series(name, numpy.frombuffer(data, dtype=plain)).cast(kind)
    return made.set_sorted(descending=falls[0]) if falls else made


def memory_map(
    path: str, kind: Any, mode: str, offset: int, shape: tuple[int, ...], order: Any
) -> Any:
    """Open an array again that is a file; the arguments are those of `numpy.memmap`.

    Raises:
        ValueError: The file is shorter by now: NumPy would make it longer.
    """
    numpy = importlib.import_module("numpy")
    needs, has = offset + kind.itemsize * math.prod(shape), Path(path).stat().st_size
    if has < needs:
        raise ValueError(f"{path} has {has:,} bytes by now, and the array in it needs {needs:,}")
    return numpy.memmap(path, kind, mode, offset, shape, order)
