"""`notebook-agents audit`: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path

from support.checks import told as ended_with
from support.receipts import holds, rows
from support.running import named

from notebook_agents import verify_receipt
from notebook_agents.sealing.signing import load_signing_key


def test_without_the_key_there_is_no_receipt(home, done, journal, cli, tmp_path, monkeypatch):
    """What cannot be authenticated is not vouched for: another person's journal is refused."""
    journal.close()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "another person"))
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    ended = cli("audit", "t", "--journal", str(home), "--out", "r.jsonl")
    ended_with(ended, 6, "sealed with key")
    assert not (tmp_path / "r.jsonl").exists()
    assert not list(tmp_path.glob(".r.jsonl*"))


def test_command_writes_what_an_auditor_needs(home, done, cli, tmp_path, journal):
    """Receipt, key and program, each a file of its own; an existing one is left alone."""
    at = ("--journal", str(home))
    ended = cli("audit", "t", *at, "--out", "r.jsonl", "--verifier", "check.py")
    assert ended.code == 0, ended.err
    assert "r.jsonl: " in ended.out
    assert (tmp_path / "r.jsonl").stat().st_mode & 0o777 == 0o600
    key = cli("audit", "--public-key")
    (tmp_path / "public.pem").write_text(key.out)
    assert key.out == load_signing_key().public_pem
    holds(tmp_path / "r.jsonl")
    program = Path(verify_receipt.__file__)
    assert (tmp_path / "check.py").read_bytes() == program.read_bytes()
    printed = cli("audit", "t", *at)
    assert [json.loads(line)["kind"] for line in printed.out.splitlines()][::4] == [
        json.loads(line)["kind"] for line in (tmp_path / "r.jsonl").read_text().splitlines()
    ][::4]
    before = (tmp_path / "r.jsonl").read_bytes()
    ended_with(cli("audit", "t", *at, "--out", "r.jsonl"), 2, "r.jsonl is there already")
    assert (tmp_path / "r.jsonl").read_bytes() == before
    ended_with(cli("audit", "t", *at, "--out", "no/r.jsonl"), 2, "cannot be written")
    for words in ((), ("--out", "x"), ("--run", "1"), ("t", "--public-key")):
        assert cli("audit", *words, *at).code == 2
    ended_with(cli("audit", "nobody", *at, "--out", "n.jsonl"), 2, "'nobody'")
    assert not (tmp_path / "n.jsonl").exists()


def test_command_in_json(home, done, journal, cli, tmp_path):
    """What was written, and the key that it is signed with."""
    ended = cli("audit", "t", "--journal", str(home), "--out", "r.jsonl", "--public-key", "--json")
    said = json.loads(ended.out)
    path = tmp_path / "r.jsonl"
    assert said["counts"] == rows(path)[-1]["counts"]
    assert said["records"] == rows(path)[0]["records"]
    assert (said["thread"], said["out"]) == ("t", "r.jsonl")
    assert said["public_key"] == load_signing_key().public_pem


def test_signing_with_ones_own_key(home, done, journal, cli, tmp_path):
    """A key from elsewhere signs as well; none is made then."""
    from cryptography.hazmat.primitives import serialization as keys
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        keys.Encoding.PEM, keys.PrivateFormat.PKCS8, keys.NoEncryption()
    )
    own = tmp_path / "own.pem"
    own.write_bytes(pem)
    own.chmod(0o600)
    words = ("--signing-key", str(own))
    assert cli("audit", "t", "--journal", str(home), "--out", "r.jsonl", *words).code == 0
    (tmp_path / "public.pem").write_text(cli("audit", "--public-key", *words).out)
    holds(tmp_path / "r.jsonl")
    assert not (tmp_path / "data" / "notebook_agents" / "signing.pem").exists()
    assert named(done)
