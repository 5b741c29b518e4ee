"""Bursts of a real process, killed by strace at each system call on the journal's files."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CALLS = ("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "unlink")
_FILES = ("journal.1.duckdb", "journal.1.duckdb.wal", "queue.sqlite", "queue.sqlite-wal")
_PROGRAM = "import sys, notebook_agents as na; na.Journal.open(sys.argv[1]).ingest()"
_SECONDS = 120.0


def killed_at(home: Path, call: str, number: int) -> bool:
    """Ingest what is in a journal's queue; kill the process at its n-th such call.

    Args:
        home: The journal.
        call: The system call.
        number: 1 for the first one on a file of the journal.

    Returns:
        Whether it was killed; False: it makes fewer such calls.
    """
    paths = [part for name in _FILES for part in ("-P", str(home / name))]
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"trace={call}"]
    done = subprocess.run(
        [*command, "-e", inject, sys.executable, "-c", _PROGRAM, str(home)],
        check=False,
        capture_output=True,
        timeout=_SECONDS,
    )
    if done.returncode not in (0, -9, 137):
        raise AssertionError(done.stderr.decode())
    return done.returncode != 0
