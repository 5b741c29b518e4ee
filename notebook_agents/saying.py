"""Where a line goes that a person should read and that is no error."""

from __future__ import annotations

import sys


def in_kernel() -> bool:
    """Whether this process is the kernel of a notebook."""
    app = sys.modules.get("ipykernel.kernelapp")
    return app is not None and bool(app.IPKernelApp.initialized())


def say(line: str) -> None:
    """Write a line to stderr; in a notebook, which shows stderr as an error, to stdout."""
    (sys.stdout if in_kernel() else sys.stderr).write(f"{line}\n")
