"""Records: rows as they are stored, and what their seal binds.

`store/FORMAT.md` is the specification; this module and `values.py` are its implementation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ormsgpack
import zstandard

from notebook_agents.errors import JournalDamagedError, SealError
from notebook_agents.journal import damage
from notebook_agents.model import Kind
from notebook_agents.resources import resource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from notebook_agents.sealing import DataKey

FORMAT = 1
"""The version of everything on disk. A journal with a larger one is refused."""

_COMPRESS_FROM = 120  # bytes; below, there is next to nothing to save
_LEVEL = 3


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """A record that is not committed yet; `seq` is 0 until it is.

    `refs` may name other drafts, of the same or an earlier append: their numbers are filled in at
    the commit, when they have one. `ts` is set in a copy: when the first one was made. `key` is the
    data key of the scope when `refs` were looked up: under another one they are a deleted thread's.
    """

    kind: Kind
    thread: str
    scope: str
    plain: bytes = b""
    run: int | None = None
    ns: str | None = None
    step: str | None = None
    parent: str | None = None
    name: str | None = None
    attempt: int | None = None
    ref: str | None = None
    prior: str | None = None
    digest: bytes | None = None
    refs: Sequence[Draft | int] = ()
    size: int = 0
    token: int | None = None
    claim: Claim | None = None
    ts: int | None = None
    key: DataKey | None = None
    seq: int = 0


@dataclass(slots=True, kw_only=True)
class Claim:
    """What a run's start asks of the thread, and what it got.

    Attributes:
        agent: The agent's name.
        run: The run's number.
        session: 1 for the process that starts the run, then one more each time it is taken up.
        notebook: The notebook's path, or None.
        fresh: Whether the thread must not be there yet.
        token: The fencing token, set at the commit.
    """

    agent: str
    run: int
    session: int
    notebook: str | None
    fresh: bool = False
    token: int = 0


class Record(NamedTuple):
    """A record as it was committed. `payload` is sealed, or None where it was not asked for.

    A tuple, its fields as the columns stand in the tables: a state of 2,000 messages is as many
    records, and a frozen dataclass of 17 fields takes five times as long to make.
    """

    seq: int
    ts: int
    kind: Kind
    thread: str
    scope: str
    run: int | None
    ns: str | None
    step: str | None
    parent: str | None
    name: str | None
    attempt: int | None
    ref: str | None
    prior: str | None
    digest: bytes | None
    refs: tuple[int, ...]
    size: int
    payload: bytes | None

    def __repr__(self) -> str:
        return f"<Record {self.seq}: {self.kind} of thread {self.thread!r}>"


def pack_refs(refs: Sequence[int]) -> bytes | None:
    """Return sequence numbers as differences in base-128 varints, or None for none.

    Neighbouring chunks lie a few records apart, so most take one byte.
    """
    if not refs:
        return None
    out = bytearray()
    last = 0
    for ref in refs:
        value = ((ref - last) << 1) ^ ((ref - last) >> 63)  # zigzag: differences may be negative
        last = ref
        while value > 0x7F:
            out.append((value & 0x7F) | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def unpack_refs(packed: bytes | None) -> tuple[int, ...]:
    """Return what `pack_refs` packed."""
    refs: list[int] = []
    value = shift = last = 0
    for byte in packed or b"":
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            last += (value >> 1) ^ -(value & 1)
            refs.append(last)
            value = shift = 0
    return tuple(refs)


def _bound(journal_id: str, columns: Sequence[Any]) -> bytes:
    """Return what a record's seal binds: the format, the journal and every readable column."""
    return bytes(ormsgpack.packb((FORMAT, journal_id, *columns)))


def seal(draft: Draft, *, seq: int, ts: int, journal_id: str, key: DataKey) -> tuple[Any, ...]:
    """Return the SQLite row of `draft` as record `seq`.

    Raises:
        JournalDamagedError: It refers to a draft that was never committed.
    """
    refs = [ref if isinstance(ref, int) else ref.seq for ref in draft.refs]
    if 0 in refs:
        raise JournalDamagedError(
            f"a {draft.kind} of thread {draft.thread!r} refers to a part that was not recorded; "
            "nothing of it was written: run it again"
        )
    columns = (
        seq,
        ts,
        draft.kind,
        draft.thread,
        None if draft.scope == draft.thread else draft.scope,
        draft.run,
        draft.ns,
        draft.step,
        draft.parent,
        draft.name,
        draft.attempt,
        draft.ref,
        draft.prior,
        draft.digest,
        pack_refs(refs),
        draft.size,
    )
    return (*columns, key.seal(draft.plain, _bound(journal_id, columns)))


