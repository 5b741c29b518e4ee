"""What the verifier of receipts accepts and refuses, as a process that imports nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ormsgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checks import State, chain
from support.receipts import changed, holds, receipt, refused, rows, told, verify
from support.running import run

import notebook_agents as na
from notebook_agents.errors import KeyMissingError
from notebook_agents.runtime.receipts import _SIGNED, Receipt, canonical
from notebook_agents.sealing.signing import SigningKey, load_signing_key

if TYPE_CHECKING:
    from pathlib import Path


@na.step
def pay(amount: int) -> dict[str, Any]:
    """Pretend."""
    return {"paid": amount}


def paying(state: State) -> State:
    """Pay two, one of them twice as much."""
    return {"items": [pay(5), pay(10)]}


@pytest.fixture
def written(home: Path) -> Path:
    """Write the receipt of a run of one node that pays two."""
    run(home, paying)
    return receipt(home)


def signed_anew(lines: list[bytes], key: SigningKey | None = None) -> list[bytes]:
    """Return the lines with a footer that fits them: what only the key's holder can write."""
    *told, last = (json.loads(line) for line in lines)
    previous, entries = hashlib.sha256(canonical(told[0]["of"])).hexdigest(), [lines[0]]
    counts: dict[str, int] = {}
    for number, entry in enumerate(told[1:], 1):
        line = canonical({**entry, "n": number, "prev": previous})
        previous = hashlib.sha256(line).hexdigest()
        counts[entry["kind"]] = counts.get(entry["kind"], 0) + 1
        entries.append(line + b"\n")
    last |= {"entries": len(entries) - 1, "last": previous, "counts": counts}
    last["header"] = hashlib.sha256(lines[0][:-1]).hexdigest()
    if key is not None:
        last["key"] = key.public
        del last["signature"]
        last["signature"] = key.sign(_SIGNED + canonical(last))
    return [*entries, canonical(last) + b"\n"]


# -- what holds --------------------------------------------------------------------------------


def test_receipt_tells_of_every_step(written, home):
    """Intents and results in the journal's order; keys, attempts and digests as they are."""
    said = holds(written, "--keys", "--twice")
    assert "Effects of durable calls: pay 2; of nodes outside of calls: paying 1" in said
    assert "3 of 3 keys were begun once and returned" in said
    assert "More than one effect is possible of 0 keys" in said
    with na.Journal.open(home) as journal:
        view = na.Run(journal, "t", 1)
        for step in view.steps:
            assert f"{step.key}): begun 1, 1 result" in said
            (intent,) = [one for one in told(written, "intent") if one["step"] == step.id]
            assert (intent["key"], intent["name"], intent["attempt"]) == (step.key, step.name, 1)
            assert intent["what"] == ("call" if step.name == "pay" else "node")
        seqs = [one["seq"] for one in rows(written)[1:-1]]
        assert seqs == sorted(seqs)
        assert rows(written)[0]["of"]["journal"] == journal.id


def test_digests_can_be_computed_by_others(home):
    """A short text's digest, and that of a call's arguments, are what docs/audit.md says."""

    @na.step
    def send(to: str, *, amount: int) -> str:
        return f"receipt {amount}"

    def node(state: State) -> State:
        return {"items": [send("ann", amount=5)]}

    run(home, node)
    path = receipt(home)
    text = ormsgpack.packb([0, "m", ormsgpack.packb("receipt 5")])
    assert told(path, "result")[0]["result"] == hashlib.sha256(text).hexdigest()
    given = ormsgpack.packb(["'ann', amount=5"])
    (intent,) = [one for one in told(path, "intent") if one["what"] == "call"]
    assert intent["arguments"] == hashlib.sha256(given).hexdigest()


def test_equal_values_have_equal_digests_wherever_they_lie(home):
    """A result in chunks has the digest that an equal one has in another run and thread."""
    big = [{"text": "x" * 3000, "n": n} for n in range(40)]

    def node(state: State) -> State:
        return {"items": [big]}

    for thread in ("t", "u"):
        run(home, node, thread=thread)
    results = [told(receipt(home, thread), "result")[-1]["result"] for thread in ("t", "u")]
    assert results[0] == results[1]
    big[20]["text"] = "x" * 2999 + "y"
    run(home, node, thread="v")
    assert told(receipt(home, "v"), "result")[-1]["result"] != results[0]


