"""What is done to the key ring by hand: keys made, imported, exported, removed, protected."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.errors import KeyMissingError, UsageError
from notebook_agents.sealing import keyfile
from notebook_agents.sealing.envelope import KEY_BYTES
from notebook_agents.sealing.keyfile import KeyFile, StoredKey, key_id
from notebook_agents.sealing.keys import configured_key, decode_key, ring_path, unlocked
from notebook_agents.sealing.passphrase import Kdf
from notebook_agents.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of a key that was to be added.

    Attributes:
        id: The key.
        path: The key file.
        known: Whether it was in there already.
        current: Whether new data keys are wrapped with it.
    """

    id: str
    path: Path
    known: bool
    current: bool


def new(phrase: str | None = None) -> Added:
    """Make a key, and have it be the current one; make the key file if there is none.

    Args:
        phrase: A passphrase, for a new key file.

    Raises:
        UsageError: A passphrase was given, and there is a key file.
        KeyMissingError: The file cannot be read, trusted or written, or its passphrase is not here.
    """
    path = ring_path()
    if keyfile.read(path) is None:
        kdf = None if phrase is None else Kdf.fresh()
        derived = b"" if kdf is None else kdf.derive(phrase or "")
        key = StoredKey.of(os.urandom(KEY_BYTES), kdf=kdf, derived=derived)
        if keyfile.make(path, key):
            return Added(id=key.id, path=path, known=False, current=True)
    if phrase is not None:
        raise UsageError(
            f"there is a key file already, {path}: `notebook-agents key passphrase` protects it"
        )
    return _add(path, os.urandom(KEY_BYTES), current=True)


def add(text: bytes, source: str, *, current: bool = False) -> tuple[Added, ...]:
    """Add the keys of an export, or one in base64 or hex; what is there already stays as it is.

    Args:
        text: What was exported.
        source: Where it comes from, for messages.
        current: Have the first of them be the current key.

    Raises:
        UsageError: It is no key.
        KeyMissingError: A passphrase is not here, or the key file cannot be changed.
        JournalFormatError: A newer version wrote it.
    """
    path = ring_path()
    found = _imported(text, source)
    if not found:
        raise UsageError(
            f"{source} holds no key: give a file that `notebook-agents key export` wrote, or 32 "
            "bytes as base64 or hex"
        )
    added = []
    for raw, created in found:
        if keyfile.read(path) is None:
            key = StoredKey.of(raw, created=created, kdf=None, derived=b"")
            if keyfile.make(path, key):
                added.append(Added(id=key.id, path=path, known=False, current=True))
                continue
        added.append(_add(path, raw, created=created, current=current and not added))
    return tuple(added)


def try_passphrase(text: bytes, source: str, phrase: str) -> None:
    """Have a passphrase at hand for an export that `add` is about to open."""
    if text.lstrip().startswith(b"{"):
        for kdf in {key.kdf for key in keyfile.parse(text, source).keys.values()}:
            if kdf is not None:
                kdf.derive(phrase)


def _imported(text: bytes, source: str) -> list[tuple[bytes, str]]:
    """Return keys and when they were made; nothing for what holds none."""
    words = text.decode("ascii", errors="replace").strip()
    if (raw := decode_key(words)) is not None:
        return [(raw, "")]
    if not words.startswith("{"):
        return []
    found = keyfile.parse(text, source)
    return [(unlocked(key, source), key.created) for key in found.keys.values()]


def _add(path: Path, raw: bytes, *, created: str = "", current: bool) -> Added:
    with keyfile.changing(path) as found:
        name = key_id(raw)
        known = name in found.keys
        if not known:
            kdf, derived = _protection(found, path)
            found.put(StoredKey.of(raw, created=created, kdf=kdf, derived=derived))
        if current:
            found.current = name
        return Added(id=name, path=path, known=known, current=found.current == name)


def _protection(found: KeyFile, path: Path) -> tuple[Kdf | None, bytes]:
    """Return what protects the current key: another one is protected in the same way."""
    key = found.keys[found.current]
    if key.kdf is None:
        return None, b""
    unlocked(key, path)
    return key.kdf, next(derived for derived in key.kdf.derived() if key.open(derived))


def remove(name: str) -> Path:
    """Take a key out of the key file; return the file.

    Raises:
        UsageError: It is not in there, or is the current one.
        KeyMissingError: The file cannot be read, trusted or written.
    """
    path = ring_path()
    with keyfile.changing(path) as found:
        if name not in found.keys:
            raise UsageError(
                f"{path} has no key {name!r}: `notebook-agents key list` shows those that it has"
            )
        if name == found.current:
            raise UsageError(
                f"key {name} is the current one of {path}: `notebook-agents key rotate` makes "
                "another first"
            )
        found.drop(name)
    return path


def protect(phrase: str | None) -> Path:
    """Have a passphrase protect all keys of the key file, or (None) none; return the file.

    Raises:
        UsageError: A newer version wrote one of the keys.
        KeyMissingError: There is no key file, it cannot be changed, or the passphrase that it has
            is not here.
    """
    path = ring_path()
    with keyfile.changing(path) as found:
        if not found.whole:
            raise UsageError(
                f"a newer version of notebook-agents wrote a key of {path}: use that version"
            )
        kdf = None if phrase is None else Kdf.fresh()
        derived = b"" if kdf is None else kdf.derive(phrase or "")
        for key in list(found.keys.values()):
            raw = unlocked(key, path)
            found.put(StoredKey.of(raw, created=key.created, kdf=kdf, derived=derived))
    return path


def export(name: str | None) -> tuple[bytes, str]:
    """Return a key and when it was made; None: the current one.

    Raises:
        KeyMissingError: It is not in the ring, or its passphrase is not here.
        UsageError: NOTEBOOK_AGENTS_KEY holds no key.
    """
    path, configured = ring_path(), configured_key()
    if configured is not None and name in (None, key_id(configured)):
        return configured, ""
    found = keyfile.read(path)
    if found is None:
        raise KeyMissingError(
            f"there is no key to export: looked in {path} and {KEY_VARIABLE}; `notebook-agents key "
            "new` makes one"
        )
    if (key := found.keys.get(name or found.current)) is None:
        raise KeyMissingError(
            f"the ring has no key {name}: it has {', '.join(found.keys)} (looked in {path} and "
            f"{KEY_VARIABLE})"
        )
    return unlocked(key, path), key.created


def exported(raw: bytes, created: str, phrase: str | None) -> bytes:
    """Return the file that an export of a key is; a passphrase protects it, if one is given."""
    kdf = None if phrase is None else Kdf.fresh()
    derived = b"" if kdf is None else kdf.derive(phrase or "")
    key = StoredKey.of(raw, created=created, kdf=kdf, derived=derived)
    alone = KeyFile(key.id, {}, {})
    alone.put(key)
    return alone.content()
