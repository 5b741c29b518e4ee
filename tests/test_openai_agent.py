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
from dataclasses import dataclass, field
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
class Bench:
    """A model server, a journal's directory, and the process that is at work now."""

    server: ModelServer
    folder: Path
    streaming: bool = False
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "OPENAI_API_KEY": SECRET,
            "MODEL_SERVER": self.server.url,
            "STREAMING": str(int(self.streaming)),
            "NOTEBOOK_AGENTS_HOME": str(self.journal),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "LANGSMITH_TRACING": "false",
            "PYTHONWARNINGS": "ignore",  # of other people's packages, on stderr
        }

    def python(self, program: str, *, main: bool) -> Ended:
        """Run a program to its end: as a script with a `__main__`, or in an empty interpreter."""
        script = self.folder / "agent.py"
        script.write_text(program)
        command = [sys.executable, str(script)] if main else [sys.executable, "-c", program]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            cwd=self.folder,
        ) as self._process:
            out, err = self._process.communicate(timeout=SECONDS)
        return Ended(self._process.returncode, out, err)

    def kill(self) -> None:
        """Kill the process that is at work, and come back when it is dead."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)

    def kill_once(self, due: Callable[[ModelCall | ToolCall], bool]) -> Callable[..., None]:
        """Return a hook that kills at the first call that is `due`."""
        done: list[bool] = []

        def hook(call: ModelCall | ToolCall) -> None:
            if not done and due(call):
                done.append(True)
                self.kill()

        return hook

    def opened_records(self) -> list[bytes]:
        """Return every record of the journal as it was before it was compressed and sealed."""
        with na.Journal.open(self.journal, create=False) as journal:
            seqs = [record.seq for record in journal.select()]
            return [decompress(payload) for payload in journal.payloads(seqs).values()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Put a fresh journal beside a running model server."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    with ModelServer() as server:
        yield Bench(server, tmp_path)


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
    """

    hook: str
    due: Callable[[ModelCall | ToolCall], bool]
    reply: int = 0
    tool: str = ""


MOMENTS = {
    "first reply asked for": Moment(hook="arrived", due=_model_call(1), reply=1),
    "third reply asked for": Moment(hook="arrived", due=_model_call(3), reply=3),
    "second reply sent": Moment(hook="replied", due=_model_call(2), reply=2),
    "last reply sent": Moment(hook="replied", due=_model_call(4), reply=4),
    "in the first tool call": Moment(hook="arrived", due=_tool_call("tin"), tool="tin"),
    "last tool call made": Moment(hook="replied", due=_tool_call("jet"), tool="jet"),
}
STREAMED = ("third reply asked for", "second reply sent")


@pytest.mark.crash
@pytest.mark.parametrize(
    ("name", "streaming"),
    [*((name, False) for name in MOMENTS), *((name, True) for name in STREAMED)],
)
def test_no_reply_is_asked_for_twice(bench: Bench, name: str, *, streaming: bool) -> None:
    """Only what was under way at the kill is asked again, in the same words, under the same key."""
    moment, server = MOMENTS[name], bench.server
    bench.streaming = streaming
    setattr(server, moment.hook, bench.kill_once(moment.due))
    assert bench.python(AGENT, main=True).code == -signal.SIGKILL
    under_way = server.model_calls[moment.reply - 1].conversation if moment.reply else None

    resumed = bench.python(EMPTY, main=False)

    assert (resumed.code, resumed.out.strip()) == (0, server.answer), resumed.err
    asked = Counter(call.conversation for call in server.model_calls)
    assert len(asked) == len(server.items) + 1
    assert all(count == 1 or text == under_way for text, count in asked.items())
    assert asked[under_way] <= 2
    made = Counter(call.name for call in server.tool_calls)
    assert set(made) == set(server.items)
    assert all(count == 1 or item == moment.tool for item, count in made.items())
    assert len({call.key for call in server.tool_calls}) == len(server.items)


@pytest.mark.crash
def test_every_reply_that_returned_is_kept_over_several_kills(bench: Bench) -> None:
    """Each process is killed at its second request; the next asks for that reply alone again."""
    server, program, main = bench.server, AGENT, True
    turns = len(server.items) + 1
    for number in range(2, 2 * turns, 2):
        server.arrived = bench.kill_once(_model_call(number))
        assert bench.python(program, main=main).code == -signal.SIGKILL
        program, main = EMPTY, False

    resumed = bench.python(EMPTY, main=False)

    assert (resumed.code, resumed.out.strip()) == (0, server.answer), resumed.err
    asked = [call.conversation for call in server.model_calls]
    first, *others = dict.fromkeys(asked)
    assert len(others) == turns - 1
    assert asked == [first, *(text for other in others for text in (other, other))]


@pytest.mark.crash
def test_the_key_to_the_model_is_nowhere_in_the_journal(bench: Bench) -> None:
    """The client's secret is in no file and, opened, in no record; a resume takes it anew."""
    bench.server.arrived = bench.kill_once(_model_call(3))
    assert bench.python(AGENT, main=True).code == -signal.SIGKILL
    assert bench.python(EMPTY, main=False).code == 0

    headers = {call.authorization for call in bench.server.model_calls}
    assert headers == {f"Bearer {SECRET}"}
    for path in bench.journal.rglob("*"):
        if path.is_file():
            assert not _finds(SECRET, path.read_bytes()), path
    opened = bench.opened_records()
    # The search would see it: it sees the rest of the captured client.
    assert any(_finds(MODEL, record) for record in opened)
    assert not any(_finds(SECRET, record) for record in opened)


def _finds(text: str, content: bytes) -> bool:
    """Whether `text` is in `content`, plain, as hex or, at any offset, as base64."""
    raw = text.encode()
    forms = {raw, raw.hex().encode()}
    for offset in range(3):
        # The characters that the neighbouring bytes share in are left out.
        encoded = base64.b64encode(b"\0" * offset + raw)
        forms.add(encoded[4 if offset else 0 : len(encoded) // 4 * 4 - 4])
    return any(form in content for form in forms)
