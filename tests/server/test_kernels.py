"""Conversations that a kernel of this very server drives."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from jupyter_client.blocking.client import BlockingKernelClient

from .served import SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from .served import Served

CELL = """
import time
from pathlib import Path
from typing import TypedDict
from langgraph.graph import StateGraph
import notebook_agents as na

class State(TypedDict, total=False):
    n: int

def wait(state):
    while not Path("free").exists():
        time.sleep(0.01)
    return {"n": 1}

graph = StateGraph(State)
graph.add_sequence([("wait", wait)])
graph.set_entry_point("wait")
na.Agent(graph, "waiter").run({"n": 0}, thread="t")
"""


def test_stop_of_what_a_kernel_drives(server: Served, folder: Path) -> None:
    """The kernel is named, and interrupted as its button does: it stays."""
    (folder / ".notebook_agents").mkdir()
    contents = f"{folder.name}/trip.ipynb"
    asked = {
        "path": contents,
        "name": "trip.ipynb",
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    made = server.raw("POST", "api/sessions", body=json.dumps(asked).encode())
    assert made.status == 201, made.body
    kernel = made.json["kernel"]["id"]
    runtime = server.root.parent / "jupyter_runtime_dir"
    client = BlockingKernelClient(connection_file=str(runtime / f"kernel-{kernel}.json"))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        request = client.execute(CELL)
        row = _running(server, contents)
        assert row["driver"]["kernel"] == kernel and row["notebook"] == contents
        assert server.ask("journals")["journals"][0]["notebooks"] == [contents]
        server.ask("threads/t/stop", "POST", notebook=contents)
        reply = client.get_shell_msg(timeout=SECONDS)
        while reply["parent_header"]["msg_id"] != request:  # whether it is ready was asked often
            reply = client.get_shell_msg(timeout=SECONDS)
        assert reply["content"]["status"] == "error"
        assert server.ask("threads/t", notebook=contents)["thread"]["status"] == "orphaned"
        assert client.execute_interactive("1 + 1", timeout=SECONDS)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        server.raw("DELETE", f"api/sessions/{made.json['id']}")


def _running(server: Served, contents: str) -> dict[str, dict[str, str]]:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        answer = server.raw("GET", f"notebook-agents/api/threads?notebook={contents}")
        rows = answer.json.get("threads", [])
        if rows and rows[0]["intended"]:
            found: dict[str, dict[str, str]] = rows[0]
            return found
        time.sleep(0.05)  # between two questions: there is no journal yet that could be watched
    raise AssertionError(server.log)
