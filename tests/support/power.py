"""What a disk may hold after a power loss, built from what a program asked of it.

The model promises as little as POSIX does. A file's content is on disk when the file was synced; a
name when its directory was. What was not synced may be there, in part or not at all, whatever the
order it was asked for in; a write may be torn at a sector. A rename in one directory is one thing.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECTOR = 512


@dataclass
class Change:
    """A write that no sync covers yet; without data, a cut to `at` bytes."""

    at: int
    data: bytes | None


@dataclass
class File:
    """A file: what is on disk for certain, and what was written since."""

    synced: bytes = b""
    pending: list[Change] = field(default_factory=list)


@dataclass
class Folder:
    """A directory: the names that are on disk for certain, and how they were changed since."""

    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def names(self) -> dict[str, Node]:
        """Return the names as the program sees them."""
        return _named(self.synced, self.pending)


Node = File | Folder


class Disk:
    """A disk below one directory, as a program changes it.

    Args:
        root: The directory; what is there now is on disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = _read(root)
        self.marks: list[str] = []

    def replay(self, trace: Path) -> Iterator[str]:
        """Take in a trace, change by change; yield what each was, before it."""
        for line in trace.read_text().splitlines():
            op, path, other, at, data = line.split("\t")
            yield op
            self._take(op, path, other, int(at), bytes.fromhex(data))

    def _take(self, op: str, path: str, other: str, at: int, data: bytes) -> None:
        if op == "mark":
            self.marks.append(path)
        elif op == "sync":
            node = self._find(path)
            if isinstance(node, File):
                node.synced, node.pending = _content(node.synced, node.pending), []
            elif node is not None:
                node.synced, node.pending = node.names(), []
        elif op in ("write", "cut"):
            file = self._find(path)
            if isinstance(file, File):  # else its last name is gone
                file.pending.append(Change(at, data if op == "write" else None))
        elif op in ("create", "mkdir"):
            folder, name = self._place(path)
            folder.pending.append({name: File() if op == "create" else Folder()})
        elif op == "unlink":
            folder, name = self._place(path)
            folder.pending.append({name: None})
        else:
            (folder, name), (into, new) = self._place(path), self._place(other)
            assert folder is into, f"{op} of {path} to another directory is not modelled"
            node = folder.names()[name]
            folder.pending.append({new: node} if op == "link" else {name: None, new: node})

    def _find(self, path: str) -> Node | None:
        node: Node = self.top
        for part in Path(path).relative_to(self.root).parts:
            found = node.names().get(part) if isinstance(node, Folder) else None
            if found is None:
                return None
            node = found
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self._find(str(Path(path).parent))
        assert isinstance(folder, Folder), path
        return folder, Path(path).name

    def after_a_crash(self, chance: Random, *, draws: int) -> Iterator[Folder]:
        """Yield what may be left: the four corners, and `draws` mixtures."""

        def every(pending: list) -> list:
            return pending

        def none(pending: list) -> list:
            return []

        def some(pending: list) -> list:
            return [each for each in pending if chance.random() < 0.5]

        def torn(pending: list[Change]) -> list[Change]:
            return [_torn(each, chance) for each in pending if chance.random() < 0.7]

        corners = [(names, data) for names in (every, none) for data in (every, none)]
        for names, data in [*corners, *[(some, torn)] * draws]:
            yield _left(self.top, names, data)


def states(
    disk: Disk, trace: Path, *, seed: int, draws: int = 2, every: int = 1
) -> Iterator[tuple[Folder, list[str]]]:
    """Yield what may be on disk after a crash at each point of a trace, and the marks until then.

    Args:
        disk: The disk before.
        trace: What `Shim` wrote.
        seed: What the mixtures are drawn with.
        draws: How many mixtures at each point.
        every: Of a row of writes, only every so-manieth is a point.
    """
    chance = Random(seed)
    seen: set[bytes] = set()
    for number, op in _points(disk, trace):
        if op == "write" and number % every:
            continue
        for left in disk.after_a_crash(chance, draws=draws):
            digest = _digest(left, len(disk.marks))
            if digest not in seen:
                seen.add(digest)
                yield left, list(disk.marks)


def _points(disk: Disk, trace: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(disk.replay(trace))
    yield 0, "end"


def build(folder: Folder, path: Path) -> None:
    """Make a directory hold what is left."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    for name, node in folder.synced.items():
        if isinstance(node, Folder):
            build(node, path / name)
        else:
            (path / name).write_bytes(node.synced)
            (path / name).chmod(0o600)


def _read(path: Path) -> Folder:
    return Folder(
        {
            each.name: _read(each) if each.is_dir() else File(each.read_bytes())
            for each in path.iterdir()
            if not each.name.endswith("-shm")
        }
    )


def _named(names: dict[str, Node], changes: list[dict[str, Node | None]]) -> dict[str, Node]:
    names = dict(names)
    for change in changes:
        for name, node in change.items():
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node
    return names


def _content(content: bytes, changes: list[Change]) -> bytes:
    data = bytearray(content)
    for change in changes:
        end = change.at if change.data is None else change.at + len(change.data)
        if len(data) < end:
            data.extend(bytes(end - len(data)))
        if change.data is None:
            del data[change.at :]
        else:
            data[change.at : end] = change.data
    return bytes(data)


def _torn(change: Change, chance: Random) -> Change:
    if change.data is None or len(change.data) <= SECTOR or chance.random() < 0.7:
        return change
    sectors = chance.randrange(len(change.data) // SECTOR)
    return Change(change.at, change.data[: sectors * SECTOR])


def _left(folder: Folder, names: Callable[[list], list], data: Callable[[list], list]) -> Folder:
    kept = {}
    for name, node in _named(folder.synced, names(folder.pending)).items():
        if isinstance(node, Folder):
            kept[name] = _left(node, names, data)
        else:
            kept[name] = File(_content(node.synced, data(node.pending)))
    return Folder(kept)


def _digest(folder: Folder, marks: int) -> bytes:
    digest = hashlib.blake2b(str(marks).encode())
    for name, node in sorted(folder.synced.items()):
        digest.update(f"{name}\0".encode())
        digest.update(_digest(node, 0) if isinstance(node, Folder) else node.synced)
    return digest.digest()
