"""Memory of torch's tensors and polars' columns, beside the pickle as that of NumPy's arrays is.

Their own pickles have it inside, written out once or twice more: of 500 MB a gigabyte. And arrays
that are files: they are opened again.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from notebook_agents.pickling import rebuild

_FROM = 64_000
"""Bytes of a column from which on: many small ones are pickled faster together."""
_WIDEST = 16
"""Bytes that a number of polars takes at most."""


def reduce(value: Any) -> tuple[Any, ...] | None:
    """Return what `__reduce__` may return of a tensor's memory, polars' frames, a memory map.

    None of anything else: of what is on another device, of columns that are no plain numbers.
    """
    rule = _RULES.get(type(value).__name__)
    return None if rule is None else rule(value)


def _tensor(value: Any) -> tuple[Any, ...] | None:
    """Reduce one of a newer type: what is in its own pickle torch itself cannot load."""
    torch = sys.modules.get("torch")
    if torch is None or type(value) is not torch.Tensor:
        return None
    if value.dtype not in getattr(torch.storage, "_new_dtypes", frozenset)():
        return None
    make, given = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)[:2]
    if type(given[0]) is not torch.UntypedStorage:
        return None
    typed = torch.storage.TypedStorage(wrap_storage=given[0], dtype=torch.uint8, _internal=True)
    return make, (typed, *given[1:])


def _storage(value: Any) -> tuple[Any, ...] | None:
    """Reduce what a tensor's own pickle has: views of one memory have the same one afterwards."""
    torch = sys.modules.get("torch")
    if torch is None or type(value) is not torch.storage.TypedStorage:
        return None
    memory = value._untyped_storage
    if memory.device.type != "cpu":
        return None
    return rebuild.torch_storage, (str(value.dtype).removeprefix("torch."), memory)


def _memory(value: Any) -> tuple[Any, ...] | None:
    torch = sys.modules.get("torch")
    if torch is None or type(value) is not torch.UntypedStorage or value.device.type != "cpu":
        return None
    try:
        seen = torch.empty(0, dtype=torch.uint8, device="cpu").set_(value).numpy()
    except RuntimeError:  # this torch was built without NumPy
        return rebuild.torch_memory, (bytes(value),)
    return rebuild.torch_memory, (pickle.PickleBuffer(seen),)


def _frame(value: Any) -> tuple[Any, ...] | None:
    polars = sys.modules.get("polars")
    if polars is None or type(value) is not polars.DataFrame or value.height * _WIDEST < _FROM:
        return None
    beside, order = {}, value.columns
    for column in value.get_columns():
        if _column(column) is not None:
            beside[column.name] = column
    if not beside:
        return None
    rest = [column for column in value.get_columns() if column.name not in beside]
    return rebuild.polars_frame, (order, beside, polars.DataFrame({one.name: one for one in rest}))


def _column(value: Any) -> tuple[Any, ...] | None:
    polars = sys.modules.get("polars")
    if polars is None or type(value) is not polars.Series or len(value) * _WIDEST < _FROM:
        return None
    kind = value.dtype
    if not (kind.is_numeric() or kind.is_temporal()) or value.null_count():
        return None
    plain = value.to_physical()
    try:
        seen = plain.to_numpy(allow_copy=False)
    except (RuntimeError, ValueError, ImportError):  # in several parts, or there is no NumPy
        return None
    if seen.dtype.kind not in "iuf" or seen.nbytes < _FROM:
        return None
    sorted_ = [
        down for down, flag in ((False, "SORTED_ASC"), (True, "SORTED_DESC")) if value.flags[flag]
    ]
    given = (value.name, kind, sorted_, seen.dtype.str, pickle.PickleBuffer(seen))
    return rebuild.polars_column, given


def _file(value: Any) -> tuple[Any, ...] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.memmap:
        return None
    if value.filename is None or value.base is not value._mmap or value.mode == "c":
        reduced: tuple[Any, ...] = numpy.asarray(value).__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return reduced  # a part of one, or changes that are in no file: an array of its own
    mode = "r+" if value.flags.writeable else "r"
    order = "C" if value.flags.c_contiguous else "F"
    given = (str(value.filename), value.dtype, mode, value.offset, value.shape, order)
    return rebuild.memory_map, given


_RULES = {
    "Tensor": _tensor,
    "TypedStorage": _storage,
    "UntypedStorage": _memory,
    "DataFrame": _frame,
    "Series": _column,
    "memmap": _file,
}
