"""Rotation: data keys under a new master key, whoever is killed and whoever uses the journal."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from support.checks import add, chain, says
from test_compact import raw
from test_compact import said as note

import notebook_agents as na
from notebook_agents.errors import (
    FencedError,
    JournalBusyError,
    JournalDamagedError,
    KeyMissingError,
    UsageError,
)
from notebook_agents.journal import Journal, keycopy, rotation
from notebook_agents.journal.backup import backup, restore
from notebook_agents.journal.check import check
from notebook_agents.journal.locks import FileLock
from notebook_agents.journal.repair import repair
from notebook_agents.sealing import MasterKey, editing, load_ring, wrapped_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.syscalls import Shim

THREADS = ("a", "b", "c")


def fill(home: Path, *threads: str) -> None:
    """Append a record to each of some threads."""
    with Journal.open(home) as journal:
        for thread in threads or THREADS:
            journal.append([note(f"first of {thread}", thread=thread)], durable=True)


def turn(home: Path) -> rotation.Rotation:
    """Make a new key, and rotate the journal to it."""
    editing.new()
    return again(home)


def again(home: Path) -> rotation.Rotation:
    """Rotate the journal to the ring's current key."""
    ring = load_ring(create=False)
    with Journal.open(home, create=False) as journal:
        return rotation.rotate(journal, ring, ring.current)


def opens(home: Path) -> list[str]:
    """Return what the records hold."""
    with Journal.open(home, create=False) as journal:
        seqs = [record.seq for record in journal.select()]
        return sorted(payload.decode() for payload in journal.payloads(seqs).values())


def masters(home: Path) -> set[str]:
    """Return the master keys that wrap something, in the queue and in its copy."""
    with Journal.open(home, create=False) as journal:
        stored = [*journal.queue.keys().values(), *keycopy.read(home)[1].values()]
    return {wrapped_by(wrapped) for wrapped in stored}


def key_file(tmp_path: Path) -> Path:
    """Return the path of the ring."""
    return tmp_path / "data" / "notebook_agents" / "keys.json"


ALL = [f"first of {thread}" for thread in THREADS]


def test_only_wrapped_keys_are_rewritten(home: Path, tmp_path: Path) -> None:
    """Every record stays as it is; the files have nothing that the old key opens."""
    fill(home)
    with Journal.open(home) as journal:
        journal.ingest()
        journal.append([note("newer")], durable=True)
        before = {record.seq: record.payload for record in journal.sealed([1, 2, 3, 4])}
        wraps = list(journal.queue.keys().values())
    with Journal.open(home):  # so that nobody closes last
        done = turn(home)
        assert not any(json.loads(wrap)["key"].encode() in raw(home) for wrap in wraps)
    ring = load_ring()
    assert (done.master, done.rewrapped, done.left) == (ring.current_id, 4, {})
    assert masters(home) == {ring.current_id}
    with Journal.open(home) as journal:
        assert {r.seq: r.payload for r in journal.sealed([1, 2, 3, 4])} == before
    assert len(ring.ids) == 2
    (old,) = {*ring.ids} - {ring.current_id}
    editing.remove(old)
    assert opens(home) == sorted([*ALL, "newer"])
    assert check(home).findings == []


