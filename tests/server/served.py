"""A real Jupyter Server with the extension, and what a front end asks of it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from .openapi import checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECONDS = 60.0
ENABLING = (
    Path(__file__).parents[2] / "extensions/jupyter-config/server-config/notebook_agents.json"
)
"""What a wheel puts where Jupyter Server looks for extensions."""
_AUTHORIZER = """
from jupyter_server.auth import Authorizer


class ReadOnly(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return action == "read" or resource != "notebook_agents"
"""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: By lower-case name.
        body: The bytes.
        cookies: What it sets.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Served:
    """A server of its own, which knows nothing of this user.

    Args:
        folder: Where its root, settings and log are.
        read_only: Whether its authorizer denies writes to the extension's resource.
        env: Variables of its environment.
    """

    token = "server-test"

    def __init__(self, folder: Path, *, read_only: bool = False, **env: str) -> None:
        self.root = folder / "work"
        self.root.mkdir(parents=True)
        self.data = folder / "data"
        self.base = "/a%40b/"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        here = {name: str(folder / name.lower()) for name in places}
        enabled = folder / "etc" / "jupyter_server_config.d"
        enabled.mkdir(parents=True)
        shutil.copy(ENABLING, enabled)
        here |= {"JUPYTER_DATA_DIR": str(self.data), "JUPYTER_CONFIG_PATH": str(enabled.parent)}
        here |= env
        environment = {**os.environ, **here}
        if "NOTEBOOK_AGENTS_HOME" not in env:
            environment.pop("NOTEBOOK_AGENTS_HOME", None)
        options = []
        if read_only:
            (folder / "readonly.py").write_text(_AUTHORIZER)
            environment["PYTHONPATH"] = f"{folder}:{environment.get('PYTHONPATH', '')}"
            options.append("--ServerApp.authorizer_class=readonly.ReadOnly")
        self._log = (folder / "server.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0"),
                f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.root}",
                "--ServerApp.base_url=/a%40b/",
                *options,
            ],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        """What it said."""
        with open(self._log.name, encoding="utf-8") as file:  # noqa: PTH123 - a name of a file
            return file.read()

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                self.raw("GET", "api/status")
            except OSError:
                time.sleep(0.05)  # between two questions: nothing tells when it listens
            else:
                return
        raise AssertionError(f"the server does not answer: {self.log}")

    def close(self) -> None:
        """End it, and its kernels with it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()

    def raw(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = token,
    ) -> Answer:
        """Send a request as it is, to a path below the base URL."""
        sent = {} if token is None else {"Authorization": f"token {token}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(
                method, self.base + path, body=body, headers={**sent, **(headers or {})}
            )
            got = connection.getresponse()
            found = {name.lower(): value for name, value in got.getheaders()}
            set_ = tuple(got.headers.get_all("Set-Cookie") or ())
            return Answer(got.status, found, got.read(), set_)
        finally:
            connection.close()

    def ask(
        self, path: str, method: str = "GET", *, sent: Any = None, expect: int = 200, **query: Any
    ) -> Any:
        """Ask the extension something; check the answer against openapi.json, and return it.

        Args:
            path: Below `notebook-agents/api/`, with its names quoted.
            method: The verb.
            sent: What is sent as JSON.
            expect: The status that has to come back.
            query: The query.
        """
        said = urlencode({name: value for name, value in query.items() if value is not None})
        body = None if method in ("GET", "DELETE") else json.dumps(sent or {}).encode()
        answer = self.raw(method, f"notebook-agents/api/{path}{'?' * bool(said)}{said}", body=body)
        assert answer.status == expect, (
            f"{answer.status}: {answer.body[:2000]!r}\n{self.log[-3000:]}"
        )
        checked(method, path, answer.status, answer.headers, answer.json)
        return answer.json

    def stream(self, **query: Any) -> Stream:
        """Watch the extension's events."""
        return Stream(self, query)


class Stream:
    """Events as they come."""

    def __init__(self, served: Served, query: Mapping[str, Any]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=SECONDS)
        headers = {"Authorization": f"token {served.token}"}
        path = f"{served.base}notebook-agents/api/events?{urlencode(query)}"
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield names and data of events, checked against openapi.json."""
        from .openapi import checked_event

        name = ""
        for line in self.response:
            said = line.decode().rstrip("\n")
            if said.startswith("event: "):
                name = said.removeprefix("event: ")
            elif said.startswith("data: "):
                data = json.loads(said.removeprefix("data: "))
                checked_event(name, data)
                yield name, data

    def until(self, wanted: str, holds: Any = lambda data: True) -> Any:
        """Return the data of the next event of a name for which something holds."""
        for name, data in self:
            if name == wanted and holds(data):
                return data
        raise AssertionError(f"the stream ended before a {wanted!r}")

    def close(self) -> None:
        """Watch no more."""
        self.response.close()
        self._connection.close()


def named(name: str) -> str:
    """Return a thread's or step's name as it stands in a path."""
    return quote(name, safe="")
