"""New files from what is left of a journal: what a repair builds, before anything is renamed."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from notebook_agents.disk import fsync_directory, write_whole
from notebook_agents.journal import archive as archives
from notebook_agents.journal import compacted, heads, integrity, keycopy, lineage, mark
from notebook_agents.journal.inspection import Numbers
from notebook_agents.journal.integrity import QUEUE
from notebook_agents.journal.queue import Head
from notebook_agents.journal.queue_file import fill, lost_between, on_network
from notebook_agents.journal.records import sqlite_row
from notebook_agents.journal.sql import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from notebook_agents.journal.records import Record
    from notebook_agents.journal.survey import Survey

_NEW_QUEUE = f".{QUEUE}.repaired"
_NEW_KEYS = f".{keycopy.FILE}.repaired"
_BATCH = 20_000


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a rebuilding makes and where things go.

    Attributes:
        anew: Whether an empty journal is made.
        generation: The DuckDB file's from then on.
        new_archive: Whether that file is built.
        built: The names of what is built, for whoever cleans up after a kill.
        moves: What is renamed to what, in this order.
        removes: What is removed: it can be made from the rest.
        keys: The wrapped keys that there are from then on, by scope.
    """

    anew: bool
    generation: int
    new_archive: bool
    built: list[str] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)
    removes: list[str] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)

    @property
    def aside(self) -> list[str]:
        """The names that files have from then on that are put aside."""
        return [after for _, after in self.moves if ".damaged-" in after]

    def words(self) -> str:
        """Return what will be done, in words."""
        aside = [before for before, after in self.moves if ".damaged-" in after]
        put = f"put {', '.join(aside)} aside untouched; " if aside else ""
        if self.anew:
            return f"{put}make an empty journal: nothing of the old one can be read"
        new = f" and journal.{self.generation}.duckdb" if self.new_archive else ""
        return f"{put}make a new {QUEUE}{new} from every record that can be read"


def plan(found: Survey, *, anew: bool, stamp: str) -> Plan:
    """Return what to do with what a survey found.

    Args:
        found: The survey.
        anew: Whether nothing of it can be used.
        stamp: What the names of files that are put aside end with.
    """
    files = integrity.archives(found.home)
    keeps = not anew and _archive_is_whole(found)
    fresh = max(files, default=0) + 1
    result = Plan(
        anew=anew,
        generation=found.generation if keeps else fresh,
        new_archive=not anew and not keeps,
    )
    name = f"journal.{result.generation}.duckdb"
    result.built = [_NEW_QUEUE, f"{_NEW_QUEUE}-wal", f"{_NEW_QUEUE}-shm", _NEW_KEYS]
    result.keys = {} if anew else _keys(found)
    if result.new_archive:
        result.built += [name, f"{name}.wal"]
    old = [QUEUE, f"{QUEUE}-wal", f"{QUEUE}-journal"]
    for generation, path in files.items():
        if not (keeps and generation == found.generation):
            old += [path.name, f"{path.name}.wal"]
    result.moves = [
        (one, _free(found, f"{one}.damaged-{stamp}"))
        for one in old
        if (found.home / one).exists() and (one == QUEUE or (found.home / one).stat().st_size)
    ]
    into = [(_NEW_QUEUE, QUEUE)]
    if keycopy.read(found.home) != (None if anew else found.journal_id, result.keys):
        if (found.home / keycopy.FILE).exists():
            result.moves.append((keycopy.FILE, _free(found, f"{keycopy.FILE}.damaged-{stamp}")))
        into.append((_NEW_KEYS, keycopy.FILE))
    result.moves += into
    moved = {before for before, _ in result.moves}
    result.removes = [f"{QUEUE}-shm", mark.FILE, *(one for one in old[1:] if one not in moved)]
    return result


def _free(found: Survey, name: str) -> str:
    """Return the name, with a number where a file has it."""
    tried, n = name, 1
    while (found.home / tried).exists():
        n += 1
        tried = f"{name}-{n}"
    return tried


def _archive_is_whole(found: Survey) -> bool:
    """Whether the DuckDB file has everything up to its watermark and nothing that does not open."""
    if not found.archive_whole:
        return False
    rows, last = 0, 0
    for low, high in found.archive.ranges():
        for seq in found.archive.numbers(low, high):
            if seq <= last or seq not in found.inspection.whole:
                return False
            last = seq
            rows += 1
    known = lost_between(compacted.joined(found.queue.lost, found.left_out), 1, last)
    whole = found.inspection.whole.ranges
    if rows != sum(min(high, last) - low + 1 for low, high in whole if low <= last):
        return False  # a backup has what an earlier repair found nowhere
    return rows == found.archive.extent() and last == found.archive.mark == rows + known


