"""A `create_agent` graph with OpenAI's own client, killed, and resumed by an empty process.

The model is an HTTP server in this process, so what was asked of it is counted where no kill
reaches.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.openai_server import ModelCall, ModelServer, ToolCall

import notebook_agents as na
from notebook_agents.journal.records import decompress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "sk-planted-6c1f2a7be94d40d0a35588f1"
MODEL = "gpt-scripted-1"
SECONDS = 120.0

AGENT = f"""
import os
from urllib.parse import urlencode
from urllib.request import urlopen

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import notebook_agents as na

SERVER = os.environ["MODEL_SERVER"]


@tool
def lookup(item: str) -> str:
    \"\"\"Look an item up.\"\"\"
    query = urlencode({{"name": item, "key": na.idempotency_key()}})
    urlopen(f"{{SERVER}}/effects?{{query}}").read()
    return f"{{item}} is {{item.upper()}}"


model = ChatOpenAI(
    model="{MODEL}",
    base_url=f"{{SERVER}}/v1",
    streaming=os.environ["STREAMING"] == "1",
    max_retries=0,
)
agent = na.Agent(create_agent(model, [lookup], system_prompt="Look things up."), name="research")
run = agent.run({{"messages": [("user", "What are they?")]}}, thread="research")
print(run.value["messages"][-1].content)
"""

EMPTY = """
import notebook_agents as na

print(na.resume("research").value["messages"][-1].content)
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Scene:
    """A model server, and the process that is at work with it."""

    server: ModelServer
    folder: Path
    _process: subprocess.Popen[str] | None = None

    def agent(self, *, streaming: bool = False) -> Ended:
        """Run the agent's script."""
        script = self.folder / "agent.py"
        script.write_text(AGENT)
        return self._run(str(script), STREAMING=str(int(streaming)))

    def resumed(self) -> Ended:
        """Resume in an interpreter that has nothing of the agent."""
        return self._run("-c", EMPTY)

    def _run(self, *arguments: str, **environment: str) -> Ended:
        set_here = {"OPENAI_API_KEY": SECRET, "MODEL_SERVER": self.server.url}
        with subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **set_here, **environment},
            cwd=self.folder,
        ) as self._process:
            out, err = self._process.communicate(timeout=SECONDS)
        return Ended(self._process.returncode, out, err)

    def kill_once(self, due: Callable[[ModelCall | ToolCall], bool]) -> Callable[..., None]:
        """Return a hook that kills the process at the first call that is `due`."""
        done: list[bool] = []

        def hook(call: ModelCall | ToolCall) -> None:
            if not done and due(call):
                done.append(True)
                assert self._process is not None
                self._process.kill()
                self._process.wait(SECONDS)  # dead before the server does anything more

        return hook


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Put a running model server beside an empty folder."""
    with ModelServer() as server:
        yield Scene(server, tmp_path)


def _model_call(number: int) -> Callable[[ModelCall | ToolCall], bool]:
    return lambda call: isinstance(call, ModelCall) and call.number == number


def _tool_call(name: str) -> Callable[[ModelCall | ToolCall], bool]:
    return lambda call: isinstance(call, ToolCall) and call.name == name


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When the agent's process is killed, and what was under way then.

    Attributes:
        hook: Which of the server's hooks kills.
        due: The call at which it does.
        reply: The number of the reply that may be asked for a second time, or 0.
        tool: The tool call that may be made a second time, or "".
        streaming: Whether the model's replies are streamed.
    """

    hook: str
    due: Callable[[ModelCall | ToolCall], bool]
    reply: int = 0
    tool: str = ""
    streaming: bool = False


MOMENTS = {
    "first reply asked for": Moment(hook="arrived", due=_model_call(1), reply=1),
    "second reply sent": Moment(hook="replied", due=_model_call(2), reply=2, streaming=True),
    "last reply sent": Moment(hook="replied", due=_model_call(4), reply=4),
    "in the first tool call": Moment(hook="arrived", due=_tool_call("tin"), tool="tin"),
    "last tool call made": Moment(hook="replied", due=_tool_call("jet"), tool="jet"),
}


@pytest.mark.crash
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_no_reply_is_asked_for_twice(scene: Scene, moment: Moment) -> None:
    """Only what was under way at the kill is asked again, in the same words, under the same key."""
    server = scene.server
    setattr(server, moment.hook, scene.kill_once(moment.due))
    assert scene.agent(streaming=moment.streaming).code == -signal.SIGKILL
    under_way = server.model_calls[moment.reply - 1].conversation if moment.reply else ""

    resumed = scene.resumed()

    assert (resumed.code, resumed.out.strip()) == (0, server.answer), resumed.err
    asked = Counter(call.conversation for call in server.model_calls)
    assert len(asked) == len(server.items) + 1
    assert asked.pop(under_way, 0) <= 2
    assert set(asked.values()) == {1}
    made = Counter(call.name for call in server.tool_calls)
    assert set(made) == set(server.items)
    assert made.pop(moment.tool, 0) <= 2
    assert set(made.values()) == {1}
    assert len({call.key for call in server.tool_calls}) == len(server.items)


@pytest.mark.crash
def test_every_reply_that_returned_is_kept_over_several_kills(scene: Scene) -> None:
    """Each process is killed at its second request; the next asks for that reply alone again."""
    server, live = scene.server, scene.agent
    turns = len(server.items) + 1
    for number in range(2, 2 * turns, 2):
        server.arrived = scene.kill_once(_model_call(number))
        assert live().code == -signal.SIGKILL
        live = scene.resumed

    resumed = live()

    assert (resumed.code, resumed.out.strip()) == (0, server.answer), resumed.err
    asked = [call.conversation for call in server.model_calls]
    first, *others = dict.fromkeys(asked)
    assert len(others) == turns - 1
    assert asked == [first, *(text for other in others for text in (other, other))]


@pytest.mark.crash
def test_the_key_to_the_model_is_nowhere_in_the_journal(scene: Scene) -> None:
    """The client's secret is in no file and, opened, in no record; a resume takes it anew."""
    scene.server.arrived = scene.kill_once(_model_call(3))
    assert scene.agent().code == -signal.SIGKILL
    files = [path.read_bytes() for path in _files(scene.folder)]
    assert scene.resumed().code == 0
    files += [path.read_bytes() for path in _files(scene.folder)]

    headers = {call.authorization for call in scene.server.model_calls}
    assert headers == {f"Bearer {SECRET}"}
    with na.Journal.open(create=False) as journal:
        records = journal.payloads([record.seq for record in journal.select()]).values()
        opened = [decompress(payload) for payload in records]
    assert not any(_finds(SECRET, content) for content in (*files, *opened))
    # The search would find it there: it finds the rest of the captured client.
    assert any(_finds(MODEL, record) for record in opened)


def _files(folder: Path) -> list[Path]:
    """Return every file at work here: the agent's script, the user's key, the journal."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "queue.sqlite" for path in files)
    return files


def _finds(text: str, content: bytes) -> bool:
    """Whether `text` is in `content`: plain, as hex or, at any offset, as base64."""
    raw = text.encode()
    forms = {raw, raw.hex().encode()}
    for offset in range(3):
        # What its first and last characters are depends on the neighbouring bytes.
        encoded = base64.b64encode(bytes(offset) + raw)
        forms.add(encoded[4:-4])
    return any(form in content for form in forms)
