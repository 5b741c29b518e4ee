"""Modules that a cell wrote to disk: kept with their source, for a process that has no such file.

Of a module that belongs to an installed package the name is enough.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
import sys
import sysconfig
import types
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.machinery import ModuleSpec
    from typing import Any

_LARGEST = 1_000_000
"""Bytes of a source above which it is nobody's cell."""


def sources(names: Iterable[str]) -> dict[str, str]:
    """Return the sources of those modules, and of what they import, that lie in this folder."""
    found: dict[str, str] = {}
    todo = [name for name in names if name]
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        if name in found or module is None or (source := _source(module)) is None:
            continue
        found[name] = source
        todo.append(name.rpartition(".")[0])
        for held in list(vars(module).values()):
            # Of its type, as in `namespace.now`: what an object says of itself is its own code.
            is_module = issubclass(type(held), types.ModuleType)
            with suppress(Exception):
                todo.append(held.__name__ if is_module else str(getattr(held, "__module__", "")))
    return found


def install(kept: dict[str, str]) -> list[str]:
    """Have sources found where there is no such module; return what is to be said of them."""
    news = []
    for name in sorted(kept):
        here = _here(name)
        if here is None:
            _finder.sources[name] = kept[name]
            news.append(f"module {name} is not here: its kept source is used")
        elif here != kept[name]:
            news.append(f"module {name} has changed since: the file of now is used")
    if _finder.sources and _finder not in sys.meta_path:
        sys.meta_path.append(_finder)  # behind all others: a file goes before
    return news


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules from their kept sources."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name not in self.sources:
            return None
        is_package = any(other.startswith(f"{name}.") for other in self.sources)
        return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def exec_module(self, module: types.ModuleType) -> None:
        source, file = self.sources[module.__name__], f"<kept source of {module.__name__}>"
        lines = source.splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)  # for tracebacks
        exec(compile(source, file, "exec"), vars(module))  # noqa: S102 - its seal was opened


_finder = _Finder()


def _source(module: types.ModuleType) -> str | None:
    """Return the source of a module of the user's own, None of any other."""
    if (kept := _finder.sources.get(module.__name__)) is not None:
        return kept
    file = str(getattr(module, "__file__", None) or "")
    if module.__name__ == "__main__" or not file.endswith(".py"):
        return None
    with suppress(OSError, UnicodeDecodeError):
        path = Path(file).resolve()
        if not path.is_relative_to(Path.cwd().resolve()) or _is_installed(path):
            return None
        if path.stat().st_size <= _LARGEST:
            return path.read_text(encoding="utf-8")
    return None


def _is_installed(path: Path) -> bool:
    own = Path(__file__).resolve().parents[1]
    folders = [own, *(Path(one).resolve() for one in sysconfig.get_paths().values())]
    return "site-packages" in path.parts or any(path.is_relative_to(one) for one in folders)


def _here(name: str) -> str | None:
    """Return the source of a module that is here; None where there is none."""
    if name in _finder.sources:
        return _finder.sources[name]
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # noqa: BLE001 - it runs the package that a module lies in
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    with suppress(OSError, UnicodeDecodeError):
        return Path(spec.origin).read_text(encoding="utf-8")
    return ""