def test_the_old_key_opens_nothing_any_more(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Who has only that one is told which is needed."""
    fill(home)
    old, _ = editing.export(None)
    turn(home)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", old.hex())
    with pytest.raises(KeyMissingError, match="key import"):
        opens(home)


KILLED = """
    import os, pathlib, shutil
    root = pathlib.Path(os.environ["NA_ROOT"])
    os.environ["JUPYTER_DATA_DIR"] = str(root / "data")
    os.environ["NOTEBOOK_AGENTS_HOME"] = str(root / "journal")
    from test_journal import in_child
    from test_rotation import ALL, again, check, command, fill, masters, opens
    from notebook_agents.sealing import load_ring
    from support.syscalls import killed_at_each
    from notebook_agents.journal import rotation
    rotation._SLICE = 1
    home, kept = root / "journal", root.with_name("kept")
    fill(home)
    shutil.copytree(root, kept)
    seen = set()

    def look():
        assert opens(home) == ALL
        severe = [one.what for one in check(home).findings if one.severity != "minor"]
        assert severe == [], severe
        again(home)
        assert masters(home) == {load_ring().current_id}
        assert opens(home) == ALL

    def after(number):
        seen.add((len(load_ring(create=False).ids), *sorted(map(len, [masters_now()]))))
        assert in_child(look) == 0, number
        shutil.rmtree(root)
        shutil.copytree(kept, root)

    def masters_now():
        import sqlite3
        from notebook_agents.sealing import wrapped_by
        with sqlite3.connect(f"file:{home}/queue.sqlite?mode=ro", uri=True) as connection:
            return {wrapped_by(row[0]) for row in connection.execute("SELECT wrapped FROM keys")}

    print(killed_at_each(lambda: command("key", "rotate"), after), sorted(seen))
"""


def command(*arguments: str) -> None:
    """Run a command in this process."""
    from notebook_agents.cli.app import app

    app.main(arguments, standalone_mode=False)


def test_killed_anywhere(home: Path, tmp_path: Path, shim: Shim) -> None:
    """Before each of its changes of a file: it opens with the ring, and the next one finishes it.

    In processes of their own, from the new key on; each is killed by SIGKILL.
    """
    (tmp_path / "root").mkdir()
    told = shim.run(KILLED, tmp_path / "root").splitlines()[-1]
    killed, seen = told.split(maxsplit=1)
    assert int(killed) > 30
    assert "(1, 1)" in seen  # nothing had begun
    assert "(2, 1)" in seen  # the key was made
    assert "(2, 2)" in seen  # some are under the one, some under the other


def test_killed_between_its_transactions(home: Path, monkeypatch: Any, dies: Any) -> None:
    """Half of the data keys are under one key, half under the other: everything opens."""
    fill(home)
    monkeypatch.setattr(rotation, "_SLICE", 1)
    count = 0

    def store(*arguments: Any, then: Any = rotation._store) -> int:
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), 9)
        return then(*arguments)

    monkeypatch.setattr(rotation, "_store", store)
    dies(lambda: turn(home))
    assert len(masters(home)) == 2
    assert opens(home) == ALL
    fill(home, "new")  # wrapped with the one that the rotation named
    with Journal.open(home) as journal:
        assert wrapped_by(journal.wrapped_key("new")) == load_ring().current_id
    monkeypatch.undo()


def test_the_same_command_finishes_it(here: Any, home: Path, cli: Any, tmp_path: Path) -> None:
    """A rotation that was cut off is finished without another key; then a new one is made."""
    fill(home)
    editing.new()
    done = json.loads(cli("key", "rotate", "--journal", str(home), "--json").out)
    assert (done["new"], done["rewrapped"]) == (False, 3)
    done = json.loads(cli("key", "rotate", "--journal", str(home), "--json").out)
    assert (done["new"], done["rewrapped"], len(done["older"])) == (True, 3, 2)
    assert masters(home) == {done["key"]} == {load_ring().current_id}
    fresh = json.loads(cli("key", "rotate", "--new", "--journal", str(home), "--json").out)
    assert fresh["new"]
    assert opens(home) == ALL


def test_keys_copy_that_was_left_behind_is_finished(home: Path, cli: Any) -> None:
    """Killed before the copy was written: it still has the keys under the old one."""
    fill(home)
    copied = (home / "keys.copy").read_bytes()
    turn(home)
    (home / "keys.copy").write_bytes(copied)
    assert opens(home) == ALL
    done = json.loads(cli("key", "rotate", "--journal", str(home), "--json").out)
    assert (done["new"], done["rewrapped"]) == (False, 0)
    assert masters(home) == {load_ring().current_id}


# -- beside others -----------------------------------------------------------------------------


def test_others_go_on(home: Path, journal: na.Journal, forked: Callable[..., int]) -> None:
    """A process with the journal open appends to its threads, reads them, and begins new ones."""
    fill(home)
    agent = na.Agent(chain(add), "adder", journal)
    agent.run({"n": 1}, thread="mine")
    assert forked(lambda: turn(home)) == 0
    assert agent.run({"n": 2}, thread="mine").value["n"] == 3
    assert agent.run({"n": 5}, thread="another").value["n"] == 6
    assert masters(home) == {load_ring().current_id}


def test_a_deletion_elsewhere_after_a_rotation(
    home: Path, journal: na.Journal, forked: Callable[..., int]
) -> None:
    """The keys that are looked up then are the same ones, in another form."""
    fill(home)
    drafts = [note("mine", thread="mine"), note("more", thread="mine")]
    journal.append(drafts[:1], durable=True)

    def elsewhere() -> None:
        turn(home)
        with Journal.open(home) as other:
            other.delete_thread("a")

    assert forked(elsewhere) == 0
    journal.append(drafts[1:], durable=True)
    assert [journal.payload(draft.seq) for draft in drafts] == [b"mine", b"more"]


def test_a_process_whose_ring_cannot_have_the_new_key(
    home: Path, tmp_path: Path, monkeypatch: Any, forked: Callable[..., int]
) -> None:
    """It is told which key that is, and writes nothing under one that may be gone."""
    fill(home)
    theirs = load_ring().path.parent.parent
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", editing.export(None)[0].hex())
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))

    def elsewhere() -> None:
        os.environ["JUPYTER_DATA_DIR"] = str(theirs)
        del os.environ["NOTEBOOK_AGENTS_KEY"]
        turn(home)
        with Journal.open(home) as other:
            other.delete_thread("a")

    with Journal.open(home) as journal:
        journal.append([note("x", thread="b")], durable=True)
        assert forked(elsewhere) == 0
        with pytest.raises(KeyMissingError, match="import it with") as caught:
            journal.append([note("y", thread="b")], durable=True)
    assert not isinstance(caught.value, FencedError)
    says(caught.value, "NOTEBOOK_AGENTS_KEY")


def test_a_thread_that_begins_while_it_rotates(
    home: Path, journal: na.Journal, forked: Callable[..., int], monkeypatch: Any
) -> None:
    """What another process wrapped with the old key a moment ago is not stored in that form."""
    fill(home)
    journal.data_key("a")
    current = load_ring().current
    first: list[int] = []

    then = MasterKey.wrap

    def wrap(self: MasterKey, *arguments: Any) -> bytes:
        if not first:
            first.append(-1)  # the child has this function, too
            first[0] = forked(lambda: turn(home))
        return then(self, *arguments)

    monkeypatch.setattr(MasterKey, "wrap", wrap)
    journal.append([note("late", thread="late")], durable=True)
    assert first == [0]
    assert masters(home) == {load_ring().current_id} != {current.id}


def test_two_rotations_at_once(home: Path) -> None:
    """One is refused, and names the other."""
    fill(home)
    lock = FileLock(home / "rotate.lock")
    assert lock.acquire(0)
    lock.write_holder()
    with pytest.raises(JournalBusyError, match=f"process {os.getpid()} is rotating"):
        again(home)
    lock.close()
    again(home)


# -- with what else is done to a journal ---------------------------------------------------------


def test_a_backup_from_before_needs_the_old_key(home: Path) -> None:
    """It is named, opens while that is in the ring, and newer records come back over it."""
    fill(home)
    made = backup(home)
    done = turn(home)
    assert [name for name in done.elsewhere if name.startswith("backups/")]
    fill(home, "new")
    restore(made.path, home, newer=True)
    assert opens(home) == sorted([*ALL, "first of new"])
    restore(made.path, home, newer=False)
    assert opens(home) == ALL
    fill(home, "again")
    assert again(home).rewrapped == 3
    assert opens(home) == sorted([*ALL, "first of again"])


def test_a_repair_after_a_rotation(home: Path) -> None:
    """The keys come back from the copy that the rotation wrote."""
    fill(home)
    with Journal.open(home) as journal:
        journal.ingest()
    turn(home)
    ring = load_ring()
    editing.remove(next(name for name in ring.ids if name != ring.current_id))
    (home / "queue.sqlite").unlink()
    assert repair(home).lost == []
    assert opens(home) == ALL
    fill(home, "new")
    assert masters(home) == {ring.current_id}


def test_a_damaged_key_stops_it_before_anything_changes(home: Path) -> None:
    """Its copy may be the only whole one."""
    fill(home)
    before = masters(home)
    with Journal.open(home) as held:
        with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
            (wrapped,) = connection.execute("SELECT wrapped FROM keys WHERE scope = 'b'").fetchone()
            said = json.loads(wrapped)
            said["master"] = "0badf00d"
            connection.execute(
                "UPDATE keys SET wrapped = ? WHERE scope = 'b'", [json.dumps(said).encode()]
            )
        editing.new()
        ring = load_ring()
        with pytest.raises(JournalDamagedError, match=r"scope 'b' is altered.*journal repair"):
            rotation.rotate(held, ring, ring.current)
        assert {wrapped_by(one) for one in held.queue.keys().values()} == {*before, "0badf00d"}
        assert {wrapped_by(one) for one in keycopy.read(home)[1].values()} == before


def test_another_persons_threads_are_left_and_said(home: Path, cli: Any, monkeypatch: Any) -> None:
    """Data keys under a key that is not here stay as they are."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    fill(home, "theirs")
    theirs = load_ring().current_id
    monkeypatch.delenv("NOTEBOOK_AGENTS_KEY")
    load_ring()
    ended = cli("key", "rotate", "--journal", str(home))
    assert ended.code == 0
    says(ended.out.splitlines()[1], theirs, "key import", "1 data key")
    assert masters(home) == {theirs}


def test_with_the_key_in_the_environment(home: Path, cli: Any, monkeypatch: Any) -> None:
    """The variable's key is the current one: a new value is rotated to, none is made."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    fill(home)
    ended = cli("key", "rotate", "--journal", str(home))
    assert ended.code == 2
    says(ended.err.strip(), "NOTEBOOK_AGENTS_KEY", "key import")
    editing.add(b"ab" * 32, "here")
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "cd" * 32)
    done = json.loads(cli("key", "rotate", "--journal", str(home), "--json").out)
    assert (done["new"], done["rewrapped"]) == (False, 3)
    assert masters(home) == {load_ring().current_id}
    with pytest.raises(UsageError, match="there is a key file"):
        editing.new("a passphrase")
