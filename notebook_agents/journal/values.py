"""Values as chunks: growing state is stored once.

A value is taken apart: the elements of lists, the values of dicts, and whatever a codec says has
parts (LangGraph's `Send` and `Command`). A part whose bytes are `CHUNK_FROM` or more becomes a
record of its own, a *chunk*, found again by a keyed digest within its scope; small neighbours in a
list share one. What is left is a *tree* that refers to chunks. `store/FORMAT.md` has the
layout.

A part is serialised each time it is stored, also when nothing about it seems to have changed: an
element that was changed in place gives other bytes, hence another chunk, and is never missed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import ormsgpack

from notebook_agents.errors import JournalDamagedError, ValueNotKeptError
from notebook_agents.journal.records import Draft, compress, decompress
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from notebook_agents.sealing import DataKey

CHUNK_FROM = 256
"""Serialised bytes from which a part is a chunk of its own."""
PAGE = 32
"""How many small neighbours of a list share a chunk; pages start at multiples of this index."""
WHOLE_UP_TO = 4096
"""Serialised bytes up to which a dict in a list is not taken apart: its keys would be repeated in
every record that refers to it."""
_ATOMS = frozenset({str, int, float, bool, type(None)})  # their size shows
_FEW, _SHORT = 8, 64  # elements and characters of what is surely serialised whole
_DEPTH = 5  # containers inside containers are taken apart this deep, then serialised whole

LEAF, CHUNKED, LIST, DICT, PARTS, PAGED, RUN, SAME, DELTA, SPAN = range(10)
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

    part_types: frozenset[type]
    """The types whose values have parts."""

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
                if _looks_small(value):
                    with suppress(ValueNotKeptError):  # taken apart, what cannot be kept is named
                        tag, data = self._codec.dumps(value, what)
                        if len(data) < CHUNK_FROM:
                            return self.leaf(tag, data)
                nodes = [
                    self._node(item, f"{what}[{key!r}]", depth + 1) for key, item in value.items()
                ]
                return self._small((DICT, list(value), nodes), value, what, depth)
            if kind in self._codec.part_types:
                tag, parts = self._codec.parts(value)
                nodes = [self._node(part, f"{what}.{tag}", depth + 1) for part in parts]
                return (PARTS, tag, nodes)
        tag, data = self._codec.dumps(value, what)
        return self.leaf(tag, data)

    def leaf(self, tag: str, data: bytes) -> Node:
        """Return the tree of a value that is serialised already."""
        self.size += len(data)
        if len(data) < CHUNK_FROM:
            return (LEAF, tag, data)
        return (CHUNKED, tag, self._chunk(tag.encode() + b"\0" + data, len(data)))

    def _list(self, value: list[Any], what: str, depth: int) -> Node:
        nodes: list[Node] = []
        for start in range(0, len(value), PAGE):
            page = value[start : start + PAGE]
            run = self._run_of_small(page, what)
            if run is None:
                nodes.extend(
                    self._element(item, f"{what}[{start + i}]", depth + 1)
                    for i, item in enumerate(page)
                )
            else:
                nodes.append(run)
        return (LIST, nodes)

    def _element(self, item: Any, what: str, depth: int) -> Node:
        """Return the node of a list's element; a dict of moderate size is one chunk."""
        if type(item) is dict:
            try:
                tag, data = self._codec.dumps(item, what)
            except ValueNotKeptError:
                return self._node(item, what, depth)  # names the key that cannot be kept
            if len(data) <= WHOLE_UP_TO:
                return self.leaf(tag, data)
        return self._node(item, what, depth)

    def _run_of_small(self, page: list[Any], what: str) -> Node | None:
        """Return one node for neighbours that are small together, None where one is large.

        The first tells cheaply what the others are like, so that a list of messages is not
        serialised twice.
        """
        kinds = set(map(type, page))
        if not self._codec.part_types.isdisjoint(kinds):
            return None
        if kinds <= _ATOMS:
            if type(page[0]) is str and len(page[0]) >= CHUNK_FROM:
                return None
        elif len(self._codec.dumps(page[0], what)[1]) >= CHUNK_FROM:
            return None
        try:
            tag, data = self._codec.dumps(page, what)
        except ValueNotKeptError:
            return None  # taken one by one, the one that cannot be kept is named
        if len(data) > PAGE * CHUNK_FROM // 4:
            return None
        self.size += len(data)
        if len(page) == PAGE:
            return (PAGED, tag, self._chunk(tag.encode() + b"\0" + data, len(data)))
        return (RUN, tag, data)

    def _small(self, node: Node, value: Any, what: str, depth: int) -> Node:
        """Serialise a dict whole if it holds nothing that deserves a chunk."""
        if depth == 0 or any(child[0] != LEAF for child in node[-1]):
            return node
        self.size -= sum(len(child[2]) for child in node[-1])
        return self.leaf(*self._codec.dumps(value, what))

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
        if kind in (LEAF, RUN):
            return node
        if kind in (CHUNKED, PAGED):
            return (kind, node[1], self.refer(node[2]))
        if kind == LIST:
            return (LIST, self.placed_all(node[1]))
        return (*node[:-1], [self.placed(child) for child in node[-1]])

    def placed_all(self, nodes: Sequence[Node]) -> list[Node]:
        """Return a list's nodes as they are stored: neighbouring chunks in one node."""
        stored: list[Node] = []
        for node in map(self.placed, nodes):
            last = stored[-1] if stored else (LEAF,)
            if node[0] == CHUNKED and last[0] == SPAN and last[1] == node[1]:
                stored[-1] = (SPAN, node[1], last[2], last[3] + 1)
            elif node[0] == CHUNKED:
                stored.append((SPAN, node[1], node[2], 1))
            else:
                stored.append(node)
        return stored