_KINDS = {str(kind): kind for kind in Kind}


def from_row(row: Sequence[Any]) -> Record:
    """Return the record of a row of either engine."""
    seq, ts, kind, thread, scope, *rest, refs, size, payload = row
    if refs is None:
        refs = ()
    elif isinstance(refs, list):
        refs = tuple(refs)
    else:
        refs = unpack_refs(refs)
    kind = _KINDS.get(kind) or Kind(kind)
    return Record._make((seq, ts, kind, thread, scope or thread, *rest, refs, size, payload))


def record_of(row: Sequence[Any], home: Path) -> Record:
    """Return the record of a row.

    Raises:
        JournalDamagedError: No record has such columns.
    """
    try:
        return from_row(row)
    except (TypeError, ValueError, AttributeError) as error:
        raise damage.found(
            home, f"record {row[0]} has columns that no record has ({error})"
        ) from error


def sqlite_row(record: Record) -> tuple[Any, ...]:
    """Return a record as SQLite stores it; all but the payload is what the seal binds."""
    seq, ts, kind, thread, scope, *rest, refs, size, payload = record
    return (
        seq,
        ts,
        str(kind),
        thread,
        None if scope == thread else scope,
        *rest,
        pack_refs(refs),
        size,
        payload,
    )


def open_payload(record: Record, *, journal_id: str, key: DataKey) -> bytes:
    """Return a record's plain payload.

    Raises:
        SealError: The record was altered, moved from another place, or sealed with another key.
    """
    *columns, payload = sqlite_row(record)
    assert payload is not None, "read without its payload"
    try:
        return key.open(payload, _bound(journal_id, columns))
    except SealError as error:
        raise SealError(
            f"record {record.seq} ({record.kind}) of thread {record.thread!r} does not open: "
            f"{error}; nothing of it was loaded, `notebook-agents journal repair` says what can be "
            "brought back"
        ) from error


def open_row(row: Sequence[Any], *, journal_id: str, key: DataKey) -> tuple[Sequence[int], bytes]:
    """Return references and plain payload of a row of either engine, and make no record of it.

    Raises:
        SealError: It does not open as it stands; as a record (`open_payload`) it may.
    """
    *columns, payload = row
    refs = columns[14]
    if isinstance(refs, list):
        columns[14] = pack_refs(refs)
    elif refs is None:
        refs = ()
    else:
        refs = unpack_refs(refs)
    return refs, key.open(payload, _bound(journal_id, columns))


class _Zstandard(threading.local):
    """A compressor and a decompressor for each thread: they must not be shared.

    A message is mostly the names of its fields, and so is a checkpoint. The dictionary has them: a
    message of 1 KB takes 720 bytes instead of 840, a checkpoint of a small state 190 instead of
    320, in the same 10 us.
    """

    def __init__(self) -> None:
        content = resource("store", "dictionary.bin").read_bytes()
        words = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        words.precompute_compress(level=_LEVEL)
        self.compress = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=words, write_dict_id=False
        ).compress
        self.decompress = zstandard.ZstdDecompressor(dict_data=words).decompress


_zstandard = _Zstandard()


def compress(plain: bytes) -> bytes:
    """Return `plain` with one leading byte that says how it is stored.

    0 is as it is, 1 a Zstandard frame that was made with store/dictionary.bin.
    """
    if len(plain) >= _COMPRESS_FROM:
        small = _zstandard.compress(plain)
        if len(small) < len(plain):
            return b"\x01" + small
    return b"\x00" + plain


def decompress(stored: bytes) -> bytes:
    """Return what `compress` was given."""
    return _zstandard.decompress(stored[1:]) if stored[:1] == b"\x01" else stored[1:]