def build(found: Survey, plan: Plan) -> None:
    """Build what `plan` says; nothing that is there is changed.

    Args:
        found: The survey that it was made for.
        plan: The plan.
    """
    path = found.home / _NEW_QUEUE
    for name in plan.built:
        (found.home / name).unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    fill(path, network=on_network(found.home))
    if plan.anew:
        fsync_directory(found.home)
        return
    assert found.journal_id is not None
    taken = _archive(found, plan) if plan.new_archive else 0
    if not plan.new_archive:
        taken = found.archive.mark if found.archive.connection is not None else 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        _meta(connection, found, plan)
        newest: Record | None = None
        for record in found.kept():
            newest = record
            if record.seq > taken:
                connection.execute(query("queue.append"), sqlite_row(record))
        if newest is not None and newest.seq <= taken:  # so that no number is given twice
            connection.execute(query("queue.append"), sqlite_row(newest))
        write_heads(connection, found.inspection.implied, found.queue.heads)
        for scope, wrapped in plan.keys.items():
            connection.execute(query("queue.add_key"), {"scope": scope, "wrapped": wrapped})
        connection.execute("COMMIT")
    write_whole(found.home / _NEW_KEYS, keycopy.content(found.journal_id, plan.keys))


def _keys(found: Survey) -> dict[str, bytes]:
    """Return the keys that are kept.

    Not those of deleted threads: an older version of the queue, its copy and a backup still have
    them. Nor one of a backup only that no thread uses.
    """
    used = _scopes(found)
    deleted = {one.scope for one in found.inspection.deletions}
    kept = used | (found.queue.keys.keys() - deleted)
    return {scope: one for scope, one in found.keys.wrapped.items() if scope in kept}


def _scopes(found: Survey) -> set[str]:
    """Return the scopes of the threads that there are."""
    return {one.scope for one in found.inspection.implied.values() if not one.deleted}


def _archive(found: Survey, plan: Plan) -> int:
    """Build a DuckDB file with every record that is whole; return the newest number in it."""
    import duckdb

    assert found.journal_id is not None
    path = found.home / f"journal.{plan.generation}.duckdb"
    records = found.kept()
    newest = 0
    with closing(duckdb.connect()) as connection:
        connection.execute("SET threads = 1")
        archives.make(connection, path, found.journal_id)
        while batch := list(islice(records, _BATCH)):
            newest = archives.take(connection, batch)
        archives.say_left_out(connection, found.left_out)
        connection.execute("CHECKPOINT journal")
        connection.execute("USE memory")
        connection.execute("DETACH journal")
    return newest


def _meta(connection: sqlite3.Connection, found: Survey, plan: Plan) -> None:
    whole = Numbers()
    whole.insert_ranges(found.inspection.whole.ranges)
    newest = whole.ranges[-1][1] if whole.ranges else 0
    whole.insert_ranges(found.left_out)
    values = {
        "journal": found.journal_id,
        "generation": plan.generation,
        "lost": json.dumps(whole.gaps(newest)),
        lineage.KEY: lineage.branched(found.branches(), newest),
        "keyless": json.dumps(sorted(_scopes(found) - found.keys.wrapped.keys())),
    }
    if found.left_out:
        values[compacted.KEY] = compacted.pack(found.left_out)
    created = found.queue.meta.get("created")
    if isinstance(created, int):
        values["created"] = created
    for key, value in values.items():
        connection.execute(query("queue.set_meta"), {"key": key, "value": value})


def write_heads(
    connection: sqlite3.Connection,
    implied: Mapping[str, heads.Implied],
    known: Mapping[str, dict[str, Any]],
) -> None:
    """Write each thread's head as it was, or as its records say where it does not fit them.

    Args:
        connection: The queue; it has no heads.
        implied: What the records say, by thread.
        known: Rows of the table `threads` as they were, by thread.
    """
    for thread, one in implied.items():
        if one.deleted:
            continue
        old = known.get(thread)
        if old is not None and _fits(old, one):
            connection.execute(query("queue.copy_head"), [old[name] for name in Head.COLUMNS])
            continue
        row = one.row()
        if old is not None and isinstance(old.get("token"), int):
            row["token"] = max(row["token"], min(old["token"], 2**40) + 1)
        connection.execute(query("queue.put_head"), row)


def _fits(old: dict[str, Any], one: heads.Implied) -> bool:
    try:
        head = Head((*(old[name] for name in Head.COLUMNS), None))
        return heads.difference(head, one) is None and head.claim_whole and head.sane
    except (KeyError, TypeError):
        return False
