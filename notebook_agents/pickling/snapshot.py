"""Objects by name, pickled one by one, so that one that fails does not stop the others.

Objects that share something that can be changed are pickled together: they share it afterwards.
Large buffers (arrays, the columns of a data frame) are kept beside the pickle, in pieces, so that
what did not change of them is the same bytes again.
"""

from __future__ import annotations

import hashlib
import io
import sys
import types
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents.errors import NotebookAgentsError, ValueNotKeptError
from notebook_agents.pickling import containers, reopen
from notebook_agents.pickling.codec import CLOUDPICKLE, Pickler, Reduce, dumps, loads
from notebook_agents.pickling.refusals import Refusal
from notebook_agents.pickling.rules import RefusedError

if TYPE_CHECKING:
    import pickle
    from collections.abc import Iterable, Mapping

_BESIDE_FROM = 4096
"""Bytes from which on a buffer is kept beside the pickle."""
_PIECE = 16_000_000
"""Bytes of a piece: one element of an array changes one piece."""
_TRIES = 3
_DEAD = Refusal(
    "a weak reference to what is not among the objects", "keep the object itself beside it"
)


class Copied(NamedTuple):
    """A group as it can be stored.

    Attributes:
        names: Of the objects that were pickled together, sorted.
        data: The pickle of a dict of them.
        buffers: What is beside it, each in pieces.
        modules: Names of modules that it needs.
        digest: See `digest_of`.
    """

    names: tuple[str, ...]
    data: bytes
    buffers: list[list[bytes]]
    modules: frozenset[str]
    digest: bytes


class Group(NamedTuple):
    """Objects that were pickled together; their buffers are still their own.

    Attributes:
        names: As those of `Copied`, which `copied` makes of it.
        data: As there.
        raw: The objects' own buffers.
        modules: As there.
        digest: As there.
    """

    names: tuple[str, ...]
    data: bytes
    raw: list[memoryview]
    modules: frozenset[str]
    digest: bytes

    def copied(self) -> Copied:
        """Return it with copies of its buffers; other threads may have changed them since."""
        buffers = [
            [bytes(one[at : at + _PIECE]) for at in range(0, len(one), _PIECE)] for one in self.raw
        ]
        digest = digest_of(self.data, buffers)
        return Copied(self.names, self.data, buffers, self.modules, digest)


def digest_of(data: bytes, buffers: Iterable[Iterable[bytes | bytearray | memoryview]]) -> bytes:
    """Return a digest of a group's pickle and of its buffers, however these are cut."""
    digest = hashlib.sha256(b"%d;" % len(data))  # twice as fast as BLAKE2 where the CPU has it
    digest.update(data)
    for pieces in buffers:
        size = 0
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
        digest.update(b"%d;" % size)
    return digest.digest()


class Taken(NamedTuple):
    """Objects as they were.

    Attributes:
        groups: Those that are kept.
        refused: The others, with why.
    """

    groups: list[Group]
    refused: dict[str, str]


def take(objects: Mapping[str, Any], reduce: Reduce | None = None) -> Taken:
    """Pickle objects by name.

    Args:
        objects: By name.
        reduce: Returns what `__reduce__` may return, for objects that only the caller can keep,
            else None.
    """
    refused: dict[str, str] = {}
    passes: dict[str, _Pass] = {}
    given = {}
    for name in sorted(objects):
        try:
            given[name] = reopen.named(name, objects[name])
        except Exception as error:  # noqa: BLE001 - whatever a hook of the user's raises
            refused[name] = f"what on_restore keeps of it failed ({error!r})"
            continue
        made = _try(name, {name: given[name]}, reduce)
        if isinstance(made, str):
            refused[name] = made
        else:
            passes[name] = made
    groups = []
    for names in _together(passes):
        made = passes[names[0]]
        if len(names) > 1 or made.weak:
            again = _whole(names, given, passes, reduce, refused)
            if again is None:
                continue
            names, made = again
        groups.append(made.group(names))
    return Taken(groups, refused)


def give(data: bytes, buffers: Iterable[bytes | bytearray]) -> dict[str, Any]:
    """Return the objects of a group, by name.

    Functions that were defined in `__main__` see the globals of this one.

    Args:
        data: The group's pickle; its seal was opened.
        buffers: What was beside it, each in one piece.

    Raises:
        ValueNotKeptError: They cannot be rebuilt here.
    """
    main = vars(sys.modules["__main__"])
    writable = [one if isinstance(one, bytearray) else bytearray(one) for one in buffers]
    found = loads(data, main=main, buffers=writable)
    assert isinstance(found, dict)
    return found


class _Taking(Pickler):
    """Notes what it meets.

    Attributes:
        reduce: The caller's rule.
        strong: The objects that weak references may refer to; None: any.
        weak: Those that they do refer to.
        classes: Classes that went by value.
        modules: Names of the modules of classes and functions that went by name.
    """

    def __init__(self, file: io.BytesIO, beside: Any, reduce: Reduce | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=beside)
        self.reduce = reduce
        self.strong: set[int] | None = None
        self.weak: dict[int, Any] = {}
        self.classes: dict[int, type] = {}
        self.modules: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        """Reduce a value by a hook, the caller's rule, or as everything else is."""
        if isinstance(value, type | types.FunctionType):
            reduced = super().reducer_override(value)
            if reduced is NotImplemented:
                self.modules.add(value.__module__ or "")
            elif isinstance(value, type):
                self.classes[id(value)] = value
            return reduced
        if isinstance(value, types.ModuleType):
            self.modules.add(value.__name__)
        elif type(value) is weakref.ReferenceType:
            return self._weak(value)
        else:
            for rule in (reopen.reduce, containers.reduce, self.reduce):
                if rule is not None and (found := rule(value)) is not None:
                    return found
        return super().reducer_override(value)

    def _weak(self, reference: Any) -> Any:
        """Reduce a weak reference to what it refers to, if something else holds on to that."""
        target = reference()
        if target is None or (self.strong is not None and id(target) not in self.strong):
            raise RefusedError(reference, _DEAD)
        self.weak[id(target)] = target
        return (weakref.ref, (target,)) if self.strong is not None else (type(None), ())


