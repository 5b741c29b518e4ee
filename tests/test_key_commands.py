"""`notebook-agents key …`: the ring, its passphrase, and what is never shown."""

from __future__ import annotations

import base64
import json
import os
import pty
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.manager import KernelManager
from support.checks import says, told
from test_rotation import fill, opens

from notebook_agents.errors import JournalFormatError, KeyMissingError, UsageError
from notebook_agents.journal import Journal
from notebook_agents.sealing import editing, keyfile, load_ring, passphrase

if TYPE_CHECKING:
    from collections.abc import Callable

PHRASE = "correct horse battery staple"
Cli = Any


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have scrypt take 40 ms and forget what other tests derived."""
    monkeypatch.setattr(passphrase, "COST", 2**14)
    monkeypatch.setattr(passphrase, "_derived", {})
    monkeypatch.delenv("NOTEBOOK_AGENTS_PASSPHRASE", raising=False)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Name the key file."""
    return tmp_path / "data" / "notebook_agents" / "keys.json"


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    """Write a passphrase to a file."""
    path = tmp_path / "phrase"
    path.write_text(PHRASE + "\n")
    return path


def raw_of(ring: Path) -> bytes:
    """Return the current key of a ring without a passphrase."""
    said = json.loads(ring.read_bytes())
    (text,) = [entry["key"] for entry in said["keys"] if entry["id"] == said["current"]]
    return base64.b64decode(text)


# -- the ring ----------------------------------------------------------------------------------


def test_new_and_list(ring: Path, home: Path, cli: Cli) -> None:
    """A first key, then another that new threads are sealed with; none is shown."""
    told(cli("key", "list"), 6, "key import")
    assert cli("key", "new").code == 0
    fill(home)
    assert cli("key", "new").code == 0
    fill(home, "later")
    ended = cli("key", "list", "--journal", str(home), "--json")
    said = json.loads(ended.out)
    assert said["file"] == str(ring)
    assert [(one["current"], one["wraps"], one["source"]) for one in said["keys"]] == [
        (True, 1, "file"),
        (False, 3, "file"),
    ]
    assert said["missing"] == []
    shown = cli("key", "list", "--journal", str(home))
    assert [line[:8] for line in shown.out.splitlines()] == [one["id"] for one in said["keys"]]
    for entry in json.loads(ring.read_bytes())["keys"]:
        assert entry["key"].rstrip("=") not in shown.out + ended.out
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600
    assert json.loads(cli("key", "list", "--json").out)["journal"] is None


