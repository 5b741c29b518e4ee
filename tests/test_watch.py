"""Whatever is done to a value in place, its watch notices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from notebook_agents.graph.codec import StateCodec
from notebook_agents.journal.watch import Watch

OBJECTS = StateCodec.objects
ATOMS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, "a", "b", b"a"])
MESSAGES = st.builds(
    AIMessage,
    content=st.sampled_from(["a", "b"]),
    additional_kwargs=st.dictionaries(st.sampled_from("ab"), ATOMS, max_size=2),
)
VALUES = st.recursive(
    ATOMS | MESSAGES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=12,
)


def containers(value: Any) -> list[Any]:
    """Return all that can be changed in a value."""
    if isinstance(value, list):
        return [value, *(found for item in value for found in containers(item))]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in containers(item))]
    if isinstance(value, AIMessage):
        return [value, *containers(value.additional_kwargs)]
    return []


def shape(value: Any) -> Any:
    """Return what tells two values apart, types of numbers included."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, AIMessage):
        return (shape(value.__dict__), shape(value.model_extra))
    return (type(value), value)


def change(data: st.DataObject, place: Any, other: Any) -> None:
    """Change a container or a message in one of the ways that there are."""
    if isinstance(place, AIMessage):
        field = data.draw(st.sampled_from(["content", "name", "additional_kwargs", "new"]))
        setattr(place, field, other)
    elif isinstance(place, dict):
        if place and data.draw(st.booleans()):
            place.pop(data.draw(st.sampled_from(list(place))))
        if not place or data.draw(st.booleans()):
            place[data.draw(st.sampled_from("abcd"))] = other
    elif place and data.draw(st.booleans()):
        place[data.draw(st.integers(0, len(place) - 1))] = other
    elif place and data.draw(st.booleans()):
        place.pop()
    else:
        place.insert(data.draw(st.integers(0, len(place))), other)


@given(st.data(), st.lists(VALUES, min_size=1, max_size=3), VALUES)
def test_a_change_is_noticed(data: st.DataObject, values: list[Any], other: Any) -> None:
    """A value that is another one after one or two changes is never taken for the same."""
    watch = Watch.of(values[:-1], OBJECTS)
    more = Watch.of(values[-1:], OBJECTS)
    assert watch is not None and more is not None
    watch = watch.and_also(more)
    assert watch.holds(values)
    assert watch.holds([*values, other])
    before, places = shape(values), containers(values)[1:]
    if not places:
        return
    for _ in range(data.draw(st.integers(1, 2))):
        change(data, data.draw(st.sampled_from(places)), copy.deepcopy(other))
    if shape(values) != before:
        assert not watch.holds(values)


def test_other_values_are_others() -> None:
    """Fewer values, equal ones that are not the same objects, and another order."""
    values = [HumanMessage("a", id="1"), HumanMessage("b", id="2")]
    watch = Watch.of(values, OBJECTS)
    assert watch is not None
    assert not watch.holds(values[:1])
    assert not watch.holds(values[::-1])
    assert not watch.holds(copy.deepcopy(values))


@pytest.mark.parametrize("value", [{1, 2}, bytearray(2), object(), (1, []), {(1,): 2}])
def test_what_cannot_be_watched_is_not(value: Any) -> None:
    """Of anything but plain data and messages nothing is said: it is serialised each time."""
    assert Watch.of([value], OBJECTS) is None
    assert Watch.of([[{"deep": value}]], OBJECTS) is None


def test_a_message_of_another_class_or_other_fields_altogether() -> None:
    """Also what nobody should do to a message is seen."""
    for what in ("__class__", "__dict__"):
        message = HumanMessage("a", id="1")
        watch = Watch.of([message], OBJECTS)
        assert watch is not None
        other = AIMessage("a", id="1")
        object.__setattr__(message, what, getattr(other, what))
        assert not watch.holds([message])
