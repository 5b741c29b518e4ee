"""A real kernel, asked as a front end asks it: cells, buttons, and what it displays."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

from notebook_agents.ui.actions import REPLY
from notebook_agents.ui.bundles import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 60.0

GRAPHS = """
import operator, os, time, threading
from pathlib import Path
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
import notebook_agents as na

class State(TypedDict, total=False):
    n: int
    log: Annotated[list, operator.add]

@na.step
def fetch(what, deep=None):
    return what * 2

@na.step
def wait():
    Path("waits").touch()
    while not Path("free").exists():
        time.sleep(0.05)
    return "waited"

def work(state):
    return {"log": [fetch("<script>alert(1)</script>", deep={"a": [1, 2]})]}

def hold(state):
    return {"log": [wait()]}

def ask(state):
    return {"log": [interrupt(QUESTION)]}

def chain(name, *nodes):
    graph = StateGraph(State)
    graph.add_sequence([(node.__name__, node) for node in nodes])
    graph.add_edge(START, nodes[0].__name__)
    return na.Agent(graph, name=name)

worker, holder, asker = chain("worker", work), chain("holder", work, hold), chain("asker", ask)
"""


class Kernel:
    """A kernel and one client of it.

    Attributes:
        shown: What was displayed, by display id: the newest bundle.
        messages: Every message that came, with what it answers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)
        self.messages: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the kernel and the client."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def again(self) -> None:
        """Start a fresh kernel in the place of one that died, as Jupyter does."""
        until = time.monotonic() + SECONDS
        while self.manager.is_alive():
            assert time.monotonic() < until, self.messages[-3:]
            time.sleep(0.01)
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=SECONDS)

    def begin(self, code: str, *, subshell: str | None = None, history: bool = False) -> str:
        """Have the kernel execute code, as a person's cell or unseen; return the request's id."""
        content = {"code": code, "silent": False, "store_history": history, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": False}
        message = self.client.session.msg("execute_request", content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next message for which `wanted` holds, and keep all that came before it."""
        until = time.monotonic() + SECONDS
        while True:
            message = self.client.get_iopub_msg(timeout=max(until - time.monotonic(), 0.01))
            self.messages.append(message)
            if wanted(message):
                return message

    def end(self, request: str) -> None:
        """Hear everything until a request has been done."""
        self.hear(
            lambda message: (
                message["parent_header"].get("msg_id") == request
                and message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
            )
        )

    def run(self, code: str) -> list[dict[str, Any]]:
        """Execute code to its end; return the contents of what it displayed."""
        request = self.begin(code)
        self.end(request)
        return self.outputs(request)

    def cell(self, code: str) -> str:
        """Execute a person's cell to its end; return the texts that it shows."""
        request = self.begin(code, history=True)
        self.end(request)
        shown = self.outputs(request)
        texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in shown]
        errors = [f"{one['ename']}: {one['evalue']}" for one in shown if one["kind"] == "error"]
        return "\n".join([*map(str, texts), *errors])

    def outputs(self, request: str) -> list[dict[str, Any]]:
        """Return what a cell shows: its outputs, each as it was last updated."""
        found: dict[str, dict[str, Any]] = {}
        for message in self.messages:
            content, kind = message["content"], message["msg_type"]
            of_cell = message["parent_header"].get("msg_id") == request
            place = (content.get("transient") or {}).get("display_id") or message["msg_id"]
            shows = kind in ("display_data", "execute_result", "error", "stream") and of_cell
            if shows or (kind == "update_display_data" and place in found):
                found[place] = {"kind": found.get(place, {}).get("kind", kind), **content}
        return list(found.values())

    def states(self, request: str) -> list[dict[str, Any]]:
        """Return the timelines that a cell shows."""
        shown = [output.get("data", {}) for output in self.outputs(request)]
        return [data[MEDIA_TYPE] for data in shown if MEDIA_TYPE in data]

    def subshell(self) -> str:
        """Make a subshell, as the component does for Stop."""
        message = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(message)
        reply = self.client.control_channel.get_msg(timeout=SECONDS)
        return str(reply["content"]["subshell_id"])

    def press(self, *, beside: bool = False, **asked: Any) -> dict[str, Any]:
        """Ask what a button asks, in the component's own words; return the reply."""
        request = self.begin(spoken(asked), subshell=self.subshell() if beside else None)
        self.end(request)
        shown = [output for output in self.outputs(request) if REPLY in output.get("data", {})]
        assert shown, self.outputs(request)
        return dict(shown[-1]["data"][REPLY])

    def until_file(self, name: str) -> None:
        """Wait until the kernel's code has made a file."""
        until = time.monotonic() + SECONDS
        while not (self.folder / name).exists():
            assert time.monotonic() < until, self.messages[-3:]
            time.sleep(0.01)


def spoken(asked: dict[str, Any]) -> str:
    """Return the code by which the component asks."""
    said = json.dumps(json.dumps(asked))
    return f'__import__("notebook_agents.ui.actions", fromlist=["request"]).request({said})'


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """Start a kernel in a folder, with the agents of `GRAPHS`."""
    made = Kernel(folder)
    try:
        yield made
    finally:
        made.close()
