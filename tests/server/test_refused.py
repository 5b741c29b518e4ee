"""Who may not ask, what is not shown, and what stays data."""

from __future__ import annotations

import json
import os
import pickle
import re
import sqlite3
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import pytest

import notebook_agents as na

from .agents import MARKUP, add, ask, chained, fail
from .openapi import API
from .served import Served, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .served import Answer

ROOT = "notebook-agents/api"
OPERATIONS = [
    (verb.upper(), re.sub(r"\{\w+\}", "t", path))
    for path, verbs in API["paths"].items()
    for verb in verbs
]
WRITES = [one for one in OPERATIONS if one[0] != "GET"]
every = pytest.mark.parametrize(("verb", "path"), OPERATIONS)
writing = pytest.mark.parametrize(("verb", "path"), WRITES)


@pytest.fixture(scope="module")
def denying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a server whose authorizer denies writes to `notebook_agents`."""
    served = Served(tmp_path_factory.mktemp("denying"), read_only=True)
    try:
        served.wait()
        yield served
    finally:
        served.close()


@pytest.fixture
def kept(journal: na.Journal) -> Iterator[None]:
    """Have a conversation, and see that nothing has happened to it."""
    na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="t")
    before = journal.newest()
    yield
    assert [info.thread for info in journal.threads()] == ["t"]
    assert journal.newest() == before


def sent(served: Served, verb: str, path: str, where: str, **options: Any) -> Answer:
    """Send a request, with a body where there is one."""
    body = b"{}" if verb == "POST" else None
    return served.raw(verb, f"{ROOT}{path}?journal={where}", body=body, **options)


def refused(answer: Answer, *statuses: int) -> None:
    """Check that it is refused, in JSON."""
    assert answer.status in statuses, answer
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-content-type-options"] == "nosniff"


def cookies(served: Served) -> tuple[str, str]:
    """Return a logged-in browser's cookies, and its XSRF token."""
    answer = served.raw("GET", f"?token={served.token}", token=None)
    cookie: SimpleCookie = SimpleCookie()
    for header in answer.cookies:
        cookie.load(header)
    said = "; ".join(f"{name}={one.value}" for name, one in cookie.items())
    return said, cookie["_xsrf"].value


@every
@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token(
    server: Served, kept: None, where: str, verb: str, path: str, token: str | None
) -> None:
    """No token and a wrong one are refused by every verb of every route."""
    refused(sent(server, verb, path, where, token=token), 403)


@writing
def test_without_the_xsrf_token(
    server: Served, kept: None, where: str, verb: str, path: str
) -> None:
    """A page that has the cookies and not the XSRF token changes nothing."""
    cookie, xsrf = cookies(server)
    reads = server.raw("GET", f"{ROOT}/about", token=None, headers={"Cookie": cookie})
    assert reads.status == 200, "the cookies are those of somebody who is logged in"
    answer = sent(server, verb, path, where, token=None, headers={"Cookie": cookie})
    refused(answer, 403)
    assert b"_xsrf" in answer.body
    version, mask, token, made = xsrf.split("|")
    wrong = {"Cookie": cookie, "X-XSRFToken": "|".join((version, mask, token[::-1], made))}
    refused(sent(server, verb, path, where, token=None, headers=wrong), 403)


def test_with_the_xsrf_token(server: Served, journal: na.Journal, where: str) -> None:
    """A page of the server's own may."""
    na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="t")
    cookie, xsrf = cookies(server)
    headers = {"Cookie": cookie, "X-XSRFToken": xsrf}
    answer = sent(server, "DELETE", "/threads/t", where, token=None, headers=headers)
    assert answer.status == 200, answer


@every
def test_from_a_foreign_origin(
    server: Served, kept: None, where: str, verb: str, path: str
) -> None:
    """A page of elsewhere is refused, although the browser has the cookies."""
    cookie, xsrf = cookies(server)
    headers = {"Cookie": cookie, "X-XSRFToken": xsrf, "Origin": "https://evil.example"}
    answer = sent(server, verb, path, where, token=None, headers=headers)
    refused(answer, 403, 404)
    assert "access-control-allow-origin" not in answer.headers


