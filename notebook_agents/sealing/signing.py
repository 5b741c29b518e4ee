"""The key that receipts are signed with: where it lies, how it is made, who can check it.

It is no master key and is derived from none: whoever is given a master key, to read a journal, must
not be able to sign in its owner's name. It lies beside the ring as `signing.pem`: an Ed25519 key in
PKCS #8, as `openssl` and every other library read it, 0600 and not encrypted.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from notebook_agents.disk import fsync_directory, make_directory
from notebook_agents.errors import KeyMissingError
from notebook_agents.settings import config_home

_FILE = "signing.pem"
_ID_CHARACTERS = 16


class SigningKey:
    """An Ed25519 key.

    Attributes:
        id: Sixteen hex characters that name its public half.
        public: The public half, 32 bytes in base64.
        public_pem: The public half as others verify with it (SubjectPublicKeyInfo).
    """

    __slots__ = ("_key", "id", "public", "public_pem")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = hashlib.sha256(raw).hexdigest()[:_ID_CHARACTERS]
        self.public = base64.b64encode(raw).decode()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public_pem = pem.decode()

    def __repr__(self) -> str:
        return f"SigningKey(id={self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled")

    def sign(self, message: bytes) -> str:
        """Return the signature of a message, 64 bytes in base64."""
        return base64.b64encode(self._key.sign(message)).decode()


def load_signing_key(path: Path | None = None) -> SigningKey:
    """Return the key that receipts are signed with.

    Args:
        path: Whose: a file of one's own. None: this user's, which is made where there is none.
            Processes that do this at the same moment end up with the same key.

    Raises:
        KeyMissingError: It cannot be made, read or trusted.
    """
    own = path or config_home() / _FILE
    found = _read(own)
    if found is None and path is None:
        _make(own)
        found = _read(own)
    if found is None:
        raise KeyMissingError(f"there is no signing key at {own}: name the file that has it")
    return found


def _read(path: Path) -> SigningKey | None:
    """Return the key in a file, or None where there is no file."""
    try:
        with path.open("rb") as file:
            _check_private(path, file.fileno())
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeyMissingError(
            f"the signing key {path} cannot be read ({error.strerror}): make it readable for this "
            "user"
        ) from error
    key: object = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):  # encrypted, or something else
        key = load_pem_private_key(content, password=None)
    del content  # a traceback may show what variables hold
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyMissingError(
            f"{path} is no Ed25519 key in PEM without a passphrase: put a copy of the right one "
            "back, or move it away to have a new one made"
        )
    return SigningKey(key)


def _check_private(path: Path, descriptor: int) -> None:
    """Refuse a key that somebody else can have read or put there: he could sign, too.

    Raises:
        KeyMissingError: It is so.
    """
    if os.name != "posix":
        return
    info = os.fstat(descriptor)
    user = os.geteuid()
    foreign = user != 0 and info.st_uid not in (0, user)
    if foreign or info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyMissingError(
            f"the signing key {path} is open to others, who can sign with it: `chmod 600` it if "
            "nobody has, or move it away to have a new one made"
        )


def _make(path: Path) -> None:
    """Make a file with a new key, unless another process was faster.

    Raises:
        KeyMissingError: It cannot be made.
    """
    content = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    try:
        make_directory(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # a link is made with its content, or not at all
                os.link(temporary, path)
            fsync_directory(path.parent)
        finally:
            temporary.unlink()
    except OSError as error:
        raise KeyMissingError(
            f"a signing key cannot be made at {path} ({error.strerror}): make that folder "
            "writable, or name a key of your own"
        ) from error