class _Pass(NamedTuple):
    """What one pickling made, and met."""

    data: bytes
    raw: list[memoryview]
    modules: frozenset[str]
    met: dict[int, Any]
    weak: dict[int, Any]
    classes: dict[int, type]

    def group(self, names: Iterable[str]) -> Group:
        digest = digest_of(self.data, ([one] for one in self.raw))
        return Group(tuple(names), self.data, self.raw, self.modules, digest)


def _try(
    name: str, objects: dict[str, Any], reduce: Reduce | None, strong: set[int] | None = None
) -> _Pass | str:
    """Return objects as pickled, or why they cannot be kept."""
    for left in reversed(range(_TRIES)):
        try:
            return _pickled(objects, reduce, strong)
        except MemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error, RecursionError) or not left:
                return _fall_back(name, objects, reduce, error)
        except Exception as error:  # noqa: BLE001 - user classes may raise anything here
            return _fall_back(name, objects, reduce, error)
    raise AssertionError


def _pickled(objects: dict[str, Any], reduce: Reduce | None, strong: set[int] | None) -> _Pass:
    file = io.BytesIO()
    file.write(CLOUDPICKLE)
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        with suppress(BufferError):
            raw = buffer.raw()
            if raw.nbytes >= _BESIDE_FROM:
                buffers.append(raw)
                return False
        return True

    pickler = _Taking(file, beside, reduce)
    pickler.strong = strong
    pickler.dump(objects)
    met = {key: held for key, (_, held) in pickler.memo.copy().items() if _is_shared(held)}
    met.pop(id(objects), None)
    modules = frozenset(pickler.modules)
    return _Pass(file.getvalue(), buffers, modules, met, pickler.weak, pickler.classes)


def _fall_back(
    name: str, objects: dict[str, Any], reduce: Reduce | None, error: Exception
) -> _Pass | str:
    """Return what dill's rules make of it, or else the end of a sentence that says why not."""

    def both(value: object) -> Any:
        for rule in (reopen.reduce, containers.reduce, reduce):
            if rule is not None and (found := rule(value)) is not None:
                return found
        return None

    if isinstance(error, RefusedError) and error.refusal is _DEAD:
        return f"it is {_DEAD.is_a}; {_DEAD.instead}"
    try:
        value: Any = objects if len(objects) > 1 else objects[name]
        dumps(value, what="it", reduce=both)  # the path that it names starts at the object
        data = dumps(objects, what="it", reduce=both)
    except NotebookAgentsError as said:
        return _why(said)
    return _Pass(data, [], frozenset(), {id(value): value}, {}, {})


def _why(error: NotebookAgentsError) -> str:
    text = str(error)
    return text.partition(" cannot be kept: ")[2] if isinstance(error, ValueNotKeptError) else text


def _is_shared(value: object) -> bool:
    """Whether it matters that it is one object: it can be changed, or is known by its identity.

    Classes and functions are the same ones wherever they are loaded.
    """
    if isinstance(value, type | types.FunctionType | types.ModuleType):
        return False
    own = type(value).__hash__
    return own is None or own is object.__hash__


def _together(passes: Mapping[str, _Pass]) -> list[tuple[str, ...]]:
    """Return the names by what is to be pickled together."""
    inside: dict[int, dict[int, Any]] = {}
    for made in passes.values():
        for key, cls in made.classes.items():
            if key not in inside:
                inside[key] = _inside(cls)
    leader = {name: name for name in passes}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    seen: dict[int, str] = {}
    for name, made in passes.items():
        own = {key for cls in made.classes for key in inside[cls]}
        for key in (made.met.keys() | made.weak.keys()) - own:
            first = lead(seen.setdefault(key, name))
            mine = lead(name)
            leader[max(first, mine)] = min(first, mine)
    found: dict[str, list[str]] = {}
    for name in passes:
        found.setdefault(lead(name), []).append(name)
    return [tuple(names) for names in found.values()]


def _inside(cls: type) -> dict[int, Any]:
    """Return what belongs to a class that goes by value."""
    with suppress(Exception):
        return _pickled({"": cls}, None, None).met
    return {}


def _whole(
    names: tuple[str, ...],
    given: Mapping[str, Any],
    passes: Mapping[str, _Pass],
    reduce: Reduce | None,
    refused: dict[str, str],
) -> tuple[tuple[str, ...], _Pass] | None:
    """Return objects pickled together; those whose weak references would be dead are refused."""
    while names:
        strong = {key for name in names for key in passes[name].met}
        strong |= {id(given[name]) for name in names}
        dead = [name for name in names if not strong.issuperset(passes[name].weak)]
        if not dead:
            break
        refused.update(dict.fromkeys(dead, f"it is {_DEAD.is_a}; {_DEAD.instead}"))
        names = tuple(name for name in names if name not in dead)
    if not names:
        return None
    objects = {name: given[name] for name in names}
    made = _try(names[0], objects, reduce, strong)
    if isinstance(made, str):
        refused.update(dict.fromkeys(names, made))
        return None
    return names, made
