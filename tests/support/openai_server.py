"""A chat model over HTTP: enough of OpenAI's chat-completions API for OpenAI's own client.

It runs in the test's process, so it outlives the agent it serves, and it keeps every request it
ever got. What it answers depends on the messages alone: the same conversation gets the same reply,
and a conversation that is sent twice stands in the log twice.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMPT_TOKENS = 11
COMPLETION_TOKENS = 7


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A reply that was asked for.

    Attributes:
        number: 1 for the server's first, counted over all clients.
        body: The request as the client sent it.
        authorization: Its header of that name.
    """

    number: int
    body: dict[str, Any]
    authorization: str

    @property
    def conversation(self) -> str:
        """The messages, in a form that can be compared and counted."""
        return json.dumps(self.body["messages"], sort_keys=True)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Something that a tool did outside, told to the server by `GET /effects?…`.

    Attributes:
        name: What it did.
        key: Under which idempotency key.
    """

    name: str
    key: str


@dataclass(slots=True)
class ModelServer:
    """A scripted model on a port of this machine; use it in a `with`.

    It asks for the tool `lookup` once for each of `items`, one turn after the other, and then
    answers with what the tool said.

    Attributes:
        items: What it wants looked up.
        model_calls: Every request for a reply, in the order of their arrival.
        tool_calls: Every effect that a tool told of.
        arrived: Called with each request before anything is replied; may kill the client.
        replied: Called with each request after all of its reply was sent.
    """

    items: tuple[str, ...] = ("tin", "oak", "jet")
    model_calls: list[ModelCall] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    arrived: Callable[[ModelCall | ToolCall], None] = lambda _: None
    replied: Callable[[ModelCall | ToolCall], None] = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _http: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = False  # they are joined: their calls are counted before the end
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._http is not None
        assert self._thread is not None
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        assert self._http is not None, "the server runs inside a `with` only"
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def answer(self) -> str:
        """The text of its last reply in an undisturbed conversation."""
        return "Looked up: " + "; ".join(f"{item} is {item.upper()}" for item in self.items)

    def reply(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the message that follows `messages`."""
        found = [str(message["content"]) for message in messages if message["role"] == "tool"]
        if len(found) == len(self.items):
            return {"role": "assistant", "content": "Looked up: " + "; ".join(found)}
        function = {"name": "lookup", "arguments": json.dumps({"item": self.items[len(found)]})}
        call = {"id": f"call_{len(found)}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def take_model_call(self, body: dict[str, Any], authorization: str) -> ModelCall:
        """Log a request for a reply."""
        with self._lock:
            call = ModelCall(len(self.model_calls) + 1, body, authorization)
            self.model_calls.append(call)
        return call

    def take_tool_call(self, name: str, key: str) -> ToolCall:
        """Log an effect."""
        call = ToolCall(name, key)
        with self._lock:
            self.tool_calls.append(call)
        return call


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self.send_error(404)
                return
            call = server.take_model_call(body, self.headers["Authorization"])
            server.arrived(call)
            message = server.reply(body["messages"])
            if body.get("stream"):
                self._send("text/event-stream", b"".join(_events(call, message)))
            else:
                self._send("application/json", json.dumps(_completion(call, message)).encode())
            server.replied(call)

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            call = server.take_tool_call(query["name"][0], query["key"][0])
            server.arrived(call)
            self._send("text/plain", b"noted")
            server.replied(call)

        def _send(self, kind: str, content: bytes) -> None:
            try:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
            except ConnectionError:
                self.close_connection = True  # the client was killed; that is what it is for

        def log_message(self, *_: object) -> None:
            """Say nothing: the calls are the log."""

    return Handler


def _completion(call: ModelCall, message: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(message)}
    return {**_envelope(call, "chat.completion"), "choices": [choice], "usage": _usage()}


def _events(call: ModelCall, message: dict[str, Any]) -> Iterator[bytes]:
    """Yield the same reply as server-sent events: the words one by one, a tool call in two."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if text := message["content"]:
        deltas += [{"content": word + " "} for word in text.split(" ")[:-1]]
        deltas.append({"content": text.split(" ")[-1]})
    for index, tool_call in enumerate(message.get("tool_calls", ())):
        function = tool_call["function"]
        opened = {**tool_call, "index": index, "function": {**function, "arguments": ""}}
        rest = {"index": index, "function": {"arguments": function["arguments"]}}
        deltas += [{"tool_calls": [opened]}, {"tool_calls": [rest]}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": _reason(message)})
    envelope = _envelope(call, "chat.completion.chunk")
    for choice in choices:
        yield _event({**envelope, "choices": [choice], "usage": None})
    yield _event({**envelope, "choices": [], "usage": _usage()})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _envelope(call: ModelCall, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{call.number}",
        "object": kind,
        "created": 1_700_000_000,
        "model": call.body["model"],
    }


def _reason(message: dict[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def _usage() -> dict[str, int]:
    total = PROMPT_TOKENS + COMPLETION_TOKENS
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": total,
    }
