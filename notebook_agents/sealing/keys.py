"""The master key: where it lies, how it is made, and how it wraps the data keys.

```json
{"v": 1, "current": "1f0c6e9a",
 "keys": [{"id": "1f0c6e9a", "created": "2026-11-20T16:00:00+00:00", "kdf": null, "key": "…"}]}
```

The ring file holds several keys so that a key can be rotated, and `kdf` so that one can be derived
from a passphrase. NOTEBOOK_AGENTS_KEY wins over it, but its keys still open older journals.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import stat
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notebook_agents.disk import fsync_directory, make_directory
from notebook_agents.errors import JournalFormatError, KeyMissingError, SealError, UsageError
from notebook_agents.sealing.envelope import KEY_BYTES, NONCE_BYTES, derive
from notebook_agents.settings import KEY_VARIABLE, config_home

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_VERSION = 1
_ALGORITHM = "A256GCM"
_FILE = "keys.json"
_ID_BYTES = 4

_logger = logging.getLogger("notebook_agents.sealing")


class MasterKey:
    """A key of the user's ring. It wraps data keys and nothing else.

    Attributes:
        id: Eight hex characters that name the key and say nothing about it.
    """

    __slots__ = ("_cipher", "id")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(raw)}")
        self.id = derive(raw, b"notebook-agents key id", _ID_BYTES).hex()
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
    if isinstance(parsed, dict) and _newer(parsed.get("v")):
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

    Attributes:
        current: The key that new data keys are wrapped with.
        created_at: The ring file, if the call that returned this ring made it; else None.
    """

    def __init__(
        self, current: MasterKey, others: Sequence[MasterKey], looked: str, created_at: Path | None
    ) -> None:
        self.current = current
        self.created_at = created_at
        self._keys: Mapping[str, MasterKey] = {key.id: key for key in (*others, current)}
        self._looked = looked

    def __repr__(self) -> str:
        return f"KeyRing(current={self.current.id!r}, ids={self.ids!r})"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all its keys, sorted."""
        return tuple(sorted(self._keys))

    def get(self, id: str) -> MasterKey:  # noqa: A002 - the word that the wrapped key's users say
        """Return the key with this id.

        Raises:
            KeyMissingError: The ring has no such key.
        """
        if key := self._keys.get(id):
            return key
        raise KeyMissingError(
            f"this journal is sealed with key {id}, and the ring has only {', '.join(self.ids)} "
            f"(looked in {self._looked}): put the key file that has {id} back, or set "
            f"{KEY_VARIABLE} to that key"
        )


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
    path = config_home() / _FILE
    configured = _key_from_environment()
    created_at = None
    found = _read_file(path)
    if found is None and configured is None:
        if not create:
            raise KeyMissingError(
                f"there is no key to open journals with: looked in {path} and {KEY_VARIABLE}; put "
                f"the key file back, or set {KEY_VARIABLE}"
            )
        created_at = path if _make_file(path) else None
        found = _read_file(path)
        if found is None:
            raise KeyMissingError(f"the key file {path} was removed while it was read: try again")
    elif create and found is not None:
        # The process that made it may not have synced its name yet, and we are about to use it.
        with suppress(PermissionError):
            fsync_directory(path.parent)
    looked = f"{path} and {KEY_VARIABLE}"
    if configured is not None:
        return KeyRing(configured, found[1] if found else (), looked, created_at)
    assert found is not None
    return KeyRing(found[0], found[1], looked, created_at)


def _key_from_environment() -> MasterKey | None:
    text = os.environ.get(KEY_VARIABLE)
    if text is None:
        return None
    raw = _decode_key(text.strip())
    if raw is None:
        # An empty value is refused too: sealing with some other key because a deployment's secret
        # did not arrive would leave journals that nobody else can open.
        raise UsageError(
            f"{KEY_VARIABLE} is not a key: it has to be 32 bytes as base64 (44 characters) or hex "
            "(64 characters); correct it or unset it"
        )
    return MasterKey(raw)


def _decode_key(text: str) -> bytes | None:
    """Return the 32 bytes that `text` says in hex or base64, or None if it does not."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    # 32 bytes are 43 base64 characters and one of padding, which many tools leave out.
    if not re.fullmatch(r"[0-9A-Za-z+/_-]{43}=?", text):
        return None
    raw = base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_").rstrip("=") + "=")
    return raw if len(raw) == KEY_BYTES else None


