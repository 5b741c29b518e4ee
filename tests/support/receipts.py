"""Receipts, and the program that verifies them, run where nothing of ours can be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import notebook_agents as na
from notebook_agents import verify_receipt
from notebook_agents.runtime.receipts import Receipt
from notebook_agents.sealing.signing import load_signing_key

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 120.0


def receipt(home: Path, thread: str = "t", *, run: int | None = None, to: str = "r.jsonl") -> Path:
    """Write the receipt of a thread beside its journal, and the public key; return its path."""
    key = load_signing_key()
    (home.parent / "public.pem").write_text(key.public_pem)
    path = home.parent / to
    with na.Journal.open(home) as journal:
        path.write_bytes(b"".join(Receipt(journal, thread, key, run=run).lines()))
    return path


def verify(
    path: Path, *options: str, key: Path | None = None, bare: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the verifier, which is copied first, in a process of its own.

    Args:
        path: The receipt.
        options: Further ones.
        key: The public key; None: the one beside it.
        bare: Without any installed package, `cryptography` among them.
        env: Its environment.
    """
    program = path.parent / "verifier" / "check.py"
    program.parent.mkdir(exist_ok=True)
    program.write_bytes(Path(verify_receipt.__file__).read_bytes())
    command = [sys.executable, "-I", *(("-S",) if bare else ()), str(program), str(path)]
    command += ["--key", str(key or path.parent / "public.pem"), *options]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=program.parent,
        env=env or None,
        timeout=SECONDS,
        check=False,
    )


def holds(path: Path, *options: str) -> str:
    """Return what the verifier says of a receipt that it has to accept."""
    done = verify(path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The chain and the counts are right; the signature is right." in done.stdout
    return done.stdout


def refused(path: Path, *options: str, **more: Any) -> str:
    """Return why the verifier refuses a receipt."""
    done = verify(path, *options, **more)
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    assert done.stderr.startswith("REFUSED: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def rows(path: Path) -> list[dict[str, Any]]:
    """Return a receipt's lines as objects."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the entries of these kinds."""
    return [row for row in rows(path) if row["kind"] in kinds]


def changed(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    """Return a copy of a receipt with other lines."""
    other = path.with_name("changed.jsonl")
    other.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    return other
