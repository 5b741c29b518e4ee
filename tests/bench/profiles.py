"""cProfile's numbers by who spent them."""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = str(Path(__file__).parent)
_BUILTIN = {
    "posix.fdatasync": "fdatasync",
    "posix.pwrite": "SQLite and files",
    "sqlite3.": "SQLite and files",
    "duckdb": "DuckDB",
    "_duckdb": "DuckDB",
    "_thread.": "waiting for threads",
    "_queue.": "waiting for threads",
    "AESGCM": "sealing (AES-GCM, hashes)",
    "blake2": "sealing (AES-GCM, hashes)",
    "_hashlib": "sealing (AES-GCM, hashes)",
    "zstandard": "compressing",
    "zstd": "compressing",
    "packb": "msgpack",
    "pickle": "pickling",
    "marshal.loads": "importing modules",
    "_imp.": "importing modules",
}
_PATHS = {
    "/notebook_agents/journal/archive.py": "DuckDB, and what calls it",  # its calls are not seen
    "/notebook_agents/graph/": "notebook_agents.graph",
    "/notebook_agents/runtime/": "notebook_agents.runtime",
    "/notebook_agents/journal/": "notebook_agents.journal",
    "/notebook_agents/": "notebook_agents, the rest",
    "/langgraph/": "LangGraph",
    "/langchain_core/": "LangChain core",
    "/cryptography/": "sealing (AES-GCM, hashes)",
    "/cloudpickle/": "pickling",
    "/dill/": "pickling",
    "/duckdb/": "DuckDB",
    "<frozen importlib": "importing modules",
    "/importlib/": "importing modules",
    "/site-packages/": "other packages",
}


def profiled(work: Callable[[], object]) -> cProfile.Profile:
    """Return the profile of a call; what it runs in other threads shows as waiting for them."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        work()
    finally:
        profile.disable()
    return profile


def by_owner(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds that each part of the program spent itself, the most first.

    A builtin without an owner of its own belongs to who called it.
    """
    spent: Counter[str] = Counter()
    stats: Any = pstats.Stats(profile)
    for function, (_, _, own, _, callers) in stats.stats.items():
        owner = _owner(function)
        if owner is not None or not callers:
            spent[owner or "Python's library"] += own
            continue
        for caller, (_, _, share, _) in callers.items():
            spent[_owner(caller) or "Python's library"] += share
    return dict(spent.most_common())


def dearest(profile: cProfile.Profile, *, least: int) -> list[tuple[str, int, float, float]]:
    """Return the functions that took longest themselves: name, calls, own seconds, all seconds."""
    stats: Any = pstats.Stats(profile)
    found = [
        (_name(function), calls, own, every)
        for function, (_, calls, own, every, _) in stats.stats.items()
    ]
    return sorted(found, key=lambda entry: -entry[2])[:least]


def _owner(function: tuple[str, int, str]) -> str | None:
    """Return whose a function is; None for a builtin that anyone may call."""
    path, _, name = function
    if path == "~":
        return next((owner for part, owner in _BUILTIN.items() if part in name), None)
    path = path.replace("\\", "/")
    if path.startswith(_HERE):
        return "the node and the harness"
    return next((owner for part, owner in _PATHS.items() if part in path), "Python's library")


def _name(function: tuple[str, int, str]) -> str:
    """Return a function's name for people: no path of this machine."""
    path, line, name = function
    if path == "~":
        return name.strip("<>")
    roots = sorted((entry for entry in sys.path if entry and path.startswith(f"{entry}/")), key=len)
    return f"{path.removeprefix(f'{roots[-1]}/') if roots else Path(path).name}:{line} {name}"
