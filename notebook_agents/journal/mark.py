"""queue.mark: how far the queue has come, said outside of it.

SQLite drops the end of a log behind a damaged frame without a word, and a file put back to an
older state looks like any other. So whoever commits notes the newest number here: 16 bytes over
16 bytes with one `pwrite`, about a microsecond, no fsync. The number outlives the death of every
process. After a power loss it may be ahead of a log that was not synced, so there is a second one:
how far the log was synced.

When the last process closes the journal it adds a digest of queue.sqlite: whatever changes while
nobody uses the journal is noticed at the next opening, each bit of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notebook_agents.disk import write_whole
from notebook_agents.journal import locks

if TYPE_CHECKING:
    from pathlib import Path

FILE = "queue.mark"
_MAGIC = b"NBAGMARK"
_LAYOUT = struct.Struct("<8s16s16sQQQQQQ32s8s")
_BOOT_AT, _COMMITTED_AT, _SYNCED_AT, _DIGEST_AT = 24, 40, 56, 88
_ALL = 2**64 - 1
_USED = bytes(40)  # no digest: somebody uses the queue, or died using it

_logger = logging.getLogger("notebook_agents.journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What queue.mark says.

    Attributes:
        journal: A digest of the journal's id.
        same_boot: Whether the host is still up that wrote it last.
        committed: The newest number that was committed; 0 if that cannot be read.
        synced: The newest number that was synced; 0 if that cannot be read.
        generation: The DuckDB file's generation when the journal was closed last; 0 if unknown.
        digest: Of queue.sqlite as it was left, or None: it was in use when the last process ended.
        whole: Whether nothing in it is damaged.
    """

    journal: bytes
    same_boot: bool
    committed: int
    synced: int
    generation: int
    digest: bytes | None
    whole: bool

    @property
    def tells(self) -> bool:
        """Whether it still says how far the queue had come."""
        return self.whole or self.committed > 0

    @property
    def floor(self) -> int:
        """The newest number that must be there."""
        if self.same_boot or self.digest:
            return self.committed or self.synced
        return self.synced


def read(home: Path) -> Mark | None:
    """Return the mark of the journal in `home`; None where there is none that can be read."""
    try:
        content = (home / FILE).read_bytes()
    except OSError:
        return None
    if len(content) != _LAYOUT.size or content[:8] != _MAGIC:
        return None
    _, journal, boot, *pairs, digest, check = _LAYOUT.unpack(content)
    numbers = [
        n if n ^ _ALL == other else 0 for n, other in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    rests = digest + check != _USED
    honest = not rests or check == _check(content)
    return Mark(
        journal=journal,
        same_boot=bool(_boot()) and boot == _short(_boot()),
        committed=numbers[0],
        synced=numbers[1],
        generation=numbers[2],
        digest=digest if rests and honest else None,
        whole=honest
        and all(n ^ _ALL == other for n, other in zip(pairs[::2], pairs[1::2], strict=True)),
    )


def digest_of(path: Path) -> bytes:
    """Return the digest of a file that nobody has open.

    Closing the descriptor would drop the locks of a connection of this process.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()


def names(mark: Mark, journal_id: str) -> bool:
    """Whether a mark is of the journal with this id."""
    return mark.journal == _short(journal_id)


def rest(home: Path, *, journal_id: str, seq: int, generation: int, digest: bytes) -> None:
    """Say that the queue is closed and how it was left.

    Args:
        home: The journal's directory.
        journal_id: Its id.
        seq: The newest number.
        generation: The DuckDB file's generation.
        digest: Of queue.sqlite.
    """
    content = _content(journal_id, seq=seq, generation=generation, digest=digest)
    write_whole(home / FILE, content[:-8] + _check(content))


def begin(home: Path, *, journal_id: str, newest: int, generation: int) -> None:
    """Say that the queue is in use, and has nothing behind a number; see `rest`."""
    write_whole(home / FILE, _content(journal_id, seq=newest, generation=generation))


class Marker:
    """What a process that writes notes: a helper, whose own failures fail nobody.

    Args:
        home: The journal's directory.
        journal_id: Its id.
        newest: The newest number in the queue now.
        generation: The DuckDB file's generation.

    Raises:
        OSError: The mark may say that the queue is closed, and that cannot be taken back: whatever
            is written now would look like damage.
    """

    def __init__(self, home: Path, *, journal_id: str, newest: int, generation: int) -> None:
        path = home / FILE
        found = read(home)
        closed = path.exists() if found is None else found.digest is not None
        self._fd = -1
        try:
            if found is None or not found.same_boot or not names(found, journal_id):
                begin(home, journal_id=journal_id, newest=newest, generation=generation)
                found = None
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if found is not None and found.digest is not None:
                # On disk before anything else is: what a power loss leaves must not say "closed".
                os.pwrite(self._fd, _USED, _DIGEST_AT)
                os.fsync(self._fd)
        except OSError as error:
            self._fail(error)
            if closed:
                raise

    def committed(self, seq: int) -> None:
        """Note the newest number; under the lock of the transaction that gave it."""
        self._note(seq, _COMMITTED_AT)

    def synced(self, seq: int) -> None:
        """Note that everything up to a number is on disk."""
        self._note(seq, _SYNCED_AT)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _note(self, seq: int, offset: int) -> None:
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, struct.pack("<QQ", seq, seq ^ _ALL), offset)
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        _logger.warning("%s cannot be written (%s): damage may go unnoticed", FILE, error)
        self.close()


def _content(journal_id: str, *, seq: int, generation: int, digest: bytes = bytes(32)) -> bytes:
    pairs = [part for n in (seq, seq, generation) for part in (n, n ^ _ALL)]
    boot = _short(_boot())
    return _LAYOUT.pack(_MAGIC, _short(journal_id), boot, *pairs, digest, bytes(8))


def _boot() -> str:
    """Return what tells one start of the host from another; processes in containers share it."""
    return locks.boot_id().partition("/")[0]


def _check(content: bytes) -> bytes:
    return hashlib.blake2b(content[:-8], digest_size=8).digest()


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