def _read_file(path: Path) -> tuple[MasterKey, list[MasterKey]] | None:
    """Return the ring file's current key and all its keys, or None if there is no file."""
    try:
        with path.open("rb") as file:
            _check_private(path, file.fileno())
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeyMissingError(
            f"the key file {path} cannot be read ({error.strerror}): make it readable for this "
            f"user, or set {KEY_VARIABLE}"
        ) from error
    return _parse_ring(_json(content), path)


def _parse_ring(parsed: Any, path: Path) -> tuple[MasterKey, list[MasterKey]]:
    if isinstance(parsed, dict) and _newer(parsed.get("v")):
        raise JournalFormatError(
            f"a newer version of notebook-agents wrote the key file {path}: install that version, "
            f"or set {KEY_VARIABLE}"
        )
    keys = {}
    try:
        current = parsed["current"]
        entries = {entry["id"]: entry for entry in parsed["keys"] if parsed["v"] == _VERSION}
        protected = entries[current]["kdf"] is not None
        for name, entry in entries.items():
            if entry["kdf"] is None:
                keys[name] = MasterKey(base64.b64decode(entry["key"], validate=True))
        whole = all(name == key.id for name, key in keys.items())
    except (KeyError, TypeError, ValueError):
        whole = protected = False
    if not whole:
        raise KeyMissingError(
            f"the key file {path} is damaged: put a copy of it back, or set {KEY_VARIABLE}"
        )
    if protected:
        raise JournalFormatError(
            f"the key in {path} is protected by a passphrase, which this version of "
            f"notebook-agents cannot ask for: install a newer one, or set {KEY_VARIABLE}"
        )
    return keys[current], list(keys.values())


def _check_private(path: Path, descriptor: int) -> None:
    """Repair a ring file that others can read, and refuse one that others could have written.

    Who could read the key may have it, and refusing would lock its owner out without taking it
    back: so the file is closed and a warning says it. But with a key that somebody else put there,
    opening a record proves nothing, and records are unpickled.

    Raises:
        KeyMissingError: Somebody else could have written it.
    """
    if os.name != "posix":
        return
    info = os.fstat(descriptor)
    user = os.geteuid()
    foreign = user != 0 and info.st_uid not in (0, user)
    if foreign or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyMissingError(
            f"the key file {path} can be written by others, so it may not be yours: check where it "
            f"comes from, then `chmod 600` it, or set {KEY_VARIABLE}"
        )
    if info.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        try:
            os.fchmod(descriptor, 0o600)
        except OSError:
            _logger.warning("the key file %s can be read by others: chmod 600 it", path)
        else:
            _logger.warning(
                "the key file %s could be read by others, which was corrected; whoever read it can "
                "open your journals",
                path,
            )


def _make_file(path: Path) -> bool:
    """Make a ring file with one new key; return False if another process was faster.

    `os.link` creates the name with its whole content or fails because the name exists, which
    neither a rename nor an exclusive open does.

    Raises:
        KeyMissingError: The file cannot be made.
    """
    try:
        make_directory(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_new_ring())
                file.flush()
                os.fsync(file.fileno())
            return _link(temporary, path)
        finally:
            temporary.unlink()
    except OSError as error:
        raise KeyMissingError(
            f"a key file cannot be made at {path} ({error.strerror}): make that folder writable, "
            f"or set {KEY_VARIABLE} to 32 random bytes as base64"
        ) from error


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
        won = True
    except FileExistsError:
        won = False
    # Whoever lost syncs too: it is about to seal records with a key that must not be lost.
    fsync_directory(path.parent)
    return won


def _new_ring() -> bytes:
    raw = os.urandom(KEY_BYTES)
    entry = {
        "id": MasterKey(raw).id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kdf": None,
        "key": base64.b64encode(raw).decode(),
    }
    ring = {"v": _VERSION, "current": entry["id"], "keys": [entry]}
    return json.dumps(ring, indent=2).encode() + b"\n"


def _json(content: bytes) -> Any:
    """Parse JSON, or return None. The error is dropped: it carries the text, which holds a key."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def _newer(version: object) -> bool:
    return isinstance(version, int) and version > _VERSION
