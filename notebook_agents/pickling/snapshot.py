"""Objects by name, pickled one by one, so that one that fails does not stop the others.

Objects that share something that can be changed are pickled together: they share it afterwards.
Large buffers (arrays, the columns of a data frame) are kept beside the pickle, in pieces, so that
what did not change of them is the same bytes again.
"""

from __future__ import annotations

import gc
import io
import sys
import types
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents.errors import NotebookAgentsError, ValueNotKeptError, ValueTooLargeError
from notebook_agents.pickling import beside, containers, reopen, texts
from notebook_agents.pickling.codec import CLOUDPICKLE, Bounded, Pickler, Reduce, dumps, loads
from notebook_agents.pickling.marks import mark_of
from notebook_agents.pickling.refusals import Refusal
from notebook_agents.pickling.rules import RefusedError
from notebook_agents.pickling.sharing import Sharing, dtype

if TYPE_CHECKING:
    import pickle
    from collections.abc import Collection, Iterable, Mapping, Sequence

_BESIDE_FROM = 4096
"""Bytes from which on a buffer is kept beside the pickle."""
PIECE = 4_000_000
"""Bytes of a piece: one element of an array changes one piece."""
_TRIES = 3
_RULES = (texts.reduce, dtype, beside.reduce)
_INSTEAD = "make it again after a restore, or give na.on_restore what does"
_DEAD = Refusal(
    "a weak reference to what is not among the objects", "keep the object itself beside it"
)


class Copied(NamedTuple):
    """A group as it can be stored.

    Attributes:
        names: Of the objects that were pickled together, sorted.
        data: The pickle of a dict of them, in pieces.
        buffers: What is beside it, each in pieces.
        modules: Names of modules that it needs.
        digest: See `digest_of`.
    """

    names: tuple[str, ...]
    data: list[Any]
    buffers: list[list[Any]]
    modules: frozenset[str]
    digest: bytes


class Group(NamedTuple):
    """Objects that were pickled together; their buffers are still their own.

    Attributes:
        names: As those of `Copied`, which `copied` makes of it.
        data: As there.
        raw: The objects' own buffers.
        marks: Of each buffer its `marks_of` at that moment.
        modules: As there.
        digest: As there.
    """

    names: tuple[str, ...]
    data: bytes
    raw: list[memoryview]
    marks: list[list[bytes]]
    modules: frozenset[str]
    digest: bytes

    @property
    def size(self) -> int:
        """Bytes of the pickle and of the buffers."""
        return len(self.data) + sum(map(len, self.raw))

    def copied(self) -> Copied:
        """Return it with copies of its buffers; other threads may have changed them since."""
        buffers = [[bytes(piece) for piece in pieces_of(one)] for one in self.raw]
        digest = digest_of(self.data, [list(map(mark_of, one)) for one in buffers])
        data = [bytes(piece) for piece in pieces_of(memoryview(self.data))]
        return Copied(self.names, data, buffers, self.modules, digest)


def pieces_of(buffer: bytearray | memoryview) -> Iterable[memoryview]:
    """Yield a buffer's pieces, in order."""
    view = memoryview(buffer)
    return (view[at : at + PIECE] for at in range(0, len(view), PIECE))


def marks_of(buffer: bytearray | memoryview) -> list[bytes]:
    """Return what tells whether a buffer is what it was: a digest of each of its pieces."""
    return [mark_of(piece) for piece in pieces_of(buffer)]


def digest_of(data: bytes, marks: Iterable[Sequence[bytes]]) -> bytes:
    """Return a digest of a group's pickle and of its buffers' marks."""
    parts = [mark_of(data)]
    for buffer in marks:
        parts += [b"%d;" % len(buffer), *buffer]
    return mark_of(b"".join(parts))


class Taken(NamedTuple):
    """Objects as they were.

    Attributes:
        groups: Those that are kept.
        refused: The others, with why.
    """

    groups: list[Group]
    refused: dict[str, str]


