"""The table of wrapped keys: little room for each, and found again when SQLite reads it no more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from test_journal import names, note

from notebook_agents.errors import KeyMissingError
from notebook_agents.journal import Journal
from notebook_agents.journal.queue_file import PAGE_BYTES
from notebook_agents.journal.remains import read_queue

if TYPE_CHECKING:
    from pathlib import Path

THREADS = ["generation", "created", *(f"thread-{n}" for n in range(300))]


def fill(home: Path) -> dict[str, bytes]:
    """Make a journal of many threads, whose records DuckDB has; return their wrapped keys."""
    with Journal.open(home) as journal:
        journal.append([note("a", thread=thread) for thread in THREADS], durable=True)
        journal.ingest()
        return dict(journal.queue.keys())


def spoil(home: Path, *said: bytes) -> None:
    """Overwrite the first page, which leads to all others, and those where something stands."""
    path = home / "queue.sqlite"
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), PAGE_BYTES):
        if at == 0 or any(word in content[at : at + PAGE_BYTES] for word in said):
            content[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(content)


def as_before(home: Path) -> None:
    """Have the table as journals have it that were made before it got row ids."""
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        rows = connection.execute("SELECT scope, wrapped FROM keys").fetchall()
        (trigger,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'key_deleted'"
        ).fetchone()
        connection.execute("DROP TABLE keys")
        connection.execute(
            "CREATE TABLE keys (scope TEXT PRIMARY KEY, wrapped BLOB NOT NULL) WITHOUT ROWID"
        )
        connection.execute(trigger)
        connection.executemany("INSERT INTO keys VALUES (?, ?)", rows)
        connection.commit()
    (home / "queue.mark").unlink()


def test_a_key_takes_no_page_of_its_own(home: Path) -> None:
    """Every opening digests the file: what is empty in it takes as long as what is not."""
    fill(home)
    assert (home / "queue.sqlite").stat().st_size / len(THREADS) < 0.75 * PAGE_BYTES


@pytest.mark.parametrize("older", [False, True])
def test_keys_are_found_page_by_page(home: Path, older: bool) -> None:
    """Nothing leads to them any more."""
    keys = fill(home)
    if older:
        as_before(home)
    spoil(home)
    assert read_queue(home).keys == keys


def test_what_leads_to_a_key_is_not_taken_for_what_the_journal_says(home: Path) -> None:
    """The index has rows of a name and a number, as `meta` has."""
    fill(home)
    spoil(home, b"keys_deleted")
    assert read_queue(home).meta == {}


def test_a_journal_that_was_made_before_is_used_as_it_is(home: Path) -> None:
    """Keys are read, added and deleted in the table that it has."""
    fill(home)
    as_before(home)
    with Journal.open(home) as journal:
        assert names(journal, "thread-7") == ["a"]
        journal.append([note("b", thread="thread-7"), note("b", thread="new")], durable=True)
        journal.delete_thread("thread-8")
    with Journal.open(home) as journal:
        assert [journal.payload(seq.seq) for seq in journal.select(thread="new")] == [b"b"]
        assert names(journal, "thread-7") == ["a", "b"]
        with pytest.raises(KeyMissingError):
            journal.stored_key("thread-8")
