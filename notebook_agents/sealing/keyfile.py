"""The key file: the user's master keys, as they are or behind a passphrase.

```json
{"v": 1, "current": "1f0c6e9a",
 "keys": [{"id": "1f0c6e9a", "created": "2026-11-20T16:00:00+00:00", "kdf": null, "key": "…"}]}
```

It holds several keys so that a key can be rotated. `key` is the key in base64; or, where `kdf` has
scrypt's parameters, the key sealed with what scrypt makes of a passphrase (AES-256-GCM, `nonce`).
An export is a file like this with one key.

Errors are raised where no variable holds a key: tracebacks can show those.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import stat
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notebook_agents.disk import fsync_directory, make_directory, write_whole
from notebook_agents.errors import JournalFormatError, KeyMissingError
from notebook_agents.sealing.envelope import KEY_BYTES, NONCE_BYTES, derive
from notebook_agents.sealing.passphrase import Kdf
from notebook_agents.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

VERSION = 1
FILE = "keys.json"
_LOCK = f".{FILE}.lock"
_ID_BYTES = 4
_OLD_SECONDS = 60.0

_NEWER, _DAMAGED, _UNKNOWN = "newer", "damaged", "unknown"

_logger = logging.getLogger("notebook_agents.sealing")


def key_id(raw: bytes) -> str:
    """Return the eight hex characters that name a master key and say nothing about it."""
    return derive(raw, b"notebook-agents key id", _ID_BYTES).hex()


class StoredKey:
    """One key of a key file.

    Attributes:
        id: Its name.
        created: When it was made, as text in ISO 8601; "" where that is not known.
        kdf: How the key that opens it is made of a passphrase; None: it is not protected.
    """

    __slots__ = ("_held", "_nonce", "created", "id", "kdf")

    def __init__(self, name: str, created: str, kdf: Kdf | None, nonce: bytes, held: bytes) -> None:
        self.id, self.created, self.kdf = name, created, kdf
        self._nonce, self._held = nonce, held

    def __repr__(self) -> str:
        return f"StoredKey({self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled")

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> StoredKey | None:
        """Return what an entry says, or None for one that only a newer version knows.

        Raises:
            ValueError, KeyError, TypeError: It is damaged.
        """
        kdf = None if said["kdf"] is None else Kdf.parse(said["kdf"])
        if said["kdf"] is not None and kdf is None:
            return None
        nonce = b"" if kdf is None else base64.b64decode(said["nonce"], validate=True)
        held = base64.b64decode(said["key"], validate=True)
        found = cls(str(said["id"]), str(said.get("created") or ""), kdf, nonce, held)
        if kdf is None and (len(held) != KEY_BYTES or key_id(held) != found.id):
            raise ValueError
        return found

    @classmethod
    def of(cls, raw: bytes, *, created: str = "", kdf: Kdf | None, derived: bytes) -> StoredKey:
        """Return a key as it is to be stored.

        Args:
            raw: The key.
            created: When it was made; "": now.
            kdf: How `derived` was made of a passphrase; None: the key is stored as it is.
            derived: What seals it.
        """
        name, nonce = key_id(raw), b""
        if kdf is not None:
            nonce = os.urandom(NONCE_BYTES)
            raw = AESGCM(derived).encrypt(nonce, raw, _bound(name))
        return cls(name, created or now(), kdf, nonce, raw)

    def open(self, derived: bytes | None) -> bytes | None:
        """Return the key, or None if this does not open it."""
        if self.kdf is None:
            return self._held
        if derived is None:
            return None
        try:
            raw = AESGCM(derived).decrypt(self._nonce, self._held, _bound(self.id))
        except (InvalidTag, ValueError):
            return None
        return raw if len(raw) == KEY_BYTES and key_id(raw) == self.id else None

    def said(self) -> dict[str, Any]:
        """Return what the file says of it."""
        entry: dict[str, Any] = {"id": self.id, "created": self.created, "kdf": None}
        if self.kdf is not None:
            entry["kdf"] = self.kdf.said()
            entry["nonce"] = base64.b64encode(self._nonce).decode()
        entry["key"] = base64.b64encode(self._held).decode()
        return entry


class KeyFile:
    """What a key file says.

    Attributes:
        current: The id of the key that new data keys are wrapped with.
        keys: The keys that this version knows, by id, in the file's order.
    """

    def __init__(
        self, current: str, entries: Mapping[str, Any], keys: Mapping[str, StoredKey]
    ) -> None:
        self.current = current
        self.keys = dict(keys)
        self._entries = dict(entries)  # also those that a newer version wrote

    def __repr__(self) -> str:
        return f"KeyFile(current={self.current!r}, ids={tuple(self._entries)!r})"

    @property
    def whole(self) -> bool:
        """Whether this version knows all its keys."""
        return self.keys.keys() == self._entries.keys()

    def put(self, key: StoredKey, *, current: bool = False) -> None:
        """Add a key, or have it in another form."""
        self.keys[key.id] = key
        self._entries[key.id] = key.said()
        if current or not self.current:
            self.current = key.id

    def drop(self, name: str) -> None:
        """Take a key out that is not the current one."""
        del self._entries[name]
        self.keys.pop(name, None)

    def content(self) -> bytes:
        """Return the file's content."""
        ring = {"v": VERSION, "current": self.current, "keys": list(self._entries.values())}
        return json.dumps(ring, indent=2).encode() + b"\n"


