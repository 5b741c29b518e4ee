"""Which versions kept a pickle, and what to do where this process has others."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALWAYS = ("dill", "cloudpickle")
_IF_LOADED = ("numpy", "pandas")


def here() -> dict[str, str]:
    """Return the versions that matter: Python's, the picklers', and of what is loaded."""
    names = [*_ALWAYS, *(name for name in _IF_LOADED if name in sys.modules)]
    return {name: found for name in ("python", *names) if (found := _version(name)) is not None}


def mismatches(kept: Mapping[str, str]) -> list[str]:
    """Return what differs in its first two numbers, each with what to do about it."""
    news = []
    for name, version in kept.items():
        now = _version(name)
        if now is not None and _minor(now) == _minor(version):
            continue
        if name == "python":
            news.append(
                f"kept under Python {version}, and this is {now}: functions and classes from cells "
                f"come back under {_minor(version)} only, so start a kernel with that"
            )
        else:
            news.append(
                f"kept with {name} {version}, and here is {now or 'none'}: if something does not "
                f'come back, `pip install "{name}=={_minor(version)}.*"` and restart the kernel'
            )
    return news


@functools.cache
def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
