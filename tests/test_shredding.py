"""What a deletion takes back, and what only another key does: copies of the files from before."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from test_compact import raw
from test_compact import said as note

from notebook_agents.errors import KeyMissingError, SealError
from notebook_agents.journal import Journal, keycopy, rotation
from notebook_agents.journal.check import check
from notebook_agents.journal.compact import compact
from notebook_agents.sealing import editing, load_ring

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def before(home: Path, tmp_path: Path) -> Path:
    """Copy a journal's files, then delete thread `gone` from it."""
    with Journal.open(home) as journal:
        for thread in ("gone", "stays"):
            journal.append([note(f"words of {thread}", thread=thread)], durable=True)
        journal.ingest()
    copy = tmp_path / "before"
    shutil.copytree(home, copy)
    with Journal.open(home) as journal:
        assert journal.delete_thread("gone")
    return copy


def payloads(home: Path, *seqs: int) -> list[bytes]:
    """Return what records hold."""
    with Journal.open(home, create=False) as journal:
        return [journal.payload(seq) for seq in seqs]


def test_old_records_do_not_open_with_what_is_left(home: Path, before: Path) -> None:
    """DuckDB's file from before, with the keys of now and the whole ring: no key, no words."""
    shutil.copy(before / "journal.1.duckdb", home / "journal.1.duckdb")
    with pytest.raises(KeyMissingError, match="'gone' was deleted"):
        payloads(home, 1)
    assert payloads(home, 2) == [b"words of stays"]
    assert keycopy.read(home)[1].keys() == {"stays"}
    with Journal.open(home) as journal:
        assert journal.queue.keys().keys() == {"stays"}
        journal.append([note("new", thread="gone")], durable=True)  # with another key
        with pytest.raises(SealError, match="record 1 "):
            journal.payload(1)


def test_a_compaction_leaves_no_trace_of_the_key(home: Path, before: Path) -> None:
    """Until then SQLite may have a copy of the row somewhere; who has the ring could use it."""
    wrapped = {
        scope: json.loads(one)["key"].encode() for scope, one in keycopy.read(before)[1].items()
    }
    assert wrapped["gone"] in raw(before)
    with Journal.open(home) as journal:
        assert compact(journal).erased
    assert wrapped["gone"] not in raw(home)
    assert wrapped["stays"] in raw(home)
    assert check(home).findings == []


def test_a_whole_copy_from_before_does_not_open_without_the_old_key(
    home: Path, before: Path
) -> None:
    """It has the wrapped key, so the master key has to go: rotated, and taken out of the ring."""
    old = load_ring().current_id
    editing.new()
    ring = load_ring()
    with Journal.open(home) as journal:
        rotation.rotate(journal, ring, ring.current)
    editing.remove(old)
    for seq in (1, 2):
        with pytest.raises(KeyMissingError, match=old):
            payloads(before, seq)
    assert payloads(home, 2) == [b"words of stays"]


def test_what_a_deletion_alone_cannot_take_back(before: Path) -> None:
    """A whole copy from before and the ring together open it, as SECURITY.md says."""
    assert payloads(before, 1) == [b"words of gone"]
