"""Chunks that one thread made and another one of its scope stores first are of the other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_branches import put

import notebook_agents as na
from notebook_agents.errors import FencedError, ValueNotKeptError
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Claim, Draft
from notebook_agents.journal.check import check
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = "long enough to be a chunk of its own " * 10


def test_a_copy_makes_no_thread_of_its_deleted_source(
    home: Path, journal: na.Journal, forked: Callable[..., int]
) -> None:
    """What the source could not store is left over, and the copy stores it after the deletion."""
    saver = JournalSaver(journal)
    put(saver, 1, {"x": ["small"]})
    saver.copy_thread("t", "copy")
    with pytest.raises(ValueNotKeptError):
        put(saver, 2, {"x": [LONG], "y": object()})

    def elsewhere() -> None:
        with na.Journal.open(home) as other:
            other.delete_thread("t")

    assert forked(elsewhere) == 0
    put(saver, 2, {"x": [LONG]}, "copy")
    assert [head.thread for head in journal.heads()] == ["copy"]
    journal.close()
    assert check(home).findings == []


def driver(journal: na.Journal, thread: str, times: int = 1) -> int:
    """Claim a thread of scope `t` that often; return the newest token."""
    for _ in range(times):
        claim = Claim(agent="a", run=1, session=1, notebook=None)
        begun = Draft(kind=Kind.DECISION, thread=thread, scope="t", run=1, name="n", claim=claim)
        journal.append([begun], durable=True)
        journal.release(thread, claim.token)
    return claim.token


def chunk(thread: str, token: int) -> Draft:
    """Return a chunk that a driver met first."""
    return Draft(
        kind=Kind.CHUNK, thread=thread, scope="t", token=token, plain=b"\0x", digest=b"x" * 16
    )


def above(part: Draft, thread: str, token: int) -> Draft:
    """Return a record that refers to a chunk."""
    return Draft(
        kind=Kind.DECISION, thread=thread, scope="t", run=1, name="n", refs=[part], token=token
    )


def test_a_fork_stores_what_its_source_is_about_to(journal: na.Journal) -> None:
    """Both are driven by this process: whichever comes first, each keeps its own thread."""
    source, fork = driver(journal, "t"), driver(journal, "fork", times=2)
    part = chunk("t", source)
    journal.append([above(part, "fork", fork)], durable=True)
    journal.append([part, above(part, "t", source)], durable=True)
    assert [record.thread for record in journal.select(kinds=[Kind.CHUNK])] == ["fork"]


@pytest.mark.parametrize("together", [True, False])
def test_a_fork_that_is_refused_takes_nobody_with_it(journal: na.Journal, together: bool) -> None:
    """It lost its thread; the source's driver, whose chunk it met, has not."""
    source, fork = driver(journal, "t"), driver(journal, "fork", times=2)
    part = chunk("t", source)
    lost = above(part, "fork", fork - 1)
    if together:
        journal.stage([lost])
    else:
        with pytest.raises(FencedError, match="'fork'"):
            journal.append([lost], durable=True)
    journal.append([part, above(part, "t", source)], durable=True)
    assert [record.thread for record in journal.select(kinds=[Kind.CHUNK])] == ["t"]
