"""Values as chunks: growing state is stored once.

A value is taken apart: the elements of lists, the values of dicts, and whatever a codec says has
parts (LangGraph's `Send` and `Command`). A part whose bytes are `CHUNK_FROM` or more becomes a
record of its own, a *chunk*, found again by a keyed digest within its scope; small neighbours in a
long list share one. What is left is a *tree* that refers to chunks. `store/FORMAT.md` has the
layout.

A part is serialised each time it is stored, also when nothing about it seems to have changed: an
element that was changed in place gives other bytes, hence another chunk, and is never missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import ormsgpack

from notebook_agents.errors import JournalDamagedError
from notebook_agents.journal.records import Draft, compress, decompress
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notebook_agents.sealing import DataKey

CHUNK_FROM = 256
"""Serialised bytes from which a part is a chunk of its own."""
PAGE = 32
"""How many small neighbours of a list share a chunk; pages start at multiples of this index."""
_DEPTH = 5  # containers inside containers are taken apart this deep, then serialised whole

LEAF, CHUNKED, LIST, DICT, PARTS, PAGED, SAME, DELTA = range(8)
"""What a node of a tree is; the first element of its tuple. The last two refer to another record's
tree of the same name: `SAME` is that tree, `DELTA` its first elements and then some more."""

Node = tuple[Any, ...]


class Codec(Protocol):
    """Turns what is not taken apart into bytes and back."""

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Return a tag and the bytes of `value`; `what` names it in errors.

        Raises:
            ValueNotKeptError: It cannot be kept.
        """

    def loads(self, tag: str, data: bytes) -> Any:
        """Return the value of a tag and its bytes."""

    def parts(self, value: Any) -> tuple[str, list[Any]] | None:
        """Return a tag and the parts of a value that has some, else None."""

    def whole(self, tag: str, parts: list[Any]) -> Any:
        """Return the value of a tag and its parts."""


class Chunks:
    """The chunks of one scope that are known to this process, by digest."""

    def __init__(self, key: DataKey, known: dict[bytes, int]) -> None:
        self.key = key
        self._known: dict[bytes, Draft | int] = dict(known)

    def find(self, digest: bytes) -> Draft | int | None:
        """Return the chunk with this digest, if it is recorded or about to be."""
        found = self._known.get(digest)
        if isinstance(found, Draft) and found.seq:
            found.plain = b""  # committed: only its number is needed from now on
        return found

    def add(self, digest: bytes, draft: Draft) -> None:
        """Remember a chunk that is about to be recorded."""
        self._known[digest] = draft

    def forget_uncommitted(self) -> None:
        """Drop what was never committed: its append failed."""
        self._known = {
            digest: chunk if isinstance(chunk, int) else chunk.seq
            for digest, chunk in self._known.items()
            if isinstance(chunk, int) or chunk.seq
        }