def now() -> str:
    """Return the time as the file has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(path: Path) -> KeyFile | None:
    """Return what a key file says, or None if there is none.

    Raises:
        KeyMissingError: It cannot be read or trusted, or is damaged.
        JournalFormatError: A newer version wrote it, or its current key.
    """
    try:
        found = _parsed(_content(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeyMissingError(
            f"the key file {path} cannot be read ({error.strerror}): make it readable for this "
            f"user, or set {KEY_VARIABLE}"
        ) from error
    return _understood(found, path)


def parse(text: bytes, path: str) -> KeyFile:
    """Return what the text of a key file, or of an export, says; raises as `read` does."""
    return _understood(_parsed(text), path)


def _understood(found: KeyFile | str, path: Path | str) -> KeyFile:
    if found == _NEWER:
        raise JournalFormatError(
            f"a newer version of notebook-agents wrote the key file {path}: install that version, "
            f"or set {KEY_VARIABLE}"
        )
    if found == _UNKNOWN:
        raise JournalFormatError(
            f"the key in {path} is protected by a passphrase in a way that this version of "
            f"notebook-agents does not know: install a newer one, or set {KEY_VARIABLE}"
        )
    if isinstance(found, str):
        raise KeyMissingError(
            f"the key file {path} is damaged: put a copy of it back, or set {KEY_VARIABLE}"
        )
    return found


def _parsed(content: bytes) -> KeyFile | str:
    """Return what the content says, or what is wrong with it: no error shows a key's text."""
    try:
        said = json.loads(content)
    except ValueError:
        return _DAMAGED
    if isinstance(said, dict) and newer(said.get("v")):
        return _NEWER
    try:
        current = said["current"]
        entries = {entry["id"]: entry for entry in said["keys"] if said["v"] == VERSION}
        found = {name: StoredKey.parse(entry) for name, entry in entries.items()}
        keys = {name: key for name, key in found.items() if key is not None}
        return KeyFile(current, entries, keys) if found[current] is not None else _UNKNOWN
    except (KeyError, TypeError, ValueError):
        return _DAMAGED


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        _check_private(path, file.fileno())
        return file.read()


def seen(path: Path) -> tuple[int, ...]:
    """Return what changes when the file is changed."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def newer(version: object) -> bool:
    """Whether a newer version of this package wrote a number."""
    return isinstance(version, int) and version > VERSION


def _bound(name: str) -> bytes:
    return b"notebook-agents key file\0" + name.encode()


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


# -- writing -----------------------------------------------------------------------------------


def make(path: Path, key: StoredKey) -> bool:
    """Make a key file with one key; return False if there is one already.

    `os.link` creates the name with its whole content or fails because the name exists, which
    neither a rename nor an exclusive open does.

    Raises:
        KeyMissingError: The file cannot be made.
    """
    try:
        make_directory(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(KeyFile(key.id, {key.id: key.said()}, {}).content())
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


@contextmanager
def changing(path: Path) -> Iterator[KeyFile]:
    """Have what a key file says, to change it: it is on disk when the block ends.

    Others change it before or after; whoever is killed leaves the old file or the new one.

    Raises:
        KeyMissingError: There is none, or it cannot be read, trusted or written.
    """
    if (found := read(path)) is None:
        raise KeyMissingError(f"there is no key file {path}: `notebook-agents key new` makes one")
    try:
        lock = os.open(path.with_name(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _sweep(path)
            found = read(path) or found
            yield found
            write_whole(path, found.content())
        finally:
            os.close(lock)
    except OSError as error:
        raise KeyMissingError(
            f"the key file {path} cannot be written ({error.strerror}): make it and its folder "
            "writable, then try again; nothing was changed"
        ) from error


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left half written: it has keys in it."""
    for left in path.parent.glob(f".{FILE}.*"):
        if left.name != _LOCK and time.time() - left.stat().st_mtime > _OLD_SECONDS:
            left.unlink(missing_ok=True)