def test_openssl_verifies_where_cryptography_is_not(written):
    """Without any package the signature is checked by the command, and a foreign one refused."""
    done = verify(written, bare=True, PATH=os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the signature is right" in done.stdout
    other = SigningKey(Ed25519PrivateKey.generate())
    forged = changed(written, lambda lines: signed_anew(lines, other))
    assert "did not sign" in refused(forged, bare=True, PATH=os.environ["PATH"])


def test_what_cannot_be_checked_is_said(written):
    """Without cryptography and openssl chain and counts are still checked, and it is no success."""
    done = verify(written, bare=True, PATH="/nonexistent")
    assert done.returncode == 3
    assert "the SIGNATURE CANNOT BE CHECKED HERE" in done.stdout
    cut = changed(written, lambda lines: lines[:-2] + lines[-1:])
    assert "does not fit" in refused(cut, bare=True, PATH="/nonexistent")


# -- what is refused ---------------------------------------------------------------------------


def _with(line: bytes, **fields: Any) -> bytes:
    return canonical(json.loads(line) | fields) + b"\n"


TAMPERED = {
    "an entry is removed": (lambda lines: lines[:3] + lines[4:], "entry 3 does not follow"),
    "the last entry is removed": (lambda lines: lines[:-2] + lines[-1:], "does not fit"),
    "two entries are swapped": (
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        "entry 2 does not follow",
    ),
    "an entry is there twice": (lambda lines: lines[:3] + lines[2:], "entry 3 does not follow"),
    "an entry is changed": (
        lambda lines: [*lines[:2], _with(lines[2], attempt=7), *lines[3:]],
        "entry 3 does not follow",
    ),
    "the last entry is changed": (
        lambda lines: [*lines[:-2], _with(lines[-2], status="failed"), lines[-1]],
        "does not fit",
    ),
    "an entry is written otherwise": (
        lambda lines: [*lines[:2], lines[2].replace(b",", b", ", 1), *lines[3:]],
        "line 3 is not as it was written",
    ),
    "a field is there twice": (
        lambda lines: [*lines[:2], lines[2].replace(b"{", b'{"at":"x",', 1), *lines[3:]],
        "line 3 is not as it was written",
    ),
    "the header is changed": (
        lambda lines: [_with(lines[0], forks=["x"]), *lines[1:]],
        "does not fit",
    ),
    "it is of another thread": (
        lambda lines: [
            _with(lines[0], of=json.loads(lines[0])["of"] | {"thread": "u"}),
            *lines[1:],
        ],
        "entry 1 does not follow",
    ),
    "the footer is removed": (lambda lines: lines[:-1], "its end is missing"),
    "the end is cut off": (lambda lines: [*lines[:-1], lines[-1][:-40]], ""),
    "it is cut in the middle": (lambda lines: lines[:4], "its end is missing"),
    "it is empty": (lambda lines: [], "it is no receipt"),
    "something was added": (lambda lines: [*lines, lines[1]], "behind its footer"),
    "the counts are changed": (
        lambda lines: [*lines[:-1], _with(lines[-1], counts={"intent": 1})],
        "does not fit",
    ),
    "the number of entries is changed": (
        lambda lines: [*lines[:-1], _with(lines[-1], entries=1)],
        "does not fit",
    ),
    "the footer says one thing more": (
        lambda lines: [*lines[:-1], _with(lines[-1], more=1)],
        "did not sign it",
    ),
    "all is written anew without the key": (
        lambda lines: signed_anew([*lines[:2], _with(lines[2], attempt=2), *lines[3:]]),
        "did not sign it",
    ),
    "it is signed by somebody else": (
        lambda lines: signed_anew(lines, SigningKey(Ed25519PrivateKey.generate())),
        "did not sign it",
    ),
    "it is no JSON": (lambda lines: [b"receipt\n"], ""),
    "it is other JSON": (lambda lines: [b"[1,2]\n"], ""),
    "it is nested deep": (lambda lines: [b"[" * 100_000 + b"\n"], ""),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_is_refused(written, how):
    """Each is refused with a sentence, in a process of its own, and nothing else is printed."""
    change, why = TAMPERED[how]
    assert why in refused(changed(written, change))
    assert holds(written)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_changed_byte_is_accepted(written, data):
    """Whatever byte is another one, the receipt is refused."""
    content = bytearray(written.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    other = written.with_name("changed.jsonl")
    other.write_bytes(content)
    refused(other)


def test_other_key_is_refused(written):
    """Somebody else's public key, or something that is none, verifies nothing."""
    other = written.with_name("other.pem")
    other.write_text(SigningKey(Ed25519PrivateKey.generate()).public_pem)
    said = refused(written, key=other)
    assert "this key did not sign it" in said
    assert load_signing_key().public in said
    other.write_text("no key")
    refused(written, key=other)
    refused(written, key=written.with_name("nowhere.pem"))
    assert verify(written, "--extends").returncode == 2


def test_text_does_not_command_the_terminal(home):
    """Names come from whoever wrote the agent: what a terminal would obey is not printed."""
    run(home, paying, thread="t\x1b[2J")
    assert "\x1b" not in holds(receipt(home, "t\x1b[2J"))


# -- later and earlier -------------------------------------------------------------------------


def test_later_receipt_extends_an_earlier_one(home):
    """It begins with the same entries; one of another past, a shorter one and another's do not."""
    run(home, paying)
    first = receipt(home, to="first.jsonl")
    with na.Journal.open(home) as journal:
        na.Agent(chain(paying), "stepping", journal).run({"n": 1}, thread="t", new=True)
        journal.ingest()
    second = receipt(home, to="second.jsonl")
    assert rows(second)[1 : len(rows(first)) - 1] == rows(first)[1:-1]
    holds(second, "--extends", str(first))
    holds(second, "--extends", str(second))
    assert "it is shorter than EARLIER" in refused(first, "--extends", str(second))
    run(home, paying, thread="u")
    other = receipt(home, "u", to="other.jsonl")
    assert "about something else" in refused(other, "--extends", str(first))
    only = receipt(home, run=1, to="only.jsonl")
    assert "about something else" in refused(only, "--extends", str(first))
    key = load_signing_key()
    lines = second.read_bytes().splitlines(keepends=True)
    rewritten = signed_anew([*lines[:3], _with(lines[3], result="0" * 64), *lines[4:]], key)
    lying = changed(second, lambda _: rewritten)
    holds(lying)
    assert "EARLIER tells another past" in refused(lying, "--extends", str(first))
    refused(second, "--extends", "")
    spoilt = first.with_name("spoilt.jsonl")
    spoilt.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[:-1]))
    assert "its end is missing" in refused(second, "--extends", str(spoilt))


def test_journal_that_was_put_back_is_seen_by_whoever_has_an_earlier_receipt(home, tmp_path):
    """An older state with another future is no extension of what was told before."""
    import shutil

    run(home, paying)
    shutil.copytree(home, tmp_path / "older")
    with na.Journal.open(home) as journal:
        na.Agent(chain(paying), "stepping", journal).run({"n": 1}, thread="t", new=True)
    earlier = receipt(home, to="earlier.jsonl")
    shutil.rmtree(home)
    (tmp_path / "older").rename(home)
    assert "shorter" in refused(receipt(home, to="back.jsonl"), "--extends", str(earlier))
    with na.Journal.open(home) as journal:
        na.Agent(chain(paying), "stepping", journal).run({"n": 2}, thread="t", new=True)
    assert "another past" in refused(receipt(home, to="back.jsonl"), "--extends", str(earlier))


# -- the key -----------------------------------------------------------------------------------


def test_signing_key_is_private_and_stays(tmp_path):
    """Made once, 0600, beside the ring; what opens it to others, or spoils it, is refused."""
    key = load_signing_key()
    path = tmp_path / "data" / "notebook_agents" / "signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signing_key().public == key.public
    assert not list(path.parent.glob(".signing*"))
    assert re.fullmatch(r"SigningKey\(id='[0-9a-f]{16}'\)", repr(key))
    raw = base64.b64decode(key.public)
    assert key.id == hashlib.sha256(raw).hexdigest()[:16]
    with pytest.raises(TypeError, match="never pickled"):
        __import__("pickle").dumps(key)
    path.chmod(0o640)
    with pytest.raises(KeyMissingError, match="open to others"):
        load_signing_key()
    path.chmod(0o600)
    path.write_text("spoilt")
    with pytest.raises(KeyMissingError, match="no Ed25519 key"):
        load_signing_key()
    assert path.read_text() == "spoilt"
    with pytest.raises(KeyMissingError, match="there is no signing key"):
        load_signing_key(tmp_path / "nowhere.pem")


def test_processes_that_make_the_key_at_once_have_one(tmp_path):
    """Each finds none and makes one; whoever is slower takes the other's."""
    code = (
        "import sys\nfrom notebook_agents.sealing import signing\nmake = signing._make\n"
        "def late(path):\n    print('none', flush=True)\n    sys.stdin.readline()\n    make(path)\n"
        "signing._make = late\nprint(signing.load_signing_key().id)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "none\n"
    found = {process.communicate("\n", timeout=60)[0] for process in processes}
    assert found == {f"{load_signing_key().id}\n"}
    assert len(list((tmp_path / "data" / "notebook_agents").iterdir())) == 1


def test_nothing_secret_is_in_a_receipt(home):
    """Arguments, results and errors are there as digests only."""

    @na.step
    def tell(secret: str) -> str:
        if secret.endswith("!"):
            raise ValueError(secret)
        return secret[::-1]

    def node(state: State) -> State:
        with __import__("contextlib").suppress(ValueError):
            tell("hunter2!")
        return {"items": [tell("hunter2")]}

    run(home, node)
    text = receipt(home).read_text()
    assert told(home.parent / "r.jsonl", "failure")
    assert "hunter2" not in text
    assert "2retnuh" not in text


def test_receipt_of_many_records_is_not_held(home, monkeypatch):
    """Pages are let go of: while a line is made, the journal has been asked for no later page."""
    monkeypatch.setattr("notebook_agents.journal.witnessed._PAGE", 20)

    def many(state: State) -> State:
        return {"items": [pay(n)["paid"] for n in range(60)]}

    run(home, many)
    with na.Journal.open(home) as journal:
        asked: list[int] = []
        sealed = journal.sealed
        monkeypatch.setattr(journal, "sealed", lambda seqs: asked.append(len(seqs)) or sealed(seqs))
        lines = Receipt(journal, "t", load_signing_key()).lines()
        for _ in range(10):
            next(lines)
        assert len(asked) <= 2
        rest = list(lines)
    assert len(rest) + 10 == 1 + (1 + 2 * 61 + 1) + 1
    assert max(asked) <= 20
