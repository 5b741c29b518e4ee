"""The master key: where it lies, how it is made, and how it wraps the data keys.

The ring is the key file's keys (`keyfile.py`) and NOTEBOOK_AGENTS_KEY, which wins over them; all of
them open journals.
"""

from __future__ import annotations

import base64
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notebook_agents.disk import fsync_directory
from notebook_agents.errors import JournalFormatError, KeyMissingError, SealError, UsageError
from notebook_agents.sealing import keyfile, passphrase
from notebook_agents.sealing.envelope import KEY_BYTES, NONCE_BYTES, derive
from notebook_agents.sealing.keyfile import StoredKey, key_id
from notebook_agents.settings import KEY_VARIABLE, PASSPHRASE_VARIABLE, config_home

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from notebook_agents.sealing.keyfile import KeyFile

_VERSION = 1
_ALGORITHM = "A256GCM"
_TRIES = 3


class MasterKey:
    """A key of the user's ring. It wraps data keys and nothing else.

    Attributes:
        id: Eight hex characters that name the key and say nothing about it.
    """

    __slots__ = ("_cipher", "id")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(raw)}")
        self.id = key_id(raw)
        self._cipher = AESGCM(derive(raw, b"notebook-agents wrap", KEY_BYTES))

    def __repr__(self) -> str:
        return f"MasterKey(id={self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled")

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key for storage in a journal.

        Args:
            data_key: The raw data key.
            context: What it belongs to: journal id and scope. Not stored.

        Returns:
            A small JSON object that names the master key.
        """
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, data_key, context)
        wrapped = {
            "v": _VERSION,
            "alg": _ALGORITHM,
            "master": self.id,
            "nonce": base64.b64encode(nonce).decode(),
            "key": base64.b64encode(sealed).decode(),
        }
        return json.dumps(wrapped, separators=(",", ":")).encode()

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the raw data key that `wrap` was given.

        Raises:
            KeyMissingError: Another master key wrapped it.
            SealError: It was altered, or moved here from another journal or scope.
            JournalFormatError: A newer version wrote it.
        """
        parts = _parse_wrapped(wrapped)
        if parts["master"] != self.id:
            raise KeyMissingError(
                f"the data key was wrapped with master key {parts['master']}, and this is "
                f"{self.id}: open it with {parts['master']}"
            )
        try:
            nonce, sealed = base64.b64decode(parts["nonce"]), base64.b64decode(parts["key"])
            return self._cipher.decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError):
            pass
        raise SealError("the wrapped data key was altered, or belongs to another journal or scope")


def wrapped_by(wrapped: bytes) -> str:
    """Return the id of the master key that wrapped a data key, without opening it.

    Raises:
        SealError: This is no wrapped key.
        JournalFormatError: A newer version wrote it.
    """
    return _parse_wrapped(wrapped)["master"]


def _parse_wrapped(wrapped: bytes) -> dict[str, str]:
    parsed = _json(wrapped)
    if isinstance(parsed, dict) and keyfile.newer(parsed.get("v")):
        raise JournalFormatError(
            "the journal's data keys were wrapped by a newer version of notebook-agents: update it"
        )
    known = isinstance(parsed, dict) and (parsed.get("v"), parsed.get("alg")) == (
        _VERSION,
        _ALGORITHM,
    )
    parts = {name: parsed.get(name) for name in ("master", "nonce", "key")} if known else {}
    if not known or not all(isinstance(part, str) for part in parts.values()):
        raise SealError("the wrapped data key is damaged, or not in a format this version knows")
    return parts


