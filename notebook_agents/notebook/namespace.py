"""What a kernel's cells have made: their variables, their imports, and what they changed around.

IPython keeps more under names of its own in the same namespace; none of that is the user's.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
import types
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents import pickling
from notebook_agents.pickling import modules

if TYPE_CHECKING:
    from collections.abc import Iterator

_IPYTHONS = re.compile(r"__.*__|_{1,3}|_\d+|_i+|_i\d+|_[oid]h|_exit_code|In|Out")
FOLDER = "the working folder"
"""Stands for a variable's name where that is what does not come back."""
_GIVEN = re.compile(r"_{1,3}|_i{1,3}|_[oid]h|In|Out")
_loading = threading.Lock()
_environment: dict[str, str] = {}
_path: list[str] = []


class Namespace(NamedTuple):
    """A kernel's namespace at a moment.

    Attributes:
        variables: The user's variables, by name.
        imports: The modules among them, by the name that they have there.
        given: Names that every kernel has from the start.
    """

    variables: dict[str, Any]
    imports: dict[str, str]
    given: frozenset[str]


def loading() -> bool:
    """Whether extensions are loaded only since they were loaded before."""
    return _loading.locked()


def _load(extensions: list[str]) -> list[str]:
    """Load extensions; return what is to be said of them."""
    manager, notes = shell().extension_manager, []
    for name in extensions:
        if name not in manager.loaded:
            try:
                manager.load_extension(name)
            except Exception as error:  # noqa: BLE001 - whatever its code raises
                notes.append(f"extension {name} cannot be loaded here ({error!r})")
    return notes


def begin() -> None:
    """Note how a fresh kernel is, before a cell changes it."""
    _environment.clear()
    _environment.update(os.environ)
    _path[:] = sys.path


def shell() -> Any:
    """Return this kernel's IPython shell; None where there is none."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def now() -> Namespace:
    """Return what the user has in this kernel."""
    own = shell()
    hidden, nothing = own.user_ns_hidden, object()
    variables: dict[str, Any] = {}
    imports: dict[str, str] = {}
    given: set[str] = set()
    for name, value in list(own.user_ns.items()):
        if not _can_be_one(name):
            continue
        if hidden.get(name, nothing) is value or _GIVEN.fullmatch(name):
            given.add(name)
        elif _IPYTHONS.fullmatch(name):
            continue
        # Of its type: what an object says of its class is its own code.
        elif issubclass(type(value), types.ModuleType) and _is_imported(value):
            imports[name] = value.__name__
        else:
            variables[name] = value
    return Namespace(variables, imports, frozenset(given))


def _can_be_one(name: object) -> bool:
    """Whether a key of the namespace is a variable's name; code can put anything there."""
    return type(name) is str and name.isprintable()  # else it has no UTF-8, or breaks lines


def _is_imported(module: types.ModuleType) -> bool:
    name = vars(module).get("__name__")
    return type(name) is str and sys.modules.get(name) is module


def around(imports: dict[str, str]) -> bytes:
    """Return, for `go_back`, what a cell can change besides variables, and the imports."""
    numpy = sys.modules.get("numpy.random")
    folder = None
    with suppress(OSError):  # it was removed
        folder = os.getcwd()  # noqa: PTH109 - a string
    kept = {
        "folder": folder,
        "path": [one for one in sys.path if one not in _path],
        "environment": dict(_changed(_environment, dict(os.environ))),
        "extensions": sorted(shell().extension_manager.loaded),
        "random": random.getstate(),
        "numpy": None if numpy is None else numpy.get_state(),
        "imports": imports,
        "modules": modules.sources(imports.values()),
    }
    return pickling.dumps(kept, what="the kernel's surroundings")


class Surroundings(NamedTuple):
    """What `go_back` changes besides variables, for whoever takes it back."""

    folder: str | None
    environment: dict[str, str]
    path: list[str]
    random: Any


def surroundings() -> Surroundings:
    """Return what is around the variables now."""
    folder = None
    with suppress(OSError):  # it was removed
        folder = os.getcwd()  # noqa: PTH109 - a string
    return Surroundings(folder, dict(os.environ), list(sys.path), random.getstate())


def take_back(before: Surroundings) -> None:
    """Have everything around the variables as it was."""
    with suppress(OSError):
        os.chdir(before.folder or ".")
    os.environ.clear()
    os.environ.update(before.environment)
    sys.path[:] = before.path
    random.setstate(before.random)


def _changed(before: dict[str, str], here: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    for name in sorted(before.keys() | here.keys()):
        if before.get(name) != here.get(name):
            yield name, here.get(name)


def go_back(data: bytes) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Do again what cells did around their variables, before these are loaded.

    Args:
        data: What `around` returned; its seal was opened.

    Returns:
        The imported modules by name; those that could not be imported, with why; what is to be said
        besides.
    """
    kept: Any = pickling.loads(data)
    failed: dict[str, str] = {}
    try:
        os.chdir(kept["folder"] or ".")
    except OSError as error:
        failed[FOLDER] = f"{kept['folder']} is not there any more ({error.strerror})"
    sys.path.extend(one for one in kept["path"] if one not in sys.path)
    for name, value in kept["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    with _loading:
        notes = _load(kept["extensions"])
    notes += modules.install(kept["modules"])
    found: dict[str, Any] = {}
    for name, module in kept["imports"].items():
        try:
            found[name] = import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever its code raises
            failed[name] = f"module {module} cannot be imported here ({error!r})"
    random.setstate(kept["random"])
    if kept["numpy"] is not None:
        with suppress(ImportError):
            import_module("numpy.random").set_state(kept["numpy"])
    return found, failed, notes
