"""Memory of torch's tensors and polars' columns, beside the pickle as that of NumPy's arrays is.

Their own pickles have it inside, written out once or twice more: of 500 MB a gigabyte.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from notebook_agents.pickling import rebuild

_FROM = 4096
"""Bytes from which on."""


def reduce(value: Any) -> tuple[Any, ...] | None:
    """Return what `__reduce__` may return of a tensor's memory, or of polars' frames and columns.

    None of anything else: of what is on another device, and of columns that are no plain numbers.
    """
    rule = _RULES.get(type(value).__name__)
    return None if rule is None else rule(value)


def _tensor(value: Any) -> tuple[Any, ...] | None:
    torch = sys.modules.get("torch")
    if torch is None or type(value) is not torch.storage.TypedStorage:
        return None
    storage = value._untyped_storage
    if storage.device.type != "cpu" or storage.nbytes() < _FROM:
        return None
    try:
        seen = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    except RuntimeError:  # this torch was built without NumPy
        return None
    kind = str(value.dtype).removeprefix("torch.")
    return rebuild.torch_storage, (kind, pickle.PickleBuffer(seen))


def _frame(value: Any) -> tuple[Any, ...] | None:
    polars = sys.modules.get("polars")
    if polars is None or type(value) is not polars.DataFrame or not value.width:
        return None
    return rebuild.polars_frame, (value.get_columns(),)


def _column(value: Any) -> tuple[Any, ...] | None:
    polars = sys.modules.get("polars")
    if polars is None or type(value) is not polars.Series:
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
    return rebuild.polars_column, (value.name, kind, seen.dtype.str, pickle.PickleBuffer(seen))


_RULES = {"TypedStorage": _tensor, "DataFrame": _frame, "Series": _column}