class KeyRing:
    """The master keys that this process can open journals with.

    A key that a passphrase protects is opened when it is needed; the passphrase is asked for then.

    Attributes:
        created_at: The ring file, if the call that returned this ring made it; else None.
        path: The ring file.
    """

    def __init__(
        self,
        stored: KeyFile | None,
        configured: bytes | None,
        path: Path,
        created_at: Path | None,
        seen: tuple[object, ...],
    ) -> None:
        self.created_at = created_at
        self.path = path
        self.stored = stored
        self._configured = None if configured is None else MasterKey(configured)
        self._keys: dict[str, MasterKey] = {}
        self._refused: KeyMissingError | None = None
        self._seen = seen
        if self._configured is not None:
            self._keys[self._configured.id] = self._configured

    def __repr__(self) -> str:
        return f"KeyRing(current={self.current_id!r}, ids={self.ids!r})"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all its keys, sorted."""
        return tuple(sorted({*self._keys, *(self.stored.keys if self.stored else ())}))

    @property
    def current_id(self) -> str:
        """The id of the key that new data keys are wrapped with."""
        if self._configured is not None:
            return self._configured.id
        assert self.stored is not None
        return self.stored.current

    @property
    def current(self) -> MasterKey:
        """The key that new data keys are wrapped with.

        Raises:
            KeyMissingError: The passphrase that protects it is not here.
        """
        return self.get(self.current_id)

    @property
    def configured(self) -> str | None:
        """The id of the key in NOTEBOOK_AGENTS_KEY, or None."""
        return None if self._configured is None else self._configured.id

    def get(self, id: str, *, ask: bool = True) -> MasterKey:  # noqa: A002 - as wrapped keys say
        """Return the key with this id.

        Args:
            id: The id.
            ask: Whether somebody may be asked for a passphrase.

        Raises:
            KeyMissingError: The ring has no such key, or its passphrase is not here.
        """
        if key := self._keys.get(id):
            return key
        stored = self.stored.keys.get(id) if self.stored else None
        if stored is None:
            raise KeyMissingError(
                f"this journal is sealed with key {id}, and the ring has only "
                f"{', '.join(self.ids)} (looked in {self.path} and {KEY_VARIABLE}): import it with "
                f"`notebook-agents key import FILE`, put the key file that has {id} back, or set "
                f"{KEY_VARIABLE} to that key"
            )
        if self._refused is not None:  # who has thousands of threads is not asked for each
            raise KeyMissingError(*self._refused.args)
        try:
            self._keys[id] = MasterKey(unlocked(stored, self.path, ask=ask))
        except KeyMissingError as error:
            if ask:
                self._refused = error
            raise
        return self._keys[id]

    def changed(self) -> bool:
        """Whether the key file, or what the environment says, is another one by now."""
        return self._seen != _seen(self.path)


def load_ring(*, create: bool = True) -> KeyRing:
    """Return the user's master keys, making the first one if there is none.

    In this order: NOTEBOOK_AGENTS_KEY (32 bytes as base64 or hex), the ring file's current key,
    and, when `create` is true, a new key in a new ring file. Processes that do this at the same
    moment end up with the same key.

    Raises:
        UsageError: NOTEBOOK_AGENTS_KEY is not 32 bytes.
        KeyMissingError: There is no key and `create` is false, or the ring file cannot be made,
            read or trusted.
        JournalFormatError: A newer version wrote the ring file.
    """
    path = ring_path()
    configured = configured_key()
    created_at = None
    seen = _seen(path)
    found = keyfile.read(path)
    if found is None and configured is None:
        if not create:
            raise KeyMissingError(
                f"there is no key to open journals with: looked in {path} and {KEY_VARIABLE}; "
                "import yours with `notebook-agents key import FILE`, put the key file back, or "
                f"set {KEY_VARIABLE}"
            )
        made = keyfile.make(path, StoredKey.of(os.urandom(KEY_BYTES), kdf=None, derived=b""))
        created_at = path if made else None
        seen = _seen(path)
        found = keyfile.read(path)
        if found is None:
            raise KeyMissingError(f"the key file {path} was removed while it was read: try again")
    elif create and found is not None:
        # The process that made it may not have synced its name yet, and we are about to use it.
        with suppress(PermissionError):
            fsync_directory(path.parent)
    return KeyRing(found, configured, path, created_at, seen)


def ring_path() -> Path:
    """Return the path of the user's key file."""
    return config_home() / keyfile.FILE


def unlocked(stored: StoredKey, path: Path | str, *, ask: bool = True) -> bytes:
    """Return a stored key, whatever protects it.

    The passphrase is NOTEBOOK_AGENTS_PASSPHRASE's; without it somebody is asked, three times.

    Raises:
        KeyMissingError: There is no passphrase here, or it is the wrong one.
    """
    found = _opened(stored, path, ask=ask)
    if isinstance(found, bytes):
        return found
    raise KeyMissingError(
        f"key {stored.id} in {path} is protected by a passphrase, and {found}: set "
        f"{PASSPHRASE_VARIABLE}, or run this at a terminal or in a notebook, which ask for it"
    )


def _opened(stored: StoredKey, path: Path | str, *, ask: bool) -> bytes | str:
    """Return the key, or why it does not open: no error is raised beside a passphrase."""
    if stored.kdf is None:
        return stored.open(None) or b""
    for derived in stored.kdf.derived():
        if raw := stored.open(derived):
            return raw
    if (given := passphrase.from_environment()) is not None:
        return stored.open(stored.kdf.derive(given)) or f"{PASSPHRASE_VARIABLE} does not open it"
    for _ in range(_TRIES if ask else 0):
        given = passphrase.asked(f"passphrase of {path}")
        if given is None:
            return "nobody could be asked"
        if raw := stored.open(stored.kdf.derive(given)):
            return raw
    return "what was typed does not open it" if ask else "it was not opened yet"


def configured_key() -> bytes | None:
    """Return the key that NOTEBOOK_AGENTS_KEY holds, or None where the variable is not set.

    Raises:
        UsageError: What it holds is no key.
    """
    if KEY_VARIABLE not in os.environ:
        return None
    raw = decode_key(os.environ[KEY_VARIABLE].strip())
    if raw is None:
        # An empty value is refused too: sealing with some other key because a deployment's secret
        # did not arrive would leave journals that nobody else can open.
        raise UsageError(
            f"{KEY_VARIABLE} is not a key: it has to be 32 bytes as base64 (44 characters) or hex "
            "(64 characters); correct it or unset it"
        )
    return raw


def decode_key(text: str) -> bytes | None:
    """Return the 32 bytes that `text` says in hex or base64, or None if it does not."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    # 32 bytes are 43 base64 characters and one of padding, which many tools leave out.
    if not re.fullmatch(r"[0-9A-Za-z+/_-]{43}=?", text):
        return None
    raw = base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_").rstrip("=") + "=")
    return raw if len(raw) == KEY_BYTES else None


def _seen(path: Path) -> tuple[object, ...]:
    return (*keyfile.seen(path), hash(os.environ.get(KEY_VARIABLE)))


def _json(content: bytes) -> Any:
    """Parse JSON, or return None. The error is dropped: it carries the text."""
    try:
        return json.loads(content)
    except ValueError:
        return None
