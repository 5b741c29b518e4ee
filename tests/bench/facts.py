"""On what a run was measured: nothing in it names the machine."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
import tempfile
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
