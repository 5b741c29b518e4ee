"""Which versions kept a pickle, and what to do where this process has others."""

from __future__ import annotations

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
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def mismatches(kept: Mapping[str, str]) -> list[str]:
    """Return what differs in its first two numbers, each with what to do about it."""
    news = []
    for name, version in kept.items():
        if name == "python":
            now: str | None = platform.python_version()
        else:
            try:
                now = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                now = None
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


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
