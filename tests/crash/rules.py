"""What a ledger must never show, whatever was killed. One-sided: acknowledged ⊆ journal.

Pure functions of the lines, so that they can be tested without killing anybody: a rule that no
ledger can break would prove nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .ledger import Line, What

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def violations(lines: Sequence[Line]) -> list[str]:
    """Return one sentence for each broken promise of one thread's lines, none if all are kept."""
    return [
        *fired_again(lines),
        *lost(lines),
        *keys_changed(lines),
        *values_changed(lines),
    ]


def acknowledged(lines: Iterable[Line]) -> set[str]:
    """Return the labels that somebody was told have returned, by a value or by an observer."""
    lines = list(lines)
    labels = _labels(lines)
    return {line.label for line in lines if line.what is What.ACK} | {
        labels[line.key] for line in lines if line.what is What.REPORTED and line.key in labels
    }


def fired_again(lines: Sequence[Line]) -> list[str]:
    """Return the effects of steps that had returned, or that one process fired twice.

    A step has returned when somebody was told so, or when a fresh process found its result in the
    journal. Counted by label: a step that came back under another key has still been fired again.
    Only behind an injected exception may one process fire a step twice: a retry policy does.
    """
    labels = _labels(lines)
    returned: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    broken = []
    for line in lines:
        if line.what is What.EFFECT:
            if line.label in returned:
                broken.append(
                    f"{line.label} fired in life {line.life}; it had returned in life "
                    f"{returned[line.label]}"
                )
            elif (line.label, line.life) in seen:
                broken.append(f"{line.label} fired twice in life {line.life}")
            seen.add((line.label, line.life))
        elif line.what is What.FIRED:
            seen.clear()
        elif line.what is What.ACK:
            returned.setdefault(line.label, line.life)
        elif line.what is What.REPORTED and line.key in labels:
            returned.setdefault(labels[line.key], line.life)
        elif line.what is What.AUDIT:
            for key in line.value:
                if key in labels:
                    returned.setdefault(labels[key], line.life)
    return broken


def lost(lines: Sequence[Line]) -> list[str]:
    """Return the steps that were acknowledged and that a later look into the journal missed."""
    labels = _labels(lines)
    told: dict[str, int] = {}
    before: dict[str, int] = {}
    broken = []
    for line in lines:
        if line.what is What.ACK:
            told.setdefault(line.label, line.life)
        elif line.what is What.REPORTED and line.key in labels:
            told.setdefault(labels[line.key], line.life)
        elif line.what is What.LOOKS:
            before = dict(told)  # what is acknowledged while it reads may be missed
        elif line.what is What.AUDIT:
            found = {labels[key] for key in line.value if key in labels}
            broken += [
                f"{label} was acknowledged in life {life}; life {line.life} does not find it"
                for label, life in before.items()
                if label not in found
            ]
    return broken


def keys_changed(lines: Sequence[Line]) -> list[str]:
    """Return the steps whose attempts reached the outside under different idempotency keys."""
    keys = defaultdict(set)
    for line in lines:
        if line.what is What.EFFECT:
            keys[line.label].add(line.key)
    broken = [f"{label} had {len(some)} keys" for label, some in keys.items() if len(some) > 1]
    owners = defaultdict(set)
    for label, some in keys.items():
        for key in some:
            owners[key].add(label)
    return broken + [
        f"{' and '.join(sorted(labels))} share the key {key}"
        for key, labels in owners.items()
        if len(labels) > 1
    ]


def values_changed(lines: Sequence[Line]) -> list[str]:
    """Return the steps that gave different values to different readers, or an unknown one.

    Every execution returns another value, so a step that ran again after somebody had its value
    shows here even if its effect was missed.
    """
    fired = defaultdict(set)
    given = defaultdict(set)
    for line in lines:
        if line.what is What.EFFECT:
            fired[line.label].add(line.value)
        elif line.what is What.ACK:
            given[line.label].add(line.value)
        elif line.what is What.DONE:
            for label, value in line.value["results"].items():
                given[label].add(value)
    broken = [f"{label} gave {len(some)} values" for label, some in given.items() if len(some) > 1]
    return broken + [
        f"{label} gave a value that it never returned"
        for label, some in given.items()
        if some - fired[label]
    ]


def _labels(lines: Iterable[Line]) -> dict[str, str]:
    """Return the label of each idempotency key that reached the outside."""
    return {line.key: line.label for line in lines if line.what is What.EFFECT and line.key}
