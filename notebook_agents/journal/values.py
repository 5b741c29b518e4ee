"""Values as chunks: growing state is stored once.

A value is taken apart: the elements of lists, the values of dicts, and whatever a codec says has
parts (LangGraph's `Send` and `Command`). A part whose bytes are `CHUNK_FROM` or more becomes a
record of its own, a *chunk*, found again by a keyed digest within its scope; small neighbours
share one. What is left is a *tree* that refers to chunks, and where that is large itself its
branches are chunks, too: long lists in pages, large dicts in groups, so that a list with one more
element and a dict with another value share all but what changed. `store/FORMAT.md` has the layout.

A part is serialised each time it is stored, unless every container in it is seen to hold the very
objects that it held (`journal/watch.py`): an element that was changed in place gives other bytes,
hence another chunk, and is never missed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import ormsgpack

from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal.records import compress, decompress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from notebook_agents.journal.records import Draft, Record
    from notebook_agents.sealing import DataKey

    Fetch = Callable[[Sequence[int]], dict[int, tuple[Sequence[int], bytes]]]

LEAF, CHUNKED, LIST, DICT, PARTS, PAGED, RUN, SAME, DELTA, SPAN, MERGED = range(11)
"""What a node of a tree is; the first element of its tuple. `SAME` and `DELTA` refer to another
record's tree of the same name: it is that tree, or its first elements and then some more."""
BRANCH = "t"
"""The tag of a chunk that holds no value but a tree, which refers to chunks by its record's own
references."""

Node = tuple[Any, ...]
"""As it is built, a node that refers to a chunk has the chunk and its digest; as it is stored, the
chunk's place among the record's references."""


class Codec(Protocol):
    """Turns what is not taken apart into bytes and back."""

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of `value`; `what` names it in errors.

        Raises:
            ValueNotKeptError: It cannot be kept.
        """

    def loads(self, tag: str, data: bytes) -> Any:
        """Return the value of a tag and its bytes."""

    part_types: frozenset[type]
    """The types whose values have parts."""
    objects: frozenset[type]
    """Types of pydantic models whose bytes depend on their fields only."""

    def parts(self, value: Any) -> tuple[str, list[Any]]:
        """Return a tag and the parts of a value of one of `part_types`."""

    def whole(self, tag: str, parts: list[Any]) -> Any:
        """Return the value of a tag and its parts."""


class Chunks:
    """The chunks of one scope that are known to this process, by digest."""

    def __init__(self, key: DataKey, known: dict[bytes, int]) -> None:
        self.key = key
        self._known: dict[bytes, Draft | int] = dict(known)

    def find(self, digest: bytes) -> Draft | int | None:
        """Return the chunk with this digest, if it is recorded or about to be."""
        return self._known.get(digest)

    def add(self, digest: bytes, draft: Draft) -> None:
        """Remember a chunk that is about to be recorded."""
        self._known[digest] = draft


def complete(records: Iterable[Record]) -> dict[bytes, int]:
    """Return the numbers of chunks by digest, without branches of which a part was lost.

    To refer to such a branch would lose what is stored anew.

    Args:
        records: All chunk records of a scope, in order.
    """
    known: dict[bytes, int] = {}
    whole: set[int] = set()
    for record in records:
        if record.digest and whole.issuperset(record.refs):
            known[record.digest] = record.seq
            whole.add(record.seq)
    return known


def beginning(nodes: Sequence[Any], count: int) -> list[Any]:
    """Return the first `count` of a stored list's nodes, of which one stands for several chunks."""
    found: list[Any] = []
    for node in nodes:
        if count <= 0:
            break
        held = node[3] if node[0] == SPAN else 1
        found.append((SPAN, *node[1:3], count) if held > count else node)
        count -= held
    return found


def pack(tree: Any) -> bytes:
    """Return a payload: a tree, or plain data around several, compressed."""
    return compress(ormsgpack.packb(tree))


def unpack(payload: bytes) -> Any:
    """Return what `pack` packed; tuples come back as lists."""
    return ormsgpack.unpackb(decompress(payload))