def take(
    objects: Mapping[str, Any],
    reduce: Reduce | None = None,
    *,
    known: Collection[str] = (),
    together: Iterable[tuple[str, ...]] = (),
    refused: Mapping[str, tuple[Any, str]] | None = None,
    limit: int | None = None,
) -> Taken:
    """Pickle objects by name.

    Args:
        objects: By name.
        reduce: Returns what `__reduce__` may return, for objects that only the caller can keep,
            else None.
        known: Globals of `__main__` that are there when the objects come back: its functions do
            not bring them along.
        together: The names of groups before: they are pickled once if they still belong together.
        refused: By name what was refused before, and why: no new reason is looked for.
        limit: How many bytes the pickle of a group may become, buffers not counted.
    """
    taking = _Taker(reduce, frozenset(known), limit)
    given = taking.given(objects)
    passes: dict[tuple[str, ...], _Pass] = {}
    left = dict.fromkeys(given)
    for unit in together:
        names = tuple(name for name in unit if name in left)
        if len(names) > 1 and (made := taking.quickly(names)) is not None:
            passes[names] = made
            for name in names:
                del left[name]
    for name in left:
        made = taking.single(name, (refused or {}).get(name), objects[name])
        if made is not None:
            passes[name,] = made
    groups = []
    for units in _together(passes, taking.own(passes)):
        names, whole = units[0], passes[units[0]]
        if len(units) > 1 or whole.weak:
            again = taking.whole(units, passes)
            if again is None:
                continue
            names, whole = again
        groups.append(whole.group(names))
    return Taken(groups, taking.refused)


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
        known: Globals that functions of `__main__` do not bring along.
        strong: The objects that weak references may refer to; None: any.
        weak: Those that they do refer to.
        classes: Classes that went by value.
        modules: Names of the modules of classes and functions that went by name.
        named: Those classes.
    """

    def __init__(self, file: io.BytesIO, beside: Any, reduce: Reduce | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=beside)
        self.reduce = reduce
        self.known: frozenset[str] = frozenset()
        self.strong: set[int] | None = None
        self.weak: dict[int, Any] = {}
        self.classes: dict[int, type] = {}
        self.modules: set[str] = set()
        self.named: set[type] = set()

    def reducer_override(self, value: Any) -> Any:
        """Reduce a value by a hook, the caller's rule, or as everything else is."""
        if isinstance(value, type | types.FunctionType):
            reduced = super().reducer_override(value)
            if reduced is NotImplemented:
                self.modules.add(value.__module__ or "")
                if isinstance(value, type):
                    self.named.add(value)
            elif isinstance(value, type):
                self.classes[id(value)] = value
            elif self.known and value.__globals__ is vars(sys.modules["__main__"]):
                state = reduced[2][1]
                used = state["__globals__"]
                state["__globals__"] = {name: used[name] for name in used.keys() - self.known}
            return reduced
        if isinstance(value, types.ModuleType):
            self.modules.add(value.__name__)
        elif type(value) is weakref.ReferenceType:
            return self._weak(value)
        else:
            for rule in (reopen.reduce, containers.reduce, self.reduce, *_RULES):
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
        marks = [marks_of(one) for one in self.raw]
        digest = digest_of(self.data, marks)
        return Group(tuple(names), self.data, self.raw, marks, self.modules, digest)


class _Taker:
    """One call of `take`.

    Attributes:
        refused: What cannot be kept, by name, with why.
    """

    def __init__(self, reduce: Reduce | None, known: frozenset[str], limit: int | None) -> None:
        self._reduce = reduce
        self._known = known
        self._limit = limit
        self._sharing = Sharing()
        self._given: dict[str, Any] = {}
        self.refused: dict[str, str] = {}

    def given(self, objects: Mapping[str, Any]) -> Iterable[str]:
        """Take in objects; return the names of those that hooks did not refuse."""
        for name in sorted(objects):
            try:
                self._given[name] = reopen.named(name, objects[name])
            except Exception as error:  # noqa: BLE001 - whatever a hook of the user's raises
                self.refused[name] = f"what on_restore keeps of it failed ({error!r})"
        return self._given

    def own(self, units: Iterable[tuple[str, ...]]) -> set[int]:
        """Return the ids of objects and of their attributes; a class may hold them as well."""
        found = set[int]()
        for value in (self._given[name] for unit in units for name in unit):
            found.add(id(value))
            if not isinstance(value, type):  # what a class has is the class's
                with suppress(Exception):  # user classes may raise anything here
                    found.update(map(id, object.__getattribute__(value, "__dict__").values()))
        return found

    def quickly(self, names: Sequence[str], strong: set[int] | None = None) -> _Pass | None:
        """Return objects as pickled, or None where that failed; nothing is said of why."""
        try:
            return self._pickled({name: self._given[name] for name in names}, strong)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - user classes may raise anything here
            return None

    def single(self, name: str, before: tuple[Any, str] | None, value: Any) -> _Pass | None:
        """Return an object as pickled; None where it is refused.

        Args:
            name: Its name.
            before: What was refused under that name before, and why.
            value: The object itself.
        """
        made: _Pass | str | None
        if before is not None and before[0] is value:
            made = self.quickly((name,)) or before[1]
        else:
            made = self._try(name, {name: self._given[name]})
        if isinstance(made, str):
            self.refused[name] = made
            return None
        return made

    def whole(
        self, units: Sequence[tuple[str, ...]], passes: Mapping[tuple[str, ...], _Pass]
    ) -> tuple[tuple[str, ...], _Pass] | None:
        """Return objects pickled together; those whose weak references would be dead are refused.

        Args:
            units: Names of what was pickled together so far, and belongs together.
            passes: What that made.
        """
        while units:
            strong = {key for unit in units for key in passes[unit].met}
            strong |= {id(self._given[name]) for unit in units for name in unit}
            dead = [unit for unit in units if not strong.issuperset(passes[unit].weak)]
            if not dead:
                break
            for unit in dead:
                self.refused.update(dict.fromkeys(unit, f"it is {_DEAD.is_a}; {_DEAD.instead}"))
            units = [unit for unit in units if unit not in dead]
        if not units:
            return None
        names = tuple(sorted(name for unit in units for name in unit))
        made = self._try(names[0], {name: self._given[name] for name in names}, strong)
        if isinstance(made, str):
            self.refused.update(dict.fromkeys(names, made))
            return None
        return names, made

    def _try(
        self, name: str, objects: dict[str, Any], strong: set[int] | None = None
    ) -> _Pass | str:
        """Return objects as pickled, or why they cannot be kept."""
        for left in reversed(range(_TRIES)):
            try:
                return self._pickled(objects, strong)
            except MemoryError:
                raise
            except ValueTooLargeError:
                return f"it takes more than {(self._limit or 0) / 1e6:g} MB"
            except RuntimeError as error:
                if isinstance(error, RecursionError) or not left:
                    return _fall_back(name, objects, self._reduce, error)
            except Exception as error:  # noqa: BLE001 - user classes may raise anything here
                return _fall_back(name, objects, self._reduce, error)
        raise AssertionError

    def _pickled(self, objects: dict[str, Any], strong: set[int] | None) -> _Pass:
        return _pickled(objects, self._reduce, strong, self._known, self._limit, self._sharing)


