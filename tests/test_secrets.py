"""No secret in a log, a traceback, a `repr`, HTML, a saved notebook or the list of processes.

Planted are a master key, a data key, a passphrase, and an API key of the environment that a user's
code passes on and repeats in an error; everything that anybody sees is searched for each spelling.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import nbformat
import pytest
from support.checks import State, chain

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.journal.check import check
from notebook_agents.runtime.timeline import to_html, to_text
from notebook_agents.sealing import editing, keyfile, load_ring, passphrase
from notebook_agents.sealing.signing import load_signing_key
from notebook_agents.ui import details, state

if TYPE_CHECKING:
    from collections.abc import Callable

API_KEY = "sk-planted-4f0c1d9e77aa"
PHRASE = "planted horse battery staple"
MASTER = bytes(range(100, 132))


def spellings(*secrets: bytes | str) -> list[str]:
    """Return how a text could have each secret in it."""
    found = []
    for secret in secrets:
        raw = secret.encode() if isinstance(secret, str) else secret
        found += [raw.hex(), repr(raw)[2:-1], base64.b64encode(raw).decode().rstrip("=")]
        found += [base64.urlsafe_b64encode(raw).decode().rstrip("="), quote(raw)]
        found.append(", ".join(map(str, raw)))
    return found


def clean(text: str, *secrets: bytes | str) -> None:
    """Check that a text has none of the secrets in it."""
    assert text
    for spelling in spellings(*secrets):
        assert spelling not in text, text[max(0, text.index(spelling) - 200) :][:400]


@na.step
def call(key: str, options: Any) -> str:
    """Call a service that repeats the key when it refuses it."""
    if options == "refuse":
        raise ValueError(f"Incorrect API key provided: {key}")
    return f"answered with {key}"


def service(state: State) -> Any:
    """Pass the key on: a node."""
    key = os.environ["SERVICE_API_KEY"]
    call(key, {"headers": {"Authorization": f"Bearer {key}"}, "long": "x" * 380 + key})
    call(key, "refuse")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Plant a master key and a passphrase in the key file, and an API key; return the key file."""
    monkeypatch.setattr(passphrase, "COST", 2**14)
    monkeypatch.setattr(passphrase, "_derived", {})
    monkeypatch.setenv("SERVICE_API_KEY", API_KEY)
    editing.add(MASTER.hex().encode(), "the test")
    return tmp_path / "data" / "notebook_agents" / "keys.json"


def data_key(journal: na.Journal, scope: str = "t") -> bytes:
    """Return a data key, as it is used."""
    wrapped = journal.wrapped_key(scope)
    assert wrapped is not None
    return load_ring().current.unwrap(wrapped, f"{journal.id}\0{scope}".encode())


def run(journal: na.Journal) -> na.Run:
    """Run an agent whose service refuses the key."""
    agent = na.Agent(chain(service), "serving", journal)
    with pytest.raises(ValueError, match="Incorrect API key"):
        agent.run({"n": 1}, thread="t")
    return na.Run(journal, "t", 1)


def test_what_shows_itself(planted: Path, journal: na.Journal, caplog: Any) -> None:
    """Each object, as text, as HTML and as a widget's state; logs of all levels."""
    caplog.set_level(logging.DEBUG)
    done = run(journal)
    ring, stored = load_ring(), keyfile.read(planted)
    assert stored is not None
    agent = na.Agent(chain(service), "serving", journal)
    steps = {step.id for step in done.steps}
    given = details.arguments(journal, "t", 1, steps)
    assert any("Bearer $SERVICE_API_KEY" in text for text in given.values())
    shown = [
        *map(repr, (journal, agent, done, done.view, done.steps, agent.thread("t"))),
        *map(repr, (ring, ring.current, stored, *stored.keys.values(), journal.data_key("t"))),
        *map(repr, (journal.head("t"), journal.select(), na.JournalSaver(journal), journal.queue)),
        *(str(vars(thing)) for thing in (journal._keys, journal._wrapped)),
        to_text(done.view, width=200),
        to_html(done.view),
        json.dumps(state.run_state(done.view, arguments=given)),
        json.dumps(details.results(journal, done.view)),
        json.dumps([details.detail(journal, "t", 1, step) for step in steps]),
        json.dumps(done._repr_mimebundle_(), default=str),
        caplog.text,
    ]
    assert "Incorrect API key provided: $SERVICE_API_KEY" in shown[2]
    clean("\n".join(shown), API_KEY, MASTER, data_key(journal))


def test_files(planted: Path, home: Path, tmp_path: Path) -> None:
    """Beside the key file nothing has them, nor has that, behind a passphrase."""
    with na.Journal.open(home) as journal:
        run(journal)
        journal.ingest()
        secret = data_key(journal)
    editing.protect(PHRASE)
    assert not check(home).findings
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for one in (API_KEY.encode(), MASTER, secret, PHRASE.encode()):
                for form in (one, base64.b64encode(one).rstrip(b"="), one.hex().encode()):
                    assert form not in content, path


