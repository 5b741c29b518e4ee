"""Modules that a cell wrote to disk: kept with their source, for a process that has no such file.

Of a module that belongs to an installed package the name is enough.
"""

from __future__ import annotations

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

_LARGEST = 1_000_000
"""Bytes of a source above which it is nobody's cell."""
_KEPT = "<kept source of {}>"


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
        todo += name.rpartition(".")[:1]
        for held in list(vars(module).values()):
            if isinstance(held, types.ModuleType):
                todo.append(held.__name__)
            else:
                todo.append(str(getattr(held, "__module__", None) or ""))
    return found


def install(kept: dict[str, str]) -> list[str]:
    """Make modules from their sources where there are none; return what is to be said of them."""
    news = []
    for name in sorted(kept):  # a package comes before what is in it
        here = _here(name)
        if here is None:
            missing = _make(name, kept)
            news.append(missing or f"module {name} is not here: it was made from the kept source")
        elif here != kept[name]:
            news.append(f"module {name} has changed since: the file of now is used")
    return news


def _source(module: types.ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or not str(file or "").endswith(".py"):
        text = linecache.getlines(_KEPT.format(module.__name__)) if file is None else []
        return "".join(text) or None  # made by `install`
    path = Path(str(file)).resolve()
    if not path.is_relative_to(Path.cwd().resolve()) or _is_installed(path):
        return None
    with suppress(OSError, UnicodeDecodeError):
        if path.stat().st_size <= _LARGEST:
            return path.read_text(encoding="utf-8")
    return None


def _is_installed(path: Path) -> bool:
    own = Path(__file__).resolve().parents[1]
    folders = [own, *(Path(one).resolve() for one in sysconfig.get_paths().values())]
    return "site-packages" in path.parts or any(path.is_relative_to(one) for one in folders)


def _here(name: str) -> str | None:
    """Return the source of a module that is loaded or can be imported; None where there is none."""
    module = sys.modules.get(name)
    if module is not None:
        return _source(module) or ""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    with suppress(OSError, UnicodeDecodeError):
        return Path(spec.origin).read_text(encoding="utf-8")
    return ""


def _make(name: str, kept: dict[str, str]) -> str | None:
    """Make a module; return why it could not be."""
    module = types.ModuleType(name)
    file = _KEPT.format(name)
    lines = kept[name].splitlines(keepends=True)
    linecache.cache[file] = (len(kept[name]), None, lines, file)  # for tracebacks
    if any(other.startswith(f"{name}.") for other in kept):
        module.__path__ = []
    sys.modules[name] = module
    outer, _, last = name.rpartition(".")
    try:
        exec(compile(kept[name], file, "exec"), vars(module))  # noqa: S102 - its seal was opened
    except Exception as error:  # noqa: BLE001 - whatever a cell's module raises
        del sys.modules[name]
        return f"module {name} is not here, and its kept source does not run ({error!r})"
    if outer in sys.modules:
        setattr(sys.modules[outer], last, module)
    return None