def _looks_small(value: dict[str, Any]) -> bool:
    """Whether a dict is so small and plain that serialising it whole settles it."""
    return len(value) <= _FEW and all(
        _is_short(item)
        or (type(item) is list and len(item) <= 2 and all(map(_is_short, item)))  # an update
        or (type(item) is dict and not item)
        for item in value.values()
    )


def _is_short(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) <= _SHORT
    return kind in _ATOMS


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
        fetch: Returns the plain payloads of chunk records by number.
    """

    def __init__(self, codec: Codec, fetch: Callable[[Sequence[int]], dict[int, bytes]]) -> None:
        self._codec = codec
        self._fetch = fetch
        self._chunks: dict[int, tuple[str, bytes]] = {}

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
        """Read the chunks of several trees at once."""
        wanted = {refs[place] for node, refs in trees for place in _places(node)}
        missing = sorted(wanted - self._chunks.keys())
        if not missing:
            return
        for seq, payload in self._fetch(missing).items():
            tag, _, data = decompress(payload).partition(b"\0")
            self._chunks[seq] = (tag.decode(), data)
        lost = [seq for seq in missing if seq not in self._chunks]
        if lost:
            raise lost_record(lost[0])

    def keep(self, chunks: Container[int]) -> None:
        """Forget all but these chunks."""
        self._chunks = {seq: chunk for seq, chunk in self._chunks.items() if seq in chunks}

    def value(self, node: Sequence[Any], refs: Sequence[int]) -> Any:
        """Return the value of a tree whose chunks were read before; see `decode`."""
        kind = node[0]
        if kind == LEAF:
            return self._codec.loads(node[1], node[2])
        if kind == CHUNKED:
            return self._codec.loads(*self._chunks[refs[node[2]]])
        if kind == LIST:
            return self._list(node[1], refs)
        if kind == DICT:
            return {
                key: self.value(child, refs) for key, child in zip(node[1], node[2], strict=True)
            }
        return self._codec.whole(node[1], [self.value(child, refs) for child in node[2]])

    def _list(self, nodes: Sequence[Any], refs: Sequence[int]) -> list[Any]:
        items: list[Any] = []
        for child in nodes:
            if child[0] == SPAN:
                places = range(child[2], child[2] + child[3])
                items += self._chunk_values([refs[place] for place in places])
            elif child[0] == PAGED:
                items += self._codec.loads(*self._chunks[refs[child[2]]])
            elif child[0] == RUN:
                items += self._codec.loads(child[1], child[2])
            else:
                items.append(self.value(child, refs))
        return items

    def _chunk_values(self, seqs: Sequence[int]) -> list[Any]:
        """Return the values of neighbouring chunks; of MessagePack all at once, as one array."""
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


def _places(node: Sequence[Any]) -> list[int]:
    """Return the places among the references that a tree needs."""
    kind = node[0]
    if kind in (LEAF, RUN):
        return []
    if kind in (CHUNKED, PAGED):
        return [node[2]]
    if kind == SPAN:
        return list(range(node[2], node[2] + node[3]))
    return [place for child in node[-1] for place in _places(child)]
