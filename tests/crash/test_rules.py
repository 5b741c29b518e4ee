"""Every rule can be broken: each test shows a ledger that breaks one, and one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import rules
from .ledger import Ledger, Line, What, note, write_to

if TYPE_CHECKING:
    from pathlib import Path


def _effect(label: str, *, life: int = 1, key: str = "", value: str = "v") -> Line:
    return Line(what=What.EFFECT, life=life, label=label, key=key or f"key-{label}", value=value)


def _ack(label: str, *, life: int = 1, value: str = "v") -> Line:
    return Line(what=What.ACK, life=life, label=label, value=value)


def _reported(label: str, *, life: int = 1) -> Line:
    return Line(what=What.REPORTED, life=life, key=f"key-{label}")


LOOKS = Line(what=What.LOOKS, life=2)


def _audit(*labels: str) -> Line:
    return Line(what=What.AUDIT, life=2, value=[f"key-{label}" for label in labels])


def _done(life: int = 2, **results: str) -> Line:
    return Line(what=What.DONE, life=life, value={"results": results})


KEPT = [
    [_effect("a"), _ack("a"), LOOKS, _audit("a"), _done(a="v")],
    [_effect("a"), LOOKS, _ack("a"), _audit(), _done(a="v")],
    # In doubt: nobody was told, so it runs again, under the same key.
    [_effect("a"), _audit(), _effect("a", life=2, value="w"), _ack("a", life=2, value="w")],
    # The journal may know more than anybody was told.
    [_effect("a"), _audit("a"), _done(a="v")],
    # What an exception cut off is what a retry policy is there for.
    [_effect("a"), Line(what=What.FIRED, life=1), _effect("a", value="w"), _done(a="w")],
]

BROKEN = {
    "fired again after an acknowledgement": [
        [_effect("a"), _ack("a"), _effect("a", life=2)],
        "a fired in life 2; it had returned in life 1",
    ],
    "fired again after the observers were told": [
        [_effect("a"), _reported("a"), _effect("a", life=2)],
        "a fired in life 2; it had returned in life 1",
    ],
    "fired again after the journal had it": [
        [_effect("a"), _audit("a"), _effect("a", life=2)],
        "a fired in life 2; it had returned in life 2",
    ],
    "fired twice by one process": [
        [_effect("a"), _effect("a")],
        "a fired twice in life 1",
    ],
    "acknowledged and lost": [
        [_effect("a"), _ack("a"), LOOKS, _audit()],
        "a was acknowledged in life 1; life 2 does not find it",
    ],
    "reported and lost": [
        [_effect("a"), _reported("a"), LOOKS, _audit()],
        "a was acknowledged in life 1; life 2 does not find it",
    ],
    "another key": [
        [_effect("a"), _effect("a", life=2, key="other")],
        "a had 2 keys",
    ],
    "a shared key": [
        [_effect("a", key="same"), _effect("b", key="same")],
        "a and b share the key same",
    ],
    "another value than was acknowledged": [
        [_effect("a"), _ack("a"), _effect("a", life=2, value="w"), _done(a="w")],
        "a gave 2 values",
    ],
    "a value from nowhere": [
        [_effect("a"), _done(a="w")],
        "a gave a value that it never returned",
    ],
}


@pytest.mark.parametrize(
    "lines", KEPT, ids=["in order", "while it looked", "in doubt", "unacknowledged", "retried"]
)
def test_what_may_happen_breaks_no_rule(lines: list[Line]) -> None:
    """A ledger that keeps every promise is judged to."""
    assert rules.violations(lines) == []


@pytest.mark.parametrize(("lines", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_every_broken_promise_is_seen(lines: list[Line], sentence: str) -> None:
    """A ledger that breaks a promise is judged to, in a sentence that names the step."""
    assert sentence in rules.violations(lines)


def test_a_line_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """What was noted is what is read, with the life and the thread that wrote it."""
    ledger = Ledger(tmp_path / "ledger")
    write_to(ledger, life=3, thread="t")
    note(What.ACK, label="a", value="v")
    assert ledger.lines() == [Line(what=What.ACK, life=3, thread="t", label="a", value="v")]
    ledger.close()