def _pickled(
    objects: dict[str, Any],
    reduce: Reduce | None,
    strong: set[int] | None,
    known: frozenset[str] = frozenset(),
    limit: int | None = None,
    sharing: Sharing | None = None,
) -> _Pass:
    file = io.BytesIO() if limit is None else Bounded(limit)
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
    pickler.strong, pickler.known = strong, known
    sharing = Sharing() if sharing is None else sharing
    collects = gc.isenabled()
    gc.disable()  # the copy of the memo makes an object for each: it would look at them all, often
    try:
        pickler.dump(objects)
        met = {key: held for key, (_, held) in pickler.memo.copy().items() if sharing[type(held)]}
    finally:
        if collects:
            gc.enable()
    for key in (id(objects), *(sharing.held_by(pickler.named) & met.keys())):
        met.pop(key, None)
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
        # The path that it names starts at the object.
        dumps(value, what="it", reduce=both, instead=_INSTEAD)
        data = dumps(objects, what="it", reduce=both, instead=_INSTEAD)
    except NotebookAgentsError as said:
        return _why(said)
    return _Pass(data, [], frozenset(), {id(value): value}, {}, {})


def _why(error: NotebookAgentsError) -> str:
    text = str(error)
    return text.partition(" cannot be kept: ")[2] if isinstance(error, ValueNotKeptError) else text


def _together(
    passes: Mapping[tuple[str, ...], _Pass], own: Collection[int]
) -> list[list[tuple[str, ...]]]:
    """Return what was pickled by what is to be pickled together.

    Args:
        passes: What was pickled.
        own: The ids of what the objects themselves are, and have as attributes.
    """
    inside: dict[int, dict[int, Any]] = {}
    for made in passes.values():
        for key, cls in made.classes.items():
            if key not in inside:
                inside[key] = _inside(cls)
    leader = {unit: unit for unit in passes}

    def lead(unit: tuple[str, ...]) -> tuple[str, ...]:
        while leader[unit] != unit:
            unit = leader[unit]
        return unit

    # Objects of one class do not share what it holds: each brings it along, and it is the same
    # class again. But who has it without the class shares it with all of them.
    held: dict[tuple[str, ...], set[int]] = {}
    direct = set(own)
    for unit, made in passes.items():
        held[unit] = made.met.keys() | made.weak.keys()
        direct |= held[unit].difference(*(inside[cls] for cls in made.classes))
    seen: dict[int, tuple[str, ...]] = {}
    for unit, keys in held.items():
        for key in keys & direct:
            first = lead(seen.setdefault(key, unit))
            mine = lead(unit)
            leader[max(first, mine)] = min(first, mine)
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for unit in passes:
        found.setdefault(lead(unit), []).append(unit)
    return list(found.values())


def _inside(cls: type) -> dict[int, Any]:
    """Return what belongs to a class that goes by value."""
    with suppress(Exception):
        return _pickled({"": cls}, None, None).met
    return {}
