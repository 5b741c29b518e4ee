"""Taking values apart: which parts become chunks, and what is known to have its chunk already."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ormsgpack

from notebook_agents.errors import ValueNotKeptError
from notebook_agents.journal.records import Draft, compress
from notebook_agents.journal.values import (
    BRANCH,
    CHUNKED,
    DICT,
    LEAF,
    LIST,
    MERGED,
    PAGED,
    PARTS,
    RUN,
    SPAN,
)
from notebook_agents.journal.watch import Watch
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from notebook_agents.journal.values import Chunks, Codec, Node

CHUNK_FROM = 256
"""Serialised bytes from which a part is a chunk of its own."""
PAGE = 32
"""How many neighbours of a list share a chunk, or a branch; pages start at multiples of this index.
"""
GROUP = 8
"""How many items of a large dict share a branch on average. Where one ends the keys tell, so that
an item that comes or goes moves no others."""
WHOLE_UP_TO = 4096
"""Serialised bytes up to which a dict in a list is not taken apart: its keys would be repeated in
every record that refers to it."""
TEXT_BELOW = 512
"""Characters below which the texts of a group share its chunk: each by itself would take as much
again for its record and for what SQLite's small pages leave empty."""
_ATOMS = frozenset({str, int, float, bool, type(None)})  # their size shows
_FEW, _SHORT = 8, 64  # elements and characters of what is surely serialised whole
_DEPTH = 16  # containers inside containers are taken apart this deep, then serialised whole


