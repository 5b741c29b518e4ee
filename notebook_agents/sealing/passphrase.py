"""A passphrase in front of the key file: scrypt makes the key that wraps the master keys in it."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import sys
import threading
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from notebook_agents.errors import UsageError
from notebook_agents.sealing.envelope import KEY_BYTES
from notebook_agents.settings import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

NAME = "scrypt"
SALT_BYTES = 16
COST = 2**17
"""What OWASP recommends (2023): 128 MB and some 0.3 s for each guess."""
_COSTS = [2**power for power in range(14, 21)]  # the last takes 1 GB
_BLOCK, _PARALLEL = 8, 1
_MOST_PARALLEL = 4
_SHORTEST = 8

_derived: dict[tuple[Kdf, bytes], bytes] = {}
"""What was derived in this process already: a passphrase is asked for once, and paid for once."""


@dataclass(frozen=True, slots=True)
class Kdf:
    """How a key is made of a passphrase.

    Attributes:
        salt: 16 random bytes.
        n: scrypt's cost, a power of two.
        r: scrypt's block size, 8.
        p: scrypt's parallelism, 1 to 4.
    """

    salt: bytes
    n: int
    r: int = _BLOCK
    p: int = _PARALLEL

    @classmethod
    def fresh(cls) -> Kdf:
        """Return parameters for a new passphrase."""
        return cls(os.urandom(SALT_BYTES), COST)

    @classmethod
    def parse(cls, said: Any) -> Kdf | None:
        """Return what a key file says, or None if this version does not know it.

        The numbers are bounded: a file that somebody altered must not take all memory.
        """
        try:
            found = cls(
                base64.b64decode(said["salt"], validate=True), said["n"], said["r"], said["p"]
            )
            known = (
                said["name"] == NAME
                and len(found.salt) == SALT_BYTES
                and all(type(number) is int for number in (found.n, found.r, found.p))
                and found.n in _COSTS
                and found.r == _BLOCK
                and 1 <= found.p <= _MOST_PARALLEL
            )
        except (KeyError, TypeError, ValueError):
            return None
        return found if known else None

    def said(self) -> dict[str, Any]:
        """Return what a key file says of it."""
        salt = base64.b64encode(self.salt).decode()
        return {"name": NAME, "n": self.n, "r": self.r, "p": self.p, "salt": salt}

    def derive(self, passphrase: str) -> bytes:
        """Return the key that a passphrase stands for."""
        text = unicodedata.normalize("NFC", passphrase).encode(errors="surrogateescape")
        asked = (self, hashlib.sha256(text).digest())
        if asked not in _derived:
            scrypt = Scrypt(salt=self.salt, length=KEY_BYTES, n=self.n, r=self.r, p=self.p)
            _derived[asked] = scrypt.derive(text)
        return _derived[asked]

    def derived(self) -> list[bytes]:
        """Return the keys that were derived so in this process."""
        return [key for (kdf, _), key in _derived.items() if kdf == self]


def from_environment() -> str | None:
    """Return what NOTEBOOK_AGENTS_PASSPHRASE says, or None."""
    return os.environ.get(PASSPHRASE_VARIABLE) or None


def asked(what: str) -> str | None:
    """Ask the person at the terminal, or at the notebook, for a passphrase; None if nobody is.

    The threads that this package starts by itself do not ask: nobody would know what for.
    """
    if threading.current_thread().name.startswith("notebook-agents"):
        return None
    # A kernel puts a function of its own in the place of this one, which asks in the browser.
    if getpass.getpass.__module__ == "getpass" and not (sys.stdin and sys.stdin.isatty()):
        return None
    try:
        return getpass.getpass(f"{what}: ") or None
    except (EOFError, OSError, NotImplementedError):  # a kernel whose frontend cannot ask
        return None


def chosen(file: Path | None = None) -> str:
    """Return a new passphrase: a file's first line, or what somebody types twice.

    Where nobody can be asked it is NOTEBOOK_AGENTS_PASSPHRASE.

    Raises:
        UsageError: There is none, it is too short, or what was typed differs.
    """
    if file is not None:
        text: str | None = read(file)
    elif (text := asked("new passphrase")) is not None and asked("once more") != text:
        raise UsageError("the two passphrases differ, and nothing was changed: try again")
    text = text or from_environment()
    if text is None:
        raise UsageError(
            "there is no terminal to ask for a passphrase: set "
            f"{PASSPHRASE_VARIABLE}, or name a file that holds it with --passphrase-file"
        )
    if len(text) < _SHORTEST:
        raise UsageError(f"a passphrase has at least {_SHORTEST} characters: choose a longer one")
    return text


def read(file: Path) -> str:
    """Return a file's first line.

    Raises:
        UsageError: It cannot be read, or there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(
            f"the passphrase file {file} cannot be read ({reason}): check it"
        ) from None
    if not lines or not lines[0]:
        raise UsageError(
            f"the passphrase file {file} is empty: put the passphrase into its first line"
        )
    return lines[0]
