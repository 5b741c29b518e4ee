"""Whether values are still what they were, without looking at their bytes.

To serialise 2,000 messages at each step, in order to find that one was added, takes 40 ms; to look
at their fields takes one or two. A value that consists of strings, numbers, None and of dicts and
lists of these can change in two ways only: a container gets other items, or an object other fields.
So what each of them holds is compared by identity. What is remembered is held on to, so that no
identity is given twice. Of whatever consists of anything else nothing is said.

Whoever serialises asks again behind that. What is not told is a value that another thread changed
and changed back within the serialising, nor a message's field that was given another name in its
`__dict__`: to compare the names, too, costs a step at message 2,000 as much as all the rest.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

_ATOMS = frozenset({str, bytes, int, float, bool, type(None)})
_fields = attrgetter("__dict__")
_extra = attrgetter("__pydantic_extra__")


class Watch:
    """What some values were made of when this was made.

    Attributes:
        values: The values themselves.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._objects: list[Any] = []
        self._types: list[type] = []
        self._fields: list[dict[str, Any]] = []
        self._extras: list[Any] = []
        self._field_counts: list[int] = []
        self._field_values: list[Any] = []
        self._dicts: list[dict[Any, Any]] = []
        self._keys: list[Any] = []
        self._key_counts: list[int] = []
        self._key_values: list[Any] = []
        self._lists: list[list[Any]] = []
        self._item_counts: list[int] = []
        self._items: list[Any] = []
        self._empty: list[Any] = []

    @classmethod
    def of(cls, values: Sequence[Any], objects: Container[type]) -> Watch | None:
        """Look at values; None where one of them holds what cannot be watched.

        Args:
            values: The values. This is called before they are serialised: what another thread
                changes in between is taken for changed then.
            objects: Types of pydantic models that are nothing but their fields.
        """
        self = cls()
        self.values = list(values)
        todo = _more(values)
        seen: set[int] = set()
        while todo:
            value = todo.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            kind = type(value)
            if kind is dict:
                if not self._see_dict(value, todo):
                    return None
            elif kind is list:
                self._see_list(value, todo)
            elif kind in objects:
                self._see_object(value, todo)
            else:
                return None
        return self

    def _see_dict(self, value: dict[Any, Any], todo: list[Any]) -> bool:
        pairs = list(value.items())  # at once: another thread may be changing it
        if not pairs:
            self._empty.append(value)
            return True
        keys, held = zip(*pairs, strict=True)
        self._dicts.append(value)
        self._key_counts.append(len(pairs))
        self._keys += keys
        self._key_values += held
        todo += _more(held)
        return _ATOMS.issuperset(map(type, keys))

    def _see_list(self, value: list[Any], todo: list[Any]) -> None:
        held = list(value)
        if not held:
            self._empty.append(value)
            return
        self._lists.append(value)
        self._item_counts.append(len(held))
        self._items += held
        todo += _more(held)

    def _see_object(self, value: Any, todo: list[Any]) -> None:
        fields, extra = _fields(value), _extra(value)
        held = list(fields.values())
        self._objects.append(value)
        self._types.append(type(value))
        self._fields.append(fields)  # its keys are those of the class
        self._extras.append(extra)
        self._field_counts.append(len(held))
        self._field_values += held
        todo += _more([*held, extra])

    def and_also(self, other: Watch) -> Watch:
        """Return a watch over the values of both."""
        both = Watch()
        for name, held in vars(self).items():
            setattr(both, name, held + getattr(other, name))
        return both

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether these values begin with those that are watched, and those did not change."""
        if len(values) < len(self.values) or not _same(self.values, values):
            return False
        if not (self._objects or self._dicts or self._lists or self._empty):
            return True  # nothing but strings and numbers
        try:
            return self._unchanged()
        except RuntimeError:  # a dict changed its size while it was looked at
            return False

    def _unchanged(self) -> bool:
        return (
            not any(self._empty)
            and _same(self._types, map(type, self._objects))
            and _same(self._fields, map(_fields, self._objects))
            and _same(self._extras, map(_extra, self._objects))
            and self._field_counts == list(map(len, self._fields))
            and _same(self._field_values, chain.from_iterable(map(dict.values, self._fields)))
            and self._key_counts == list(map(len, self._dicts))
            and _same(self._keys, chain.from_iterable(self._dicts))
            and _same(self._key_values, chain.from_iterable(map(dict.values, self._dicts)))
            and self._item_counts == list(map(len, self._lists))
            and _same(self._items, chain.from_iterable(self._lists))
        )


def _more(held: Iterable[Any]) -> list[Any]:
    """Return what there is to look into."""
    return [value for value in held if type(value) not in _ATOMS]


def _same(known: Iterable[Any], now: Iterable[Any]) -> bool:
    return all(map(is_, known, now))