COMMANDS = (
    *(("list",), ("show", "t"), ("show", "t", "--json"), ("log", "t", "--all", "--json")),
    *(("doctor",), ("doctor", "--json"), ("key", "list"), ("key", "list", "--json")),
    *(("journal", "check"), ("journal", "backup"), ("resume", "t"), ("key", "import", "keys")),
    *(("key", "export", "exported"), ("key", "rotate"), ("key", "rotate", "--json")),
    *(("key", "new"), ("key", "passphrase", "--passphrase-file", "phrase"), ("key", "list")),
    *(("show", "t"), ("key", "remove", "0badf00d", "--yes"), ("key", "import", "phrase")),
)


def test_commands(planted: Path, home: Path, tmp_path: Path, cli: Any) -> None:
    """What each writes, on both channels, with what goes wrong in some."""
    with na.Journal.open(home) as journal:
        run(journal)
        secret = data_key(journal)
    (tmp_path / "phrase").write_text(PHRASE)
    (tmp_path / "keys").write_bytes(planted.read_bytes())
    said = []
    for command in COMMANDS:
        ended = cli(*command, NOTEBOOK_AGENTS_HOME=str(home))
        said.append(f"{command}: {ended.code}\n{ended.out}{ended.err}")
    assert "traceback" in " ".join(said).lower()  # of `resume`: the user's own error
    new = keyfile.read(planted)
    assert new is not None
    assert all(key.kdf for key in new.keys.values())
    clean("\n".join(said), API_KEY, MASTER, secret, PHRASE)


def _wrong_variable(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", MASTER.hex()[:-2] + "zz")
    load_ring()


def _damaged(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.write_bytes(planted.read_bytes()[:-3])
    load_ring()


def _another_id(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.loads(planted.read_bytes())
    said["keys"][0]["id"] = said["current"] = "0badf00d"
    planted.write_text(json.dumps(said))
    load_ring()


def _newer(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.write_text(json.dumps({**json.loads(planted.read_bytes()), "v": 2}))
    load_ring()


def _wrong_phrase(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editing.protect(PHRASE)
    passphrase._derived.clear()
    monkeypatch.setenv("NOTEBOOK_AGENTS_PASSPHRASE", PHRASE + " not")
    _ = load_ring().current


def _mistyped(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editing.protect(PHRASE)
    passphrase._derived.clear()
    monkeypatch.setattr(passphrase, "asked", lambda _: PHRASE + " not")
    _ = load_ring().current


def _unwrapped(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = load_ring().current
    key.unwrap(key.wrap(b"d" * 32, b"here"), b"there")


def _missing(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_ring().get("0badf00d")


def _signing(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = planted.with_name("signing.pem")
    path.write_text(PHRASE)
    path.chmod(0o600)
    load_signing_key()


TROUBLES: tuple[Callable[[Path, pytest.MonkeyPatch], None], ...] = (
    *(_wrong_variable, _damaged, _another_id, _newer, _wrong_phrase, _mistyped, _unwrapped),
    *(_missing, _signing),
)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_tracebacks(
    trouble: Callable[[Path, pytest.MonkeyPatch], None],
    planted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those that show what variables hold, as `%xmode Verbose` and error trackers do."""
    with pytest.raises(errors.NotebookAgentsError) as caught:
        trouble(planted, monkeypatch)
    whole = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in whole.stack if "/tests/" not in frame.filename]
    shown = [*whole.format_exception_only(), *(f"{f.name} {f.locals}" for f in frames)]
    assert frames
    for link in (whole.__cause__, whole.__context__):
        shown += link.format() if link else []
    clean("\n".join(shown), MASTER, MASTER.hex()[:-2].encode(), PHRASE, b"d" * 32)


CELL = """
import os
from pathlib import Path
seen = []
for pid in Path("/proc").iterdir():
    if pid.name.isdecimal():
        try:
            seen.append((pid / "cmdline").read_text().replace("\\0", " "))
        except OSError:
            pass
Path("processes").write_text("\\n".join(seen))
import notebook_agents as na
na.Journal.open().threads()
"""


def test_a_notebook_and_the_list_of_processes(
    planted: Path, home: Path, tmp_path: Path, python: Callable[..., Any]
) -> None:
    """The kernel and its runner have them from the environment and the key file, not as words."""
    editing.protect(PHRASE)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(notebook, tmp_path / "work.ipynb")
    ended = python(
        "import sys\nfrom notebook_agents.cli import main\n"
        "sys.argv = ['notebook-agents', 'run', 'work.ipynb', '--out', 'out.ipynb']\nmain()",
        NOTEBOOK_AGENTS_HOME=str(home),
        NOTEBOOK_AGENTS_PASSPHRASE=PHRASE,
        SERVICE_API_KEY=API_KEY,
    )
    assert ended.code == 0, ended.err
    processes = (tmp_path / "processes").read_text()
    assert Path(sys.executable).name in processes
    saved = (tmp_path / "out.ipynb").read_text()
    clean(processes + saved + ended.out + ended.err, API_KEY, MASTER, PHRASE)