@writing
def test_an_authorizer_that_denies_writes(
    denying: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, path: str
) -> None:
    """Every verb is asked of the authorizer, under the extension's own resource."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(denying.data))
    home = denying.root / tmp_path.name
    with na.Journal.open(home) as journal:
        na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="t")
        before = journal.newest()
        refused(sent(denying, verb, path, tmp_path.name), 403)
        assert journal.newest() == before
    assert denying.ask("threads", journal=tmp_path.name)["total"] == 1, "reads are allowed"


@pytest.mark.parametrize(
    "query",
    [
        {"journal": "../outside"},
        {"journal": "/../outside"},
        {"journal": "a/../../outside"},
        {"journal": "linked"},
        {"notebook": "../outside/x.ipynb"},
        {"notebook": "linked/x.ipynb"},
        {"notebook": "beside/x.ipynb"},
    ],
)
@pytest.mark.parametrize("path", ["threads", "health", "journal/size", "events"])
def test_a_journal_outside_the_root(
    server: Served, monkeypatch: pytest.MonkeyPatch, path: str, query: Mapping[str, str]
) -> None:
    """Whichever way a path leads out of the root: it is said, and nothing of it is shown."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(server.data))
    outside = server.root.parent / "outside"
    if not outside.exists():
        with na.Journal.open(outside / ".notebook_agents") as journal:
            na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="secret")
        (server.root / "linked").symlink_to(outside)
        (server.root / "beside").mkdir()
        (server.root / "beside" / ".notebook_agents").symlink_to(outside / ".notebook_agents")
    found = server.ask(path, expect=404, **query)
    assert found["code"] == "journal_outside_root"
    assert str(outside) not in found["message"]


def test_a_configured_journal_outside_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused too, and the variable is named."""
    with na.Journal.open(tmp_path / "elsewhere"):
        pass
    served = Served(tmp_path / "served", NOTEBOOK_AGENTS_HOME=str(tmp_path / "elsewhere"))
    try:
        served.wait()
        found = served.ask("threads", expect=404)
        assert found["code"] == "journal_outside_root"
        assert "NOTEBOOK_AGENTS_HOME" in found["message"]
        assert served.ask("journals") == {"journals": []}
    finally:
        served.close()


@pytest.mark.parametrize("path", ["a\0b", "x" * 5_000])
def test_paths_that_are_none(server: Served, path: str) -> None:
    """They are refused as such."""
    assert server.ask("threads", journal=path, expect=400)["code"] == "bad_request"
    assert server.ask("threads", journal="x" * 300, expect=404)["code"] == "no_journal"


def test_no_path_leads_out_of_the_api(server: Served) -> None:
    """The routes take no path apart."""
    for path in (
        "threads/../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "threads/t/../../about/x",
    ):
        assert server.raw("GET", f"{ROOT}/{path}").status == 404


def test_markup_stays_data(server: Served, journal: na.Journal, where: str) -> None:
    """Markup in names, results and errors is JSON that no browser takes for a page."""
    thread, node = f"t{MARKUP}", re.sub(r"[:|/]", "", MARKUP)

    def returns(state: object) -> dict[str, object]:
        return {"said": MARKUP}

    agent = na.Agent(chained((node, returns), fail), f"a{MARKUP}", journal)
    with pytest.raises(RuntimeError):
        agent.run({"n": 0}, thread=thread)
    name = named(thread)
    state = server.ask(f"threads/{name}/runs/1", journal=where)
    assert state["thread"] == thread and state["steps"][0]["name"] == node
    assert MARKUP in state["error"]
    paths = ["threads", f"threads/{name}", f"threads/{name}/runs/1", "threads/none%3Cscript%3E"]
    paths += [f"threads/{name}/steps/{step['id']}" for step in state["steps"]]
    for path in paths:
        answer = server.raw("GET", f"{ROOT}/{path}?journal={where}")
        assert b"<" not in answer.body, "also where somebody sniffs"
        assert answer.headers["content-type"].partition(";")[0] in (
            "application/json",
            "application/vnd.notebook-agents.timeline.v1+json",
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.open, (self.path, os.O_CREAT | os.O_WRONLY)


def test_no_pickle_is_loaded(
    server: Served, home: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickles in a result, a state, a question and a definition are told of, and never loaded."""
    sprung = tmp_path / "sprung"
    trap = b"c" + pickle.dumps(Trap(sprung), 5)
    from notebook_agents import pickling

    assert isinstance(pickling.loads(trap), int) and sprung.exists(), "the trap is one"
    sprung.unlink()

    # Whatever is pickled on its way into this journal is the trap: the seals are right.
    monkeypatch.setattr(pickling, "dumps", lambda *_args, **_options: trap)
    with na.Journal.open(home) as journal:
        person = na.Agent(chained(returns_a_set, asks_a_set), "trapped", journal)
        person.run({"n": 0}, thread="t")
        state = server.ask("threads/t/runs/newest", journal=where)
        assert state["status"] == "waiting" and len(state["interrupts"]) == 1
        for step in state["steps"]:
            found = server.ask(f"threads/t/steps/{step['id']}", journal=where)
            if step["name"] == "returns_a_set":
                assert found["result"]["kind"] in ("pickle", "json")
                assert "not opened" in found["result"]["text"]
        stream = server.stream(journal=where, thread="t")
        stream.until("run")
        stream.close()
        server.ask("threads/t", journal=where)
        server.ask("threads/t/cancel", "POST", journal=where, expect=409)
        server.ask("threads/t/fork", "POST", journal=where, sent={"name": "u"}, expect=201)
        server.ask("threads/t", "DELETE", journal=where, unfinished="true")
        server.ask("journal/compact", "POST", journal=where)
        server.ask("health", journal=where)
    assert not sprung.exists()


