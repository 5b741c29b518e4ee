"""Digests that tell whether something is what it was; no thread gets its turn while one is made."""

from __future__ import annotations

from xxhash import xxh3_128

_BLOCK = 65_536
"""Bytes that are digested at once: of 100,000 and more xxhash lets other threads run meanwhile."""


def mark_of(buffer: bytes | bytearray | memoryview) -> bytes:
    """Return a digest of a buffer of bytes.

    No secret is in it and nobody chooses the content to deceive himself, so the digest need not be
    a cryptographic one, which would take ten times as long (ARCHITECTURE.md has the command).
    """
    view = memoryview(buffer)
    digest = xxh3_128()
    for at in range(0, len(view), _BLOCK):
        digest.update(view[at : at + _BLOCK])
    return digest.digest()