@dataclass(frozen=True, slots=True)
class Page:
    """Neighbours in a list.

    Attributes:
        count: How many they are.
        nodes: One for each of them, or one for all.
        size: Their serialised bytes.
        full: Whether none can come; then there is one node.
        watch: Tells whether they changed, if that can be told.
    """

    count: int
    nodes: list[Node]
    size: int
    full: bool
    watch: Watch | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A channel's value as it was taken apart.

    Attributes:
        node: Its tree.
        size: Its serialised bytes.
        watch: Tells whether it changed, if that can be told; not of a list.
        pages: A list's.
    """

    node: Node
    size: int
    watch: Watch | None
    pages: list[Page]


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands in a value for a part that has its chunk already.

    Attributes:
        node: Its tree, as `Encoder.leaf` returned it.
        size: Its serialised bytes.
    """

    node: Any
    size: int


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
        self._met: dict[tuple[int, int], tuple[Any, Node, int]] = {}

    def encode(self, value: Any, what: str, *, channel: bool = False) -> Node:
        """Return the tree of a value.

        Args:
            value: The value.
            what: Names it in errors.
            channel: Whether it is a channel's, which appears elsewhere as a part of something. Of
                others only parts are shared.

        Raises:
            ValueNotKeptError: A part cannot be kept; the message names it.
        """
        node = self._node(value, what, 0)
        return self._branch(node) if channel and node[0] in (DICT, MERGED) else node

    def _node(self, value: Any, what: str, depth: int) -> Node:
        if depth < _DEPTH:
            kind = type(value)
            if kind is Stored:
                self.size += value.size
                node: Node = value.node
                return node
            if kind is list and value:
                return self._container(self._list, value, what, depth)
            if kind is dict and value and _named(value):
                if _looks_small(value):
                    with suppress(ValueNotKeptError):  # taken apart, what cannot be kept is named
                        tag, data = self._codec.dumps(value, what)
                        if len(data) < CHUNK_FROM:
                            return self.leaf(tag, data)
                return self._container(self._dict, value, what, depth)
            if kind in self._codec.part_types:
                tag, parts = self._codec.parts(value)
                nodes = [self._node(part, f"{what}.{tag}", depth + 1) for part in parts]
                return (PARTS, tag, nodes)
        tag, data = self._codec.dumps(value, what)
        return self.leaf(tag, data)

    def _container(
        self, take_apart: Callable[[Any, str, int], Node], value: Any, what: str, depth: int
    ) -> Node:
        """Return the node of a container; one that is met again in the same record stands as it is.

        A fan-out sends the same objects to each of its nodes. Taken apart is a copy: another
        thread may be changing the container.
        """
        known = self._met.get((id(value), depth))
        if known is None:
            before = self.size
            node = take_apart(value.copy(), what, depth)
            self._met[id(value), depth] = (value, node, self.size - before)
            return node
        self.size += known[2]
        return known[1]

    def leaf(self, tag: str, data: bytes) -> Node:
        """Return the tree of a value that is serialised already."""
        self.size += len(data)
        if len(data) < CHUNK_FROM:
            return (LEAF, tag, data)
        return (CHUNKED, *self._chunk(tag, data))

    def encode_again(self, value: Any, what: str, before: Kept | None) -> Kept:
        """Return the tree of a channel's value, of which an earlier one may be known.

        What did not change since then is not serialised again: see `journal/watch.py`.

        Args:
            value: The value.
            what: Names it in errors.
            before: What this returned for the channel's value before, or None.

        Raises:
            ValueNotKeptError: A part cannot be kept; the message names it.
        """
        if type(value) is list and value:
            known = before.pages if before is not None else []
            pages = self._pages(value.copy(), what, 0, known)
            return Kept(self._joined(pages, 0), 0, None, pages)
        if before is not None and before.watch is not None and before.watch.holds([value]):
            self.size += before.size
            return before
        watch = Watch.of([value], self._codec.objects)
        size = self.size
        node = self.encode(value, what, channel=True)
        return Kept(node, self.size - size, _still(watch, [value]), [])

    def _list(self, value: list[Any], what: str, depth: int) -> Node:
        return self._joined(self._pages(value, what, depth, None), depth)

    def _joined(self, pages: Sequence[Page], depth: int) -> Node:
        """Return the node of a list; where it is very long, pages are neighbours in pages."""
        full = [page.nodes[0] for page in pages if page.full]
        rest = pages[-1].nodes if pages and not pages[-1].full else []
        while len(full) > PAGE:
            whole = len(full) - len(full) % PAGE
            rest = [*full[whole:], *rest]
            full = [self._paged(full[at : at + PAGE]) for at in range(0, whole, PAGE)]
        node = (LIST, [*full, *rest])
        return self._branch(node) if depth else node

    def _pages(
        self, value: list[Any], what: str, depth: int, known: Sequence[Page] | None
    ) -> list[Page]:
        """Return a list's pages; only the last one may have room left.

        Args:
            value: The list.
            what: Names it in errors.
            depth: How many containers it is in.
            known: The pages of an earlier value; None: nobody will ask for these.
        """
        found: list[Page] = []
        for start in range(0, len(value), PAGE):
            items = value[start : start + PAGE]
            before, watch = None, None
            if known is not None:
                before = known[len(found)] if len(found) < len(known) else None
                if before is None or before.watch is None or not before.watch.holds(items):
                    before = None
                watch = self._watch(items, before)
            page = self._page(items, what, start, depth, before, watch)
            found.append(page if page is before else replace(page, watch=_still(watch, items)))
        return found

    def _watch(self, items: list[Any], before: Page | None) -> Watch | None:
        if before is None or before.watch is None:
            return Watch.of(items, self._codec.objects)
        if before.count == len(items):
            return before.watch
        more = Watch.of(items[before.count :], self._codec.objects)
        return more and before.watch.and_also(more)

    def _page(
        self,
        items: list[Any],
        what: str,
        start: int,
        depth: int,
        before: Page | None,
        watch: Watch | None,
    ) -> Page:
        """Return a page of a list; one node where its items are all small, or it is full."""
        count, full, outer = len(items), len(items) == PAGE, self.size
        if before is not None and before.count == count:
            self.size += before.size
            return before
        nodes: list[Node] = []
        if before is not None and len(before.nodes) == before.count:  # each has its own
            nodes, self.size = list(before.nodes), self.size + before.size
        elif (run := self._run_of_small(items, what)) is not None:
            return Page(count, [run], self.size - outer, full, watch)
        for place in range(len(nodes), count):
            nodes.append(self._element(items[place], f"{what}[{start + place}]", depth + 1))
        if full and all(node[0] == LEAF for node in nodes):
            tag, data = self._codec.dumps(items, what)
            self.size = outer + len(data)
            nodes = [(PAGED, *self._chunk(tag, data))]
        elif full:
            nodes = [self._paged(nodes)]
        return Page(count, nodes, self.size - outer, full, watch)

    def _paged(self, nodes: list[Node]) -> Node:
        """Return the node of neighbours in a list whose nodes become a branch."""
        return (PAGED, *self._branch_chunk((LIST, nodes)))

    def _dict(self, value: dict[str, Any], what: str, depth: int) -> Node:
        if len(value) <= PAGE:
            return self._items(value, what, depth)
        ends = {key: zlib.crc32(key.encode()) for key in value}
        groups: list[tuple[int, Node]] = []
        group: dict[str, Any] = {}
        for key, item in value.items():
            group[key] = item
            if not ends[key] % GROUP or len(group) == PAGE:
                groups.append((ends[key] // GROUP, self._group(group, what, depth + 1)))
                group = {}
        if group:
            groups.append((0, self._group(group, what, depth + 1)))
        while len(groups) > PAGE:
            groups = self._grouped(groups)
        node = (MERGED, [node for _, node in groups])
        return self._branch(node) if depth else node

    def _grouped(self, groups: list[tuple[int, Node]]) -> list[tuple[int, Node]]:
        """Return fewer groups, of neighbours, each with what tells where a larger one ends."""
        found: list[tuple[int, Node]] = []
        nodes: list[Node] = []
        for place, (end, node) in enumerate(groups, 1):
            nodes.append(node)
            ends = not end % GROUP and len(nodes) > 1  # whatever the keys are, they become fewer
            if ends or len(nodes) == PAGE or place == len(groups):
                found.append((end // GROUP, self._branch((MERGED, nodes))))
                nodes = []
        return found

    def _group(self, value: dict[str, Any], what: str, depth: int) -> Node:
        """Return the node of a group of a large dict's items; whole where all are short texts."""
        if all(type(item) is str and len(item) < TEXT_BELOW for item in value.values()):
            return self.leaf(*self._codec.dumps(value, what))
        return self._items(value, what, depth)

    def _items(self, value: dict[str, Any], what: str, depth: int) -> Node:
        """Return the node of a dict, or of a group of its items; whole where all are small."""
        nodes = [self._node(item, f"{what}[{key!r}]", depth + 1) for key, item in value.items()]
        node = (DICT, list(value), nodes)
        if depth == 0:
            return node
        if any(child[0] != LEAF for child in nodes):
            return self._branch(node)
        self.size -= sum(len(child[2]) for child in nodes)
        return self.leaf(*self._codec.dumps(value, what))

    def _branch(self, node: Node) -> Node:
        """Return a container as it is, or, where it is large, as a chunk that holds its tree."""
        if _weight(node) < CHUNK_FROM:
            return node
        return (CHUNKED, *self._branch_chunk(node))

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
        if kinds <= _ATOMS and type(page[0]) is str and len(page[0]) >= CHUNK_FROM:
            return None
        try:
            if not kinds <= _ATOMS and len(self._codec.dumps(page[0], what)[1]) >= CHUNK_FROM:
                return None
            tag, data = self._codec.dumps(page, what)
        except ValueNotKeptError:
            return None  # taken one by one, the one that cannot be kept is named
        if len(data) > PAGE * CHUNK_FROM // 4:
            return None
        self.size += len(data)
        if len(page) == PAGE:
            return (PAGED, *self._chunk(tag, data))
        return (RUN, tag, data)

    def _branch_chunk(self, node: Node) -> tuple[str, Draft | int, bytes]:
        """Return tag, chunk and digest of a node's tree; what it refers to is known by digests."""
        outer, self.refs = self.refs, []
        try:
            data = ormsgpack.packb(self.placed(node))
            refs = self.refs
        finally:
            self.refs = outer
        return self._chunk(BRANCH, data, refs, b"".join(_digests(node)))

    def _chunk(
        self, tag: str, data: bytes, refs: Sequence[Draft | int] = (), below: bytes = b""
    ) -> tuple[str, Draft | int, bytes]:
        plain = tag.encode() + b"\0" + data
        digest = self._chunks.key.digest(plain + below)
        chunk = self._chunks.find(digest)
        if chunk is None:
            chunk = Draft(
                kind=Kind.CHUNK,
                thread=self._thread,
                scope=self._scope,
                token=self._token,
                plain=compress(plain),
                digest=digest,
                refs=refs,
                size=len(data),
            )
            self._chunks.add(digest, chunk)
            self.new.append(chunk)
        return tag, chunk, digest

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


def _still(watch: Watch | None, values: Sequence[Any]) -> Watch | None:
    """Return the watch over values that were serialised behind it, if nothing changed meanwhile.

    Otherwise they may be stored as they were for a moment, and be again what the watch has seen.
    """
    return watch if watch is not None and watch.holds(values) else None


def _weight(node: Node) -> int:
    """Return about how many bytes a node takes where it is stored, chunks not counted."""
    kind = node[0]
    if kind in (LEAF, RUN):
        return len(node[2]) + 6
    if kind in (CHUNKED, PAGED):
        return 6
    below = sum(map(_weight, node[-1]))
    return below + sum(map(len, node[1])) + len(node[1]) if kind == DICT else below


def _digests(node: Node) -> Iterator[bytes]:
    """Yield the digests of the chunks that a node refers to, in the order of their places."""
    if node[0] in (CHUNKED, PAGED):
        yield node[3]
    elif node[0] not in (LEAF, RUN):
        for child in node[-1]:
            yield from _digests(child)


def _named(value: dict[Any, Any]) -> bool:
    """Whether the keys of a dict can stand in a tree: strings of valid Unicode."""
    if not all(type(key) is str for key in value):
        return False
    try:
        "".join(value).encode()
    except UnicodeEncodeError:
        return False
    return True


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