class Encoder:
    """Takes one record's values apart; collects the chunks it needs and does not find.

    Attributes:
        new: Chunk records to append before the record itself.
        refs: What the record refers to; trees name them by their place in here.
        size: Serialised bytes of all values, chunks that were already there included.
    """

    def __init__(
        self, codec: Codec, chunks: Chunks, *, thread: str, scope: str, token: int | None
    ) -> None:
        self._codec = codec
        self._chunks = chunks
        self._thread = thread
        self._scope = scope
        self._token = token
        self.new: list[Draft] = []
        self.refs: list[Draft | int] = []
        self.size = 0

    def encode(self, value: Any, what: str) -> Node:
        """Return the tree of `value`; `what` names it in errors.

        Raises:
            ValueNotKeptError: A part cannot be kept; the message names it.
        """
        return self._node(value, what, 0)

    def _node(self, value: Any, what: str, depth: int) -> Node:
        if depth < _DEPTH:
            kind = type(value)
            if kind is list and value:
                return self._list(value, what, depth)
            if kind is dict and value and all(type(key) is str for key in value):
                nodes = [
                    self._node(item, f"{what}[{key!r}]", depth + 1) for key, item in value.items()
                ]
                return self._small((DICT, list(value), nodes), value, what, depth)
            split = self._codec.parts(value)
            if split is not None:
                tag, parts = split
                nodes = [self._node(part, f"{what}.{tag}", depth + 1) for part in parts]
                return (PARTS, tag, nodes)
        tag, data = self._codec.dumps(value, what)
        return self._leaf(tag, data)

    def _leaf(self, tag: str, data: bytes) -> Node:
        self.size += len(data)
        if len(data) < CHUNK_FROM:
            return (LEAF, tag, data)
        return (CHUNKED, tag, self._chunk(tag.encode() + b"\0" + data, len(data)))

    def _list(self, value: list[Any], what: str, depth: int) -> Node:
        nodes = [self._node(item, f"{what}[{i}]", depth + 1) for i, item in enumerate(value)]
        if depth and all(node[0] == LEAF for node in nodes):
            return self._small((LIST, nodes), value, what, depth)
        paged: list[Node] = []
        for start in range(0, len(nodes), PAGE):
            page = nodes[start : start + PAGE]
            if len(page) == PAGE and all(node[0] == LEAF for node in page):
                data = ormsgpack.packb([[tag, leaf] for _, tag, leaf in page])
                paged.append((PAGED, self._chunk(b"\0\0" + data, 0)))
            else:
                paged.extend(page)
        return (LIST, paged)

    def _small(self, node: Node, value: Any, what: str, depth: int) -> Node:
        """Serialise a container whole if it holds nothing that deserves a chunk."""
        if depth == 0 or any(child[0] != LEAF for child in node[-1]):
            return node
        before = self.size - sum(len(child[2]) for child in node[-1])
        tag, data = self._codec.dumps(value, what)
        self.size = before
        return self._leaf(tag, data)

    def _chunk(self, plain: bytes, size: int) -> Draft | int:
        digest = self._chunks.key.digest(plain)
        chunk = self._chunks.find(digest)
        if chunk is None:
            chunk = Draft(
                kind=Kind.CHUNK,
                thread=self._thread,
                scope=self._scope,
                token=self._token,
                plain=compress(plain),
                digest=digest,
                size=size or len(plain),
            )
            self._chunks.add(digest, chunk)
            self.new.append(chunk)
        return chunk

    def refer(self, target: Draft | int) -> int:
        """Return the place of `target` among this record's references."""
        self.refs.append(target)
        return len(self.refs) - 1

    def placed(self, node: Node) -> Node:
        """Return a tree as it is stored: chunks by their place among the references."""
        kind = node[0]
        if kind == LEAF:
            return node
        if kind == CHUNKED:
            return (CHUNKED, node[1], self.refer(node[2]))
        if kind == PAGED:
            return (PAGED, self.refer(node[1]))
        return (*node[:-1], [self.placed(child) for child in node[-1]])


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
        fetch: Returns the plain payloads of chunk records by number.
    """

    def __init__(self, codec: Codec, fetch: Callable[[Sequence[int]], dict[int, bytes]]) -> None:
        self._codec = codec
        self._fetch = fetch
        self._chunks: dict[int, bytes] = {}

    def decode(self, node: Sequence[Any], refs: Sequence[int]) -> Any:
        """Return the value of a tree whose record refers to `refs`.

        Raises:
            JournalDamagedError: A chunk is missing.
            SealError: A chunk does not open.
            ValueNotKeptError: A part cannot be rebuilt here.
        """
        self.prefetch([(node, refs)])
        return self._value(node, refs)

    def prefetch(self, trees: Sequence[tuple[Sequence[Any], Sequence[int]]]) -> None:
        """Read the chunks of several trees at once."""
        wanted = {refs[place] for node, refs in trees for place in _places(node)}
        missing = sorted(wanted - self._chunks.keys())
        if not missing:
            return
        self._chunks.update(self._fetch(missing))
        lost = [seq for seq in missing if seq not in self._chunks]
        if lost:
            raise JournalDamagedError(
                f"record {lost[0]} is missing from the journal: put its files back from a copy"
            )

    def _value(self, node: Sequence[Any], refs: Sequence[int]) -> Any:
        kind = node[0]
        if kind == LEAF:
            return self._codec.loads(node[1], node[2])
        if kind == CHUNKED:
            tag, _, data = self._plain(refs[node[2]]).partition(b"\0")
            return self._codec.loads(tag.decode(), data)
        if kind == LIST:
            items: list[Any] = []
            for child in node[1]:
                if child[0] == PAGED:
                    page = ormsgpack.unpackb(self._plain(refs[child[1]])[2:])
                    items.extend(self._codec.loads(tag, data) for tag, data in page)
                else:
                    items.append(self._value(child, refs))
            return items
        if kind == DICT:
            return {
                key: self._value(child, refs) for key, child in zip(node[1], node[2], strict=True)
            }
        return self._codec.whole(node[1], [self._value(child, refs) for child in node[2]])

    def _plain(self, seq: int) -> bytes:
        return decompress(self._chunks[seq])


def _places(node: Sequence[Any]) -> list[int]:
    """Return the places among the references that a tree needs."""
    kind = node[0]
    if kind == LEAF:
        return []
    if kind == CHUNKED:
        return [node[2]]
    if kind == PAGED:
        return [node[1]]
    return [place for child in node[-1] for place in _places(child)]