def test_export_and_import(
    ring: Path, home: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key on its way to another computer opens there what it sealed here."""
    fill(home)
    out = tmp_path / "exported.json"
    assert cli("key", "export", str(out)).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    told(cli("key", "export", str(out)), 2, out, "is there already")
    told(cli("key", "export", str(tmp_path / "no" / "folder")), 2, "cannot be made")
    text = cli("key", "export", "-").out
    assert base64.b64decode(text) == raw_of(ring)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    editing.new()  # who is there has a key of his own
    own = load_ring().current_id
    with pytest.raises(KeyMissingError, match="key import"):
        opens(home)
    assert "added" in cli("key", "import", str(out)).out
    assert opens(home)
    assert load_ring().current_id == own
    assert "is in there already" in cli("key", "import", str(out)).out
    (tmp_path / "text").write_text(text)
    assert "new threads are sealed" in cli("key", "import", str(tmp_path / "text"), "--current").out
    assert load_ring().current_id != own


def test_import_where_there_is_no_ring(
    home: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first key of a new computer is the current one; when it was made is kept."""
    fill(home)
    cli("key", "export", str(tmp_path / "exported.json"))
    made = json.loads((tmp_path / "exported.json").read_bytes())["keys"][0]["created"]
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    assert cli("key", "import", str(tmp_path / "exported.json")).code == 0
    assert opens(home)
    assert json.loads(cli("key", "list", "--json").out)["keys"][0]["created"] == made


@pytest.mark.parametrize("text", ["", "no key", "{}", '{"v": 1, "current": "x", "keys": []}', "{"])
def test_what_is_no_key_is_not_imported(text: str, ring: Path, tmp_path: Path, cli: Cli) -> None:
    """It is said, and the ring stays as it is."""
    load_ring()
    before = ring.read_bytes()
    (tmp_path / "file").write_text(text)
    ended = cli("key", "import", str(tmp_path / "file"))
    assert ended.code in (2, 6)
    told(ended, ended.code, tmp_path / "file")
    told(cli("key", "import", str(tmp_path / "missing")), 2, "cannot be read")
    assert ring.read_bytes() == before


def test_a_key_is_removed_when_nothing_here_needs_it(home: Path, cli: Cli, ring: Path) -> None:
    """Not the current one, and none that the journal still needs."""
    fill(home)
    at = ("--journal", str(home))
    first = load_ring().current_id
    told(cli("key", "remove", first, "--yes", *at), 2, first, "key rotate")
    editing.new()
    told(cli("key", "remove", first, "--yes", *at), 2, first, "3 data keys", "key rotate")
    told(cli("key", "remove", load_ring().current_id, "--yes", *at), 2, "current")
    told(cli("key", "remove", "0badf00d", "--yes", *at), 2, "0badf00d", "key list")
    assert cli("key", "rotate", *at).code == 0
    assert cli("key", "remove", first, "--yes", *at).code == 0
    assert first not in load_ring().ids
    assert opens(home)


def test_two_changes_at_once_lose_no_key(ring: Path, forked: Callable[..., int]) -> None:
    """The second one waits for the first."""
    load_ring()
    with keyfile.changing(ring) as found:
        assert forked(lambda: os.execvp(sys.executable, [sys.executable, "-c", WAITS])) == 0
        found.put(keyfile.StoredKey.of(b"k" * 32, kdf=None, derived=b""))
    assert len(load_ring().ids) == 2


WAITS = """
import fcntl, os, pathlib
path = pathlib.Path(os.environ["JUPYTER_DATA_DIR"], "notebook_agents", ".keys.json.lock")
try:
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    raise SystemExit(0)
raise SystemExit(3)
"""


def test_what_a_kill_left_half_written_is_removed(ring: Path) -> None:
    """It has keys in it."""
    load_ring()
    left = ring.with_name(".keys.json.abc123")
    left.write_bytes(ring.read_bytes())
    os.utime(left, (0, 0))
    editing.new()
    assert not left.exists()
    assert len(load_ring().ids) == 2


def test_keys_of_a_newer_version_stay(ring: Path, cli: Cli) -> None:
    """A change here keeps what it does not understand."""
    load_ring()
    said = json.loads(ring.read_bytes())
    newer = {"id": "0badf00d", "created": "", "kdf": {"name": "kms"}, "key": "AAAA", "more": 1}
    ring.write_text(json.dumps({**said, "keys": [*said["keys"], newer]}))
    editing.new()
    assert newer in json.loads(ring.read_bytes())["keys"]
    with pytest.raises(UsageError, match="a newer version"):
        editing.protect(PHRASE)


# -- the passphrase ----------------------------------------------------------------------------


def test_a_ring_behind_a_passphrase(
    ring: Path, home: Path, phrase: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing opens without it, the variable answers, and the file has no key in it."""
    fill(home)
    raw = raw_of(ring)
    assert cli("key", "passphrase", "--passphrase-file", str(phrase)).code == 0
    said = json.loads(ring.read_bytes())["keys"][0]
    assert len(base64.b64decode(said["kdf"].pop("salt"))) == 16
    assert said["kdf"] == {"name": "scrypt", "n": 2**14, "r": 8, "p": 1}
    assert base64.b64encode(raw) not in ring.read_bytes()
    with pytest.raises(KeyMissingError) as caught:
        opens(home)
    says(caught.value, said["id"], ring, "NOTEBOOK_AGENTS_PASSPHRASE")
    assert json.loads(cli("key", "list", "--json").out)["keys"][0]["passphrase"]
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE + "!")
    with pytest.raises(KeyMissingError, match="NOTEBOOK_AGENTS_PASSPHRASE does not open it"):
        opens(home)
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE)
    assert opens(home)
    assert cli("key", "rotate", "--journal", str(home)).code == 0
    assert all(entry["kdf"] for entry in json.loads(ring.read_bytes())["keys"])
    assert opens(home)
    assert cli("key", "passphrase", "--remove").code == 0
    monkeypatch.delenv("NOTEBOOK_AGENTS_PASSPHRASE")
    assert opens(home)


def test_a_new_ring_behind_a_passphrase(home: Path, phrase: Path, ring: Path, cli: Cli) -> None:
    """The key never lies there without it."""
    assert cli("key", "new", "--passphrase-file", str(phrase)).code == 0
    assert json.loads(ring.read_bytes())["keys"][0]["kdf"]
    told(cli("key", "new", "--passphrase-file", str(phrase)), 2, "key passphrase")
    told(cli("key", "new"), 6, "NOTEBOOK_AGENTS_PASSPHRASE")  # the next would be in the clear
    assert cli("key", "new", NOTEBOOK_AGENTS_PASSPHRASE=PHRASE).code == 0
    assert len({entry["kdf"]["salt"] for entry in json.loads(ring.read_bytes())["keys"]}) == 1


def test_an_export_behind_a_passphrase(
    ring: Path, home: Path, phrase: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the passphrase of the export, not of the ring."""
    fill(home)
    out = tmp_path / "exported.json"
    assert cli("key", "export", str(out), "--passphrase-file", str(phrase)).code == 0
    assert base64.b64encode(raw_of(ring)) not in out.read_bytes()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    told(cli("key", "import", str(out)), 6, out, "passphrase")
    wrong = tmp_path / "wrong"
    wrong.write_text("something else")
    told(cli("key", "import", str(out), "--passphrase-file", str(wrong)), 6, out)
    assert cli("key", "import", str(out), "--passphrase-file", str(phrase)).code == 0
    assert opens(home)


@pytest.mark.parametrize("text", ["", "\n", "short", None])
def test_a_passphrase_that_is_none(text: str | None, ring: Path, tmp_path: Path, cli: Cli) -> None:
    """It is refused, and the ring stays as it is."""
    load_ring()
    before = ring.read_bytes()
    if text is not None:
        (tmp_path / "bad").write_text(text)
    ended = cli("key", "passphrase", "--passphrase-file", str(tmp_path / "bad"))
    told(ended, 2)
    told(cli("key", "passphrase"), 2, "no terminal", "NOTEBOOK_AGENTS_PASSPHRASE")
    assert ring.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [{"n": 2**40}, {"n": 2**21}, {"n": 2**10}, {"n": 2**14 + 1}, {"n": True}, {"r": 2**20},
     {"r": 1}, {"p": 2**20}, {"p": 0}, {"n": "16384"}, {"salt": "AAAA"}, {"salt": 7},
     {"name": "md5"}],
)  # fmt: skip
def test_parameters_are_bounded(
    change: dict[str, Any], ring: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody altered takes no memory, time or strength away."""
    fill(home)
    editing.protect(PHRASE)
    said = json.loads(ring.read_bytes())
    said["keys"][0]["kdf"] |= change
    ring.write_text(json.dumps(said))
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE)
    with pytest.raises(JournalFormatError, match="passphrase in a way"):
        opens(home)


@pytest.mark.parametrize("part", ["nonce", "key", "id"])
def test_an_altered_protected_key(part: str, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not open, under its own name or another one's."""
    load_ring()
    editing.protect(PHRASE)
    said = json.loads(ring.read_bytes())
    entry = said["keys"][0]
    if part == "id":
        entry["id"] = said["current"] = "0badf00d"
    else:
        changed = bytearray(base64.b64decode(entry[part]))
        changed[0] ^= 1
        entry[part] = base64.b64encode(changed).decode()
    ring.write_text(json.dumps(said))
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE)
    with pytest.raises(KeyMissingError, match="does not open it"):
        _ = load_ring().current


def test_a_passphrase_in_another_spelling(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What macOS and Linux type differently for one letter is one passphrase."""
    load_ring()
    editing.protect("Schlüssel am Haken")
    monkeypatch.setattr(passphrase, "_derived", {})
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", "Schlu\u0308ssel am Haken")
    assert load_ring().current.id == load_ring().current_id


def test_it_is_derived_once_a_process(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of a ring has the same salt, and nobody is asked twice."""
    editing.new()
    editing.protect(PHRASE)
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE)
    editing.new()
    made = list(passphrase._derived)
    ring_ = load_ring()
    assert [ring_.get(name).id for name in ring_.ids] == list(ring_.ids)
    assert list(passphrase._derived) == made


def test_somebody_is_asked_three_times(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one ring, however many threads ask for it; never outside the main thread."""
    load_ring()
    editing.protect(PHRASE)
    monkeypatch.setattr(passphrase, "_derived", {})
    questions: list[str] = []

    def ask(what: str) -> str:
        questions.append(what)
        return "not this one"

    monkeypatch.setattr(passphrase, "asked", ask)
    held = load_ring()
    for _ in range(3):
        with pytest.raises(KeyMissingError, match="what was typed does not open it"):
            _ = held.current
    assert len(questions) == 3
    assert str(ring) in questions[0]
    with pytest.raises(KeyMissingError, match="not opened yet"):
        load_ring().get(held.current_id, ask=False)
    assert len(questions) == 3


def test_it_is_asked_for_at_a_terminal(ring: Path, home: Path, tmp_path: Path) -> None:
    """Unseen, and not in the list of processes."""
    fill(home)
    editing.protect(PHRASE)
    main, terminal = pty.openpty()
    program = "import sys\nfrom notebook_agents.cli import main\nmain()"
    command = [sys.executable, "-c", program, "key", "rotate", "--journal", str(home)]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        seen = b""
        while b"passphrase of" not in seen:
            seen += os.read(main, 4096)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        os.write(main, PHRASE.encode() + b"\n")
        while True:
            try:
                more = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            seen += more
    os.close(main)
    assert process.returncode == 0, seen.decode()
    assert PHRASE.encode() not in seen + shown
    assert b"wrapped anew" in seen


def test_a_thread_that_works_by_itself_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that makes a backup; a worker thread of a graph does ask."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda _: PHRASE)
    for name, answer in (("notebook-agents-backup", None), ("worker", PHRASE)):
        with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
            assert pool.submit(passphrase.asked, "what").result() == answer


CELL = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
import notebook_agents as na
class State(TypedDict):
    n: int
graph = StateGraph(State).add_node("add", lambda state: {"n": state["n"] + 1})
graph = graph.add_edge(START, "add").compile(checkpointer=na.JournalSaver(na.Journal.open()))
print(graph.invoke({"n": 1}, {"configurable": {"thread_id": "t"}}))
"""


def test_a_notebook_asks(home: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the browser, once; where nobody can be asked it is an error in one sentence."""
    fill(home)
    editing.protect(PHRASE)
    monkeypatch.setenv("NOTEBOOK_AGENTS_HOME", str(home))
    manager = KernelManager()
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        asked, said = [], []

        def answer(message: Any) -> None:
            asked.append(message["content"])
            client.input(PHRASE)

        def listen(message: Any) -> None:
            content = message["content"]
            said.append(content.get("text") or content.get("evalue") or "")

        ways: tuple[dict[str, Any], ...] = (
            {"allow_stdin": False},
            {"allow_stdin": True, "stdin_hook": answer},
            {"allow_stdin": True, "stdin_hook": answer},
        )
        for way in ways:
            client.execute_interactive(CELL, output_hook=listen, timeout=60, **way)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [one["password"] for one in asked] == [True]
    text = "".join(said)
    assert text.index("nobody could be asked: set NOTEBOOK_AGENTS_PASSPHRASE") < text.index("{'n'")
    assert text.count("{'n': 2}") == 2
    assert PHRASE not in text


def test_a_journal_that_was_opened_before_the_key_came(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it is enough: nothing has to be opened again."""
    fill(home)
    raw, created = editing.export(None)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    editing.new()
    with Journal.open(home) as journal:
        with pytest.raises(KeyMissingError):
            journal.payload(1)
        editing.add(editing.exported(raw, created, None), "an export")
        assert journal.payload(1) == b"first of a"


def test_each_command_as_json(ring: Path, phrase: Path, tmp_path: Path, cli: Cli) -> None:
    """What the help says that it writes; nothing of the keys, and no question."""
    first = json.loads(cli("key", "new", "--json").out)
    assert first == {"key": load_ring().current_id, "file": str(ring)}
    out = str(tmp_path / "out")
    exported = json.loads(cli("key", "export", out, "--json").out)
    assert exported == {"key": first["key"], "file": out, "passphrase": False}
    told(cli("key", "export", "-", "--json"), 2, "--json")
    second = json.loads(cli("key", "new", "--json").out)["key"]
    assert json.loads(cli("key", "import", out, "--current", "--json").out) == {
        "file": str(ring),
        "keys": [{"id": first["key"], "known": True, "current": True}],
    }
    told(cli("key", "remove", second, "--json"), 2, "--yes")
    removed = json.loads(cli("key", "remove", second, "--yes", "--json").out)
    assert removed == {"key": second, "file": str(ring)}
    asked = ("key", "passphrase", "--json", "--passphrase-file", str(phrase))
    assert json.loads(cli(*asked).out) == {"file": str(ring), "passphrase": True}
