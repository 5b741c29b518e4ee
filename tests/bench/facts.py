"""On what a run was measured: nothing in it names the machine."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "notebook-agents",
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-sqlite",
    "duckdb",
    "cryptography",
)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, SQLite and packages, as far as they are installed."""
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in (*PACKAGES, *packages):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def facts() -> dict[str, Any]:
    """Return date, machine and versions."""
    from notebook_agents.journal.queue_file import file_system  # not in every environment

    place = Path(tempfile.gettempdir())
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file_system": file_system(place) or "unknown",
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def floor(folder: Path, size: int, *, times: int) -> dict[str, list[float]]:
    """Return what the disk takes for what no durable append can do without, in ms each.

    Args:
        folder: Where the files are made.
        size: The bytes of one append.
        times: How often.

    Returns:
        "grown": appended to a file that grows, then `fdatasync`. "overwritten": the same on blocks
        that the file has already, as a log that is used again does.
    """
    found: dict[str, list[float]] = {}
    path = folder / "floor"
    content = os.urandom(size)
    for name in ("grown", "overwritten"):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        took = []
        for number in range(times):
            begun = time.perf_counter()
            os.pwrite(file, content, number * size)
            os.fdatasync(file)
            took.append((time.perf_counter() - begun) * 1e3)
        os.close(file)
        found[name] = took
    return found
