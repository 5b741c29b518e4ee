"""The envelope around one payload: one format byte, a nonce, the ciphertext and its tag.

```
 0          1                    13                                    len - 16           len
 │ 0x01     │ nonce              │ ciphertext, as long as the plain    │ tag              │
```

0x01 means AES-256-GCM under the scope's data key. Nonces are random, which NIST SP 800-38D allows
for 2³² messages under one key: a thread would have to append four thousand million records.
"""

from __future__ import annotations

import hashlib
import os
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from notebook_agents.errors import SealError

FORMAT = b"\x01"
KEY_BYTES = 32
NONCE_BYTES = 12
_TAG_BYTES = 16
_BODY = len(FORMAT) + NONCE_BYTES
_SHORTEST = _BODY + _TAG_BYTES
_DIGEST_BYTES = 16


class DataKey:
    """The key of one scope: seals its payloads and names its chunks.

    It can be used from several worker threads at once. It is never pickled and never shows itself.

    Args:
        raw: 32 random bytes.

    Raises:
        ValueError: `raw` has another length.
    """

    __slots__ = ("_cipher", "_digest_key")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes, not {len(raw)}")
        self._cipher = AESGCM(raw)
        self._digest_key = derive(raw, b"chunk", KEY_BYTES)

    def __repr__(self) -> str:
        return "DataKey(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled")

    def equals(self, other: DataKey) -> bool:
        """Whether it is the same key, unwrapped once more or not."""
        return self is other or self._digest_key == other._digest_key

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Encrypt `plain` and bind it to `aad`, which is not stored.

        Args:
            plain: Any bytes.
            aad: What the payload belongs to: journal id, kind, thread, record id, format version.

        Returns:
            The envelope, 29 bytes longer than `plain`.
        """
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._cipher.encrypt(nonce, plain, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Return what `seal` was given.

        Raises:
            SealError: The envelope was altered, belongs to another `aad`, was made with another
                key, or is none. The message does not say which record: the caller knows.
        """
        if len(sealed) < _SHORTEST or sealed[:1] != FORMAT:
            raise SealError(
                "the record is not sealed, or in a format that this version does not know"
            )
        try:
            return self._cipher.decrypt(sealed[1:_BODY], sealed[_BODY:], aad)
        except InvalidTag:
            pass
        raise SealError("the record was altered, moved, or sealed with another key")

    def digest(self, data: bytes) -> bytes:
        """Return 16 bytes that stand for `data` within this scope and say nothing outside it.

        They depend on the data key alone, so rotation of the master key leaves them as they are.
        """
        return hashlib.blake2b(data, key=self._digest_key, digest_size=_DIGEST_BYTES).digest()


def derive(raw: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes derived from the key `raw` for the purpose `info` (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(raw)
