"""Children whose system calls fail, are written down, or end them: `syscalls.c`, preloaded.

`Shim.run` runs a program with the library; in there the functions of this module drive it. A C
compiler is needed (`cc`; Debian: apt-get install gcc): nothing else gets between an engine and the
kernel without root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).with_suffix(".c")
SECONDS = 100.0


@dataclass(frozen=True)
class Shim:
    """The compiled library."""

    library: Path

    @classmethod
    def compile(cls, folder: Path) -> Shim:
        """Compile it."""
        library = folder / "syscalls.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        return cls(library)

    def run(self, program: str, root: Path, **env: str) -> str:
        """Run a program that minds the paths below `root`; return what it wrote.

        Raises:
            AssertionError: It failed.
        """
        here = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=False,
            cwd=root.parent,
            timeout=SECONDS,
            env={
                **os.environ,
                "LD_PRELOAD": str(self.library),
                "NA_ROOT": str(root),
                "PYTHONPATH": f"{here.parent}:{here.parent.parent}",
                "PYTHONWARNINGS": "ignore",
                **env,
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


# -- inside such a program ---------------------------------------------------------------------


def fail(
    op: str, part: str = "", error: int = errno.EIO, *, skip: int = 0, times: int = -1
) -> None:
    """Have calls fail from now on.

    Args:
        op: "write", "sync", "create" (a new file or directory), "open" (to write), "rename",
            "link" or "unlink".
        part: Only for paths with this in them.
        error: With this error.
        skip: Let so many pass before.
        times: So often; -1: always.
    """
    _library().na_fail(op.encode(), part.encode(), error, ctypes.c_long(skip), ctypes.c_long(times))


def room(size: int) -> None:
    """Let files grow by `size` bytes altogether: what does not fit is cut, then ENOSPC."""
    _library().na_budget(ctypes.c_long(size))


def mend() -> None:
    """Take all of this back."""
    _library().na_mend()


def clock(seconds: int) -> None:
    """Have the wall clock so much ahead of the true one."""
    _library().na_clock(ctypes.c_long(seconds))


def trace(path: str) -> None:
    """Write every change of a file or a name to `path`."""
    _library().na_trace(path.encode())


def mark(text: str) -> None:
    """Write a line of one's own among them."""
    _library().na_mark(text.encode())


def killed_at_each(body: Callable[[], None], after: Callable[[int], None], *, step: int = 1) -> int:
    """Run `body` in forked children, killed before their 1st, 2nd, … change of a file or a name.

    Args:
        body: What each does.
        after: Called with the number when it is dead.
        step: Leave out some: every `step`th.

    Returns:
        How many were killed; the one after them came to its end.
    """
    for number in range(0, 100_000, step):
        pid = os.fork()
        if pid == 0:
            try:
                library = _library()
                library.na_kill_at(ctypes.c_long(library.na_done() + number))
                body()
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -9), f"ended with {code} at {number}"
        after(number)
        if code == 0:
            return number // step
    raise AssertionError("it never came to its end")


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.na_done.restype = ctypes.c_long
    return library
