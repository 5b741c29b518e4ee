"""The timeline as an ipywidgets widget: one model, and our own component in its view."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def static(name: str) -> str:
    """Return the text of one of the component's files."""
    return files("notebook_agents.ui").joinpath("static", name).read_text("utf-8")


PARTS = ("looks", "tree", "rows", "forms", "kernel", "timeline", "widget")


def component() -> str:
    """Return the component as the one module that a widget has: its parts, one behind the other."""
    text = "\n".join(static(f"{part}.js") for part in PARTS)
    return re.sub(r"^import .*\n|^export (?!default )", "", text, flags=re.MULTILINE)


class TimelineWidget(anywidget.AnyWidget):
    """A run's timeline.

    The trait has the state as it was at the beginning and the one at the end: what changes in
    between goes out as messages, for a trait would be sent whole each time. A page that is
    reloaded meanwhile asks for the model's state and is given `current`.

    Args:
        state: The run's state, see `state.py`.
        current: Returns the state as it is now.
        asked: Called with what a button sends where only a comm reaches the kernel; returns the
            reply.
    """

    _esm = component()
    _css = static("timeline.css")
    state = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        state: dict[str, Any],
        *,
        current: Callable[[], dict[str, Any]],
        asked: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._current = current
        self._asked = asked
        super().__init__(state=state)
        self.on_msg(self._answer)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - ipywidgets' own
        """Return the model's state, with the run's as it is now where all of it is asked for."""
        found: dict[str, Any] = super().get_state(key, drop_defaults)
        if key is None:
            found["state"] = self._current()
        return found

    def send_state(self, key: Any = None) -> None:
        """Send the model's state, the run's as the JSON that it is.

        ipywidgets would look for buffers in all of its steps, which takes longer than the rest.
        """
        if key != "state":
            super().send_state(key)
        elif self.comm is not None:
            state = {"state": self.state}
            self.comm.send({"method": "update", "state": state, "buffer_paths": []})

    def tell(self, delta: dict[str, Any]) -> None:
        """Send what changed to the views."""
        self.send({"kind": "delta", "delta": delta})

    def _answer(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        if content.get("kind") == "hello":
            self.send({"kind": "state", "state": self._current()})
        elif content.get("kind") == "request":
            reply = self._asked(content["request"])
            self.send({"kind": "reply", "number": content.get("number"), "reply": reply})
