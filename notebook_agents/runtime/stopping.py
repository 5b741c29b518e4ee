"""A wish to stop: steps that run are let finish, no other begins."""

from __future__ import annotations

_wished = False


class RunStopped(BaseException):
    """No step begins any more in this process.

    It derives from BaseException because a node's `except Exception` around a durable call would
    otherwise take it for a failure of that call and go on.
    """

    def __str__(self) -> str:
        return "the run was asked to stop: its steps so far are kept, resume it to go on"

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows under the cell: it was asked for, and nothing is broken."""
        return [f"stopped: {self}"]


def stop() -> None:
    """Let no step of this process begin from now on. Safe in a signal handler."""
    global _wished
    _wished = True


def go_on() -> None:
    """Take the wish back."""
    global _wished
    _wished = False


def check() -> None:
    """Raise if a stop was wished.

    Raises:
        RunStopped: It was.
    """
    if _wished:
        raise RunStopped