class Decoder:
    """Puts the values of records together again.

    Args:
        codec: The codec that took them apart.
        fetch: Returns references and plain payloads of chunk records by number.

    Attributes:
        held: How many bytes it has read and not forgotten.
    """

    def __init__(self, codec: Codec, fetch: Fetch) -> None:
        self._codec = codec
        self._fetch = fetch
        self._chunks: dict[int, tuple[str, bytes]] = {}
        self._branches: dict[int, tuple[Sequence[Any], Sequence[int]]] = {}
        self._sizes: dict[int, int] = {}
        self.held = 0

    def decode(self, node: Sequence[Any], refs: Sequence[int]) -> Any:
        """Return the value of a tree whose record refers to `refs`.

        Raises:
            JournalDamagedError: A chunk is missing.
            SealError: A chunk does not open.
            ValueNotKeptError: A part cannot be rebuilt here.
        """
        self.prefetch([(node, refs)])
        return self.value(node, refs)

    def prefetch(self, trees: Sequence[tuple[Sequence[Any], Sequence[int]]]) -> None:
        """Read the chunks of several trees, in one read for each level of branches."""
        seen: set[int] = set()
        while trees:
            wanted: set[int] = set()
            for node, refs in trees:
                _add_needed(node, refs, wanted)
            wanted -= seen
            missing = sorted(wanted.difference(self._chunks, self._branches))
            if missing:
                self._read(missing)
            seen |= wanted
            trees = [self._branches[seq] for seq in wanted if seq in self._branches]

    def _read(self, seqs: Sequence[int]) -> None:
        for seq, (refs, payload) in self._fetch(seqs).items():
            self.take(seq, refs, payload)
        for seq in seqs:
            if seq not in self._chunks and seq not in self._branches:
                raise lost_record(seq)

    def take(self, seq: int, refs: Sequence[int], payload: bytes) -> None:
        """Have a chunk's record, with its plain payload."""
        said, _, data = decompress(payload).partition(b"\0")
        tag = said.decode()
        if refs and max(refs) >= seq:  # or it could be a part of itself
            raise JournalDamagedError(f"record {seq} refers to one that is not older")
        if tag == BRANCH:
            self._branches[seq] = (ormsgpack.unpackb(data), refs)
        else:
            self._chunks[seq] = (tag, data)
        self.held += len(data) - self._sizes.get(seq, 0)
        self._sizes[seq] = len(data)

    def keep(self, chunks: Iterable[int]) -> None:
        """Forget all but these chunks, and what they are made of."""
        kept: set[int] = set()
        todo = list(chunks)
        while todo:
            seq = todo.pop()
            if seq not in kept:
                kept.add(seq)
                todo += self._branches[seq][1] if seq in self._branches else ()
        self._chunks = {seq: chunk for seq, chunk in self._chunks.items() if seq in kept}
        self._branches = {seq: tree for seq, tree in self._branches.items() if seq in kept}
        self._sizes = {seq: size for seq, size in self._sizes.items() if seq in kept}
        self.held = sum(self._sizes.values())

    def value(self, node: Sequence[Any], refs: Sequence[int]) -> Any:
        """Return the value of a tree whose chunks were read before; see `decode`."""
        kind = node[0]
        if kind == LEAF:
            return self._codec.loads(node[1], node[2])
        if kind == CHUNKED:
            return self._chunk_value(refs[node[2]])
        if kind == LIST:
            return self._list(node[1], refs)
        if kind == DICT:
            return {
                key: self.value(child, refs) for key, child in zip(node[1], node[2], strict=True)
            }
        if kind == MERGED:
            groups = [self.value(child, refs) for child in node[1]]
            return {key: item for group in groups for key, item in group.items()}
        return self._codec.whole(node[1], [self.value(child, refs) for child in node[2]])

    def _list(self, nodes: Sequence[Any], refs: Sequence[int]) -> list[Any]:
        items: list[Any] = []
        for child in nodes:
            if child[0] == SPAN:
                places = range(child[2], child[2] + child[3])
                items += self._chunk_values([refs[place] for place in places])
            elif child[0] == PAGED:
                items += self._chunk_value(refs[child[2]])
            elif child[0] == RUN:
                items += self._codec.loads(child[1], child[2])
            else:
                items.append(self.value(child, refs))
        return items

    def _chunk_value(self, seq: int) -> Any:
        if seq in self._branches:
            return self.value(*self._branches[seq])
        return self._codec.loads(*self._chunks[seq])

    def _chunk_values(self, seqs: Sequence[int]) -> list[Any]:
        """Return the values of neighbouring chunks; of MessagePack all at once, as one array."""
        if not self._branches.keys().isdisjoint(seqs):
            return [self._chunk_value(seq) for seq in seqs]
        chunks = [self._chunks[seq] for seq in seqs]
        if len(chunks) > 1 and {tag for tag, _ in chunks} == {"m"}:
            header = b"\xdd" + len(chunks).to_bytes(4)
            with suppress(Exception):  # one may be nested so deep that it opens only by itself
                whole = self._codec.loads("m", header + b"".join([data for _, data in chunks]))
                if len(whole) == len(chunks):
                    found: list[Any] = whole
                    return found
        return [self._codec.loads(tag, data) for tag, data in chunks]


def lost_record(seq: int) -> JournalDamagedError:
    """Return the error of a record that another refers to and that is nowhere."""
    return JournalDamagedError(
        f"record {seq} is missing from the journal: put its files back from a copy"
    )


def _add_needed(node: Sequence[Any], refs: Sequence[int], to: set[int]) -> None:
    """Add the numbers of the chunks that a tree needs to others."""
    kind = node[0]
    if kind in (LEAF, RUN):
        return
    if kind in (CHUNKED, PAGED):
        to.add(refs[node[2]])
    elif kind == SPAN:
        to.update(refs[node[2] : node[2] + node[3]])
    else:
        for child in node[-1]:
            _add_needed(child, refs, to)