def returns_a_set(state: object) -> dict[str, object]:
    """Return what is kept as a pickle."""
    return {"said": {1, 2}}


def asks_a_set(state: object) -> dict[str, object]:
    """Ask what is kept as a pickle."""
    from langgraph.types import interrupt

    return {"said": interrupt({3, 4})}


def test_without_the_key(
    server: Served, journal: na.Journal, where: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Heads are shown, contents are not, and it is said which key is missing."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder / "another"))
    home = folder / "locked"
    with na.Journal.open(home) as locked:
        na.Agent(chained(add, ask), "asker", locked).run({"n": 0}, thread="t")
    path = str(home.relative_to(server.root))
    assert server.ask("threads", journal=path)["threads"][0]["status"] == "waiting"
    told = server.ask("threads/t", journal=path)
    assert told["closed_code"] == "key_missing" and "key" in told["closed"]
    state = server.ask("threads/t/runs/1", journal=path)
    assert state["interrupts"] == [] and state["steps"][0]["args"] is None
    found = server.ask(f"threads/t/steps/{state['steps'][0]['id']}", journal=path)
    assert found["result"]["kind"] == "text" and "key" in found["result"]["text"]
    assert found["before"] is None and "key" in found["state_error"]
    refused_ = server.ask("threads/t/fork", "POST", journal=path, expect=409)
    assert refused_["code"] == "key_missing"
    health = server.ask("health", journal=path, expect=503)
    assert health["failed"] == ["journal"]


def test_a_damaged_journal(server: Served, home: Path, where: str) -> None:
    """Its page is told so, with the command that repairs it; /health names the check."""
    with na.Journal.open(home) as journal:
        na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="t")
    path = home / "queue.sqlite"
    path.write_bytes(path.read_bytes()[:100] + os.urandom(8_000))
    found = server.ask("threads", journal=where, expect=409)
    assert found["code"] == "journal_damaged" and "journal repair" in found["message"]
    assert server.ask("health", journal=where, expect=503)["failed"] == ["journal"]
    assert server.ask("events", journal=where, expect=409)["code"] == "journal_damaged"


def test_a_journal_of_a_newer_version(server: Served, home: Path, where: str) -> None:
    """It is not read, and what to do is said."""
    with na.Journal.open(home):
        pass
    (home / "queue.mark").unlink(missing_ok=True)
    with sqlite3.connect(home / "queue.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    found = server.ask("threads", journal=where, expect=409)
    assert found["code"] == "journal_newer" and "upgrade" in found["message"]


def test_no_journal_yet(server: Served, folder: Path) -> None:
    """It is said how one is made."""
    found = server.ask("threads", notebook=f"{folder.name}/new.ipynb", expect=404)
    assert found["code"] == "no_journal" and "run an agent" in found["message"]
    assert server.ask("health", notebook=f"{folder.name}/new.ipynb", expect=404)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("threads", {"limit": "0"}),
        ("threads", {"limit": "5000"}),
        ("threads", {"limit": "a"}),
        ("threads", {"status": "well"}),
        ("threads", {"after": "x"}),
        ("threads", {"after": "999999999999999999.t"}),
        ("threads", {"search": "x" * 501}),
        ("threads/t/runs/0", {}),
        ("threads/t/runs/x", {}),
    ],
)
def test_what_is_asked_wrongly(
    server: Served, journal: na.Journal, where: str, path: str, query: Mapping[str, str]
) -> None:
    """It is said what would be right."""
    assert server.ask(path, journal=where, expect=400, **query)["code"] == "bad_request"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"other": 1}',
        b'{"step": 1, "happened": true}',
        b'{"step": "\\ud800", "happened": true}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_none(
    server: Served, kept: None, journal: na.Journal, where: str, body: bytes
) -> None:
    """They change nothing."""
    answer = server.raw("POST", f"{ROOT}/threads/t/resolve?journal={where}", body=body)
    refused(answer, 400)
    assert json.loads(answer.body)["code"] == "bad_request"
