"""A real kernel that executes what a benchmark tells it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., str]

_SECONDS = 300.0


@contextmanager
def kernel(folder: Path, **more: str) -> Iterator[Ask]:
    """Start a kernel; give a function that executes code in it and returns what it printed.

    With `cell=True` it is executed as a notebook's cell is.

    Args:
        folder: Where it works, and has its journal.
        more: Of its environment.
    """
    from jupyter_client.manager import start_new_kernel

    environment = {**os.environ, "NOTEBOOK_AGENTS_HOME": str(folder / "journal"), **more}
    manager, client = start_new_kernel(env=environment, cwd=str(folder))
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            said.append(message["content"]["text"])

    def ask(code: str, *, cell: bool = False) -> str:
        said.clear()
        reply = client.execute_interactive(
            code, silent=not cell, store_history=cell, output_hook=hear, timeout=_SECONDS
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"].get("traceback", ["it failed"])))
        return "".join(said)

    try:
        yield ask
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
