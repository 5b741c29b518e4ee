"""Arrays of strings among the objects that are kept, and what does not bring objects together."""

from __future__ import annotations

from typing import Any

import numpy
import pandas
import pytest

from notebook_agents.pickling import snapshot
from notebook_agents.pickling.texts import Texts

MANY = 3000


def group(value: Any, texts: Texts | None = None) -> snapshot.Group:
    """Return what is kept of one object."""
    taken = snapshot.take({"it": value}, None if texts is None else texts.reduce)
    assert taken.refused == {}
    return taken.groups[0]


def back(value: Any) -> Any:
    """Keep an object and load it again."""
    copied = group(value).copied()
    return snapshot.give(b"".join(copied.data), [b"".join(one) for one in copied.buffers])["it"]


def strings() -> list[str]:
    """Return strings of which some are alike, but no two one object."""
    return [f"né {number % 700}" for number in range(MANY)]


def holding(*some: Any) -> Any:
    """Return a large array of strings in which there are also these objects."""
    found = numpy.array(strings(), dtype=object)
    found[: len(some)] = some
    return found


def test_a_column_of_strings_is_a_buffer_beside_the_pickle():
    """Not a pickled object for each: what the pickle itself has does not grow with it."""
    kept = group(pandas.DataFrame({"name": strings()}))

    assert len(kept.data) < 3000
    assert sum(map(len, kept.raw)) > MANY


def test_frames_come_back_as_they_were():
    """Columns of strings, some missing; of objects, several in one array; parts of them."""
    frame = pandas.DataFrame({"a": strings(), "b": strings(), "n": range(MANY)})
    frame.loc[7, "a"] = None
    loose = pandas.DataFrame({"a": strings(), "b": strings()}, dtype=object)
    loose.loc[3, "a"] = None

    for one in (frame, loose, frame[::2], loose.iloc[::-1], loose["b"], frame.set_index("b")):
        again = back(one)
        if one.ndim == 1:
            pandas.testing.assert_series_equal(again, one)
        else:
            pandas.testing.assert_frame_equal(again, one)
    again = back(loose)
    again.loc[3, "a"] = "new"
    assert again.loc[3, "a"] == "new"


@pytest.mark.parametrize(
    "some",
    [
        ("\0", "\x1f"),
        ("\0\x1f\ufdd0",),
        ("\ud800",),
        ("", ""),
        (None, numpy.nan),
        (numpy.str_("x"),),
        (1.5, "x"),
        (float("nan"),),
        ([1], b"x"),
    ],
)
def test_whatever_else_is_among_them_comes_back(some):
    """Strings with what separates others, lone surrogates, missing ones, and other objects."""
    array = holding(*some)
    for one in (array, array.reshape(30, 100), numpy.asfortranarray(array.reshape(30, 100))):
        again = back(one)
        assert again.shape == one.shape and again.flags.writeable
        assert again.flags.f_contiguous == one.flags.f_contiguous
        pairs = list(zip(again.ravel(), one.ravel(), strict=True))
        assert all(type(left) is type(right) for left, right in pairs)
        assert all(left == right or left is right or left != left for left, right in pairs)


def test_an_array_is_read_once_while_its_strings_are_the_same():
    """A copy of it is known, too; a changed element is seen, and what is gone is forgotten."""
    texts, array = Texts(), numpy.array(strings(), dtype=object)
    first = group(array, texts)
    assert texts.seconds > 0

    texts.begin()
    assert group(array.copy(), texts).digest == first.digest
    assert texts.seconds == 0

    texts.begin()
    array[MANY // 2] = "changed"
    assert group(array, texts).digest != first.digest
    assert texts.seconds > 0

    texts.begin()
    texts.begin()
    assert not texts._known


def test_what_all_have_brings_no_objects_together():
    """A list of the class, a compiled function, the fields of a record type: nobody's own."""
    record = numpy.dtype([("x", "f8"), ("y", "i8")])
    objects = {
        "frame": pandas.DataFrame({"a": [1.5], "b": ["x"]}),
        "other": pandas.DataFrame({"c": [2.5], "d": ["y"]}),
        "series": pandas.Series([1.0], name="s"),
        "another": pandas.Series([2.0], name="t"),
        "points": numpy.zeros(3, record),
        "places": numpy.ones(3, record),
    }

    taken = snapshot.take(objects)

    assert sorted(one.names for one in taken.groups) == sorted((name,) for name in objects)
