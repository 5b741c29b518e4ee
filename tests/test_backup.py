"""Backups: whole or none, made in use, and what a restore brings back is counted."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from support.checks import chain
from support.command_line import inside
from test_journal import names, note

import notebook_agents as na
from notebook_agents.errors import JournalBusyError, JournalDamagedError, NoJournalError, UsageError
from notebook_agents.journal import Journal, presence
from notebook_agents.journal.backup import backup, backups, newest_backup, restore
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Ended
    from support.running import Ledger
    from support.syscalls import Shim


def fill(home: Path, *threads: str, count: int = 5, ingest: bool = False) -> None:
    """Append `count` records to each of the threads."""
    with Journal.open(home) as journal:
        for number in range(count):
            for thread in threads:
                journal.append([note(f"{thread}{number}", thread=thread)], durable=True)
        if ingest:
            journal.ingest()


def held(home: Path) -> dict[str, list[str | None]]:
    """Return the names of every thread's records, read with their payloads."""
    with Journal.open(home, create=False) as journal:
        seqs = [record.seq for record in journal.select()]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(journal.payloads(seqs)) == len(seqs)
        return {info.thread: names(journal, info.thread) for info in journal.threads()}


def listing(home: Path) -> dict[str, bytes]:
    """Return every file of a journal but the locks, with its content."""
    return {
        path.name: path.read_bytes()
        for path in home.iterdir()
        if path.is_file() and path.suffix != ".lock"
    }


# -- making ------------------------------------------------------------------------------------


def test_a_backup_brings_everything_back_into_an_empty_place(home: Path, tmp_path: Path) -> None:
    """Queue and history come back, with their numbers, and the journal goes on from there."""
    fill(home, "a", "b", ingest=True)
    fill(home, "b", "c")
    made = backup(home)
    assert (made.last, made.threads, made.seals) == (20, 3, 20)
    assert newest_backup(home) == made.path
    report = restore(made.path, tmp_path / "elsewhere", newer=True)
    assert (report.restored, report.replayed, report.complete) == (20, 0, True)
    assert held(tmp_path / "elsewhere") == held(home)
    fill(tmp_path / "elsewhere", "b")
    assert len(held(tmp_path / "elsewhere")["b"]) == 15


def test_a_backup_is_made_while_others_append(home: Path) -> None:
    """It has everything that was acknowledged before it began, and no number is missing."""
    fill(home, "a", ingest=True)
    stop = threading.Event()
    acknowledged = [5]

    def work() -> None:
        with Journal.open(home) as journal:
            while not stop.is_set():
                journal.append([note("more", thread="a")], durable=True)
                acknowledged.append(journal.select(thread="a")[-1].seq)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(4):
            before = acknowledged[-1]
            assert backup(home).last >= before
    finally:
        stop.set()
        worker.join()
    with Journal.open(home) as journal:
        journal.ingest()
    made = backup(home)
    assert [each.last for each in backups(home)] == sorted(each.last for each in backups(home))
    assert made.last == acknowledged[-1]


def test_a_backup_is_private_and_holds_no_key(home: Path, tmp_path: Path) -> None:
    """Only its owner can read it, and only with the key, which is elsewhere."""
    fill(home, "a", ingest=True)
    made = backup(home, tmp_path / "dest")
    assert made.path.parent == tmp_path / "dest"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    ring = json.loads((tmp_path / "data" / "notebook_agents" / "keys.json").read_bytes())
    secret = ring["keys"][0]["key"]
    files = list(made.path.iterdir())
    assert len(files) == 3
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert secret.encode() not in content
        assert base64.b64decode(secret) not in content


def test_a_backup_without_the_key_says_that_no_seal_was_opened(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps backups need not be able to read them."""
    fill(home, "a")
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home))
    made = backup(home)
    assert (made.last, made.seals) == (5, None)


def test_a_damaged_journal_is_not_backed_up(home: Path) -> None:
    """A backup that would repeat a damage is refused, and leaves nothing behind."""
    fill(home, "a", ingest=True)
    fill(home, "a")
    whole = backup(home)
    with Journal.open(home):  # altered before it is opened, it would not open at all
        with sqlite3.connect(home / "queue.sqlite") as connection:
            connection.execute("UPDATE records SET payload = zeroblob(40) WHERE seq = 8")
        connection.close()
        with pytest.raises(na.errors.SealError, match="record 8"):
            backup(home)
    assert [path.name for path in (home / "backups").iterdir()] == [whole.path.name]


def test_a_thread_that_was_deleted_and_made_anew_is_backed_up(home: Path) -> None:
    """What the deletion left had another key than the thread has now: that is no damage."""
    with Journal.open(home) as journal:
        for thread in ("in DuckDB", "in the queue"):
            journal.append([note("old", thread=thread)], durable=True)
            journal.delete_thread(thread)
            journal.append([note("new", thread=thread)], durable=True)
            if thread == "in DuckDB":
                journal.ingest()
    assert backup(home).last == 6


def test_a_backup_killed_anywhere_is_never_taken_for_one(
    home: Path, tmp_path: Path, shim: Shim
) -> None:
    """Before each write, sync, rename: what is listed is whole, and the next one cleans up."""
    fill(home, "a", ingest=True)
    said = shim.run(
        """
        import os, pathlib, duckdb
        from notebook_agents.journal.backup import backup, backups, newest_backup, restore
        from support.syscalls import killed_at_each
        home = pathlib.Path(os.environ["NA_ROOT"])
        listed = []

        def after(number):
            listed.append(len(backups(home)))
            for each in backups(home):
                restore(each.path, home.parent / f"{number}-{each.path.name}", newer=True)
            assert len(listed) < 2 or listed[-1] - listed[-2] in (0, 1)

        killed = killed_at_each(lambda: backup(home), after, step=4)
        made = backup(home)
        names = [path.name for path in made.path.parent.iterdir()]
        assert not [name for name in names if name.startswith(".")], names
        print(killed, listed[0], listed[-1])
        """,
        home,
    )
    killed, first, last = map(int, said.split())
    assert killed > 10
    assert (first, last >= 1) == (0, True)
    assert len(held(home)["a"]) == 5


# -- putting back ------------------------------------------------------------------------------


def test_newer_records_are_taken_over_from_the_queue(home: Path) -> None:
    """With `newer` nothing is missing: new threads, new records, and deletions since."""
    fill(home, "a", "gone", ingest=True)
    made = backup(home)
    fill(home, "a", "new")
    with Journal.open(home) as journal:
        journal.delete_thread("gone")
    before = held_but(home, "gone")
    (home / "journal.1.duckdb").write_bytes(b"nothing" * 4096)
    report = restore(made.path, home, newer=True)
    assert (report.restored, report.replayed, report.complete) == (10, 11, True)
    assert held_but(home, "gone") == before


def held_but(home: Path, gone: str) -> dict[str, list[str | None]]:
    """Return what the living threads have; `gone` has to be unreadable."""
    with Journal.open(home, create=False) as journal:
        assert journal.head(gone) is None
        assert journal.wrapped_key(gone) is None
        return {info.thread: names(journal, info.thread) for info in journal.threads()}


def test_without_newer_the_journal_is_as_it_was(home: Path) -> None:
    """What does not come back is counted by thread, and stays aside."""
    fill(home, "a", ingest=True)
    before = held(home)
    made = backup(home)
    fill(home, "a", "b", count=3)
    later = held(home)
    report = restore(made.path, home, newer=False)
    assert report.given_up == {"a": 3, "b": 3}
    assert not report.complete
    assert held(home) == before
    aside = home.parent / "aside"
    aside.mkdir()
    for path in report.aside:
        shutil.copy(path, aside / re.sub(r"\.replaced-\w+Z", "", path.name))
    assert held(aside) == later


def test_records_that_are_in_no_file_any_more_are_named(home: Path) -> None:
    """A number that the queue no longer has is a gap; nothing behind it is taken over."""
    fill(home, "a")
    made = backup(home)
    fill(home, "a", ingest=True)
    fill(home, "b")
    report = restore(made.path, home, newer=True)
    assert (report.restored, report.replayed) == (5, 0)
    assert report.gap == (6, 9)
    assert report.given_up == {"a": 1, "b": 5}
    assert len(held(home)["a"]) == 5


@pytest.mark.parametrize("damage", ["header", "heads", "missing"])
def test_a_damaged_queue_gives_what_can_be_read(home: Path, damage: str) -> None:
    """An unreadable queue is said; readable records come back without readable heads, too."""
    fill(home, "a", count=30)
    made = backup(home)
    fill(home, "a", "b", count=30)
    queue = home / "queue.sqlite"
    if damage == "header":
        queue.write_bytes(b"x" * 4096)
    elif damage == "missing":
        queue.unlink()
    else:
        connection = sqlite3.connect(queue)
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'threads'"
        ).fetchone()
        connection.close()
        with queue.open("r+b") as file:
            file.seek((page - 1) * 512)
            file.write(b"\xff" * 512)
    report = restore(made.path, home, newer=True)
    found = held(home)
    if damage == "heads":
        assert report.replayed == 60
        assert {thread: len(kept) for thread, kept in found.items()} == {"a": 60, "b": 30}
    else:
        assert {thread: len(kept) for thread, kept in found.items()} == {"a": 30}
        assert (report.unreadable is None) == (damage == "missing")


def test_an_altered_backup_is_refused_and_nothing_is_changed(home: Path) -> None:
    """A flipped bit, a cut or missing file in a backup: it is named, the journal stays."""
    fill(home, "a", ingest=True)
    made = backup(home)
    before = listing(home)
    for path in sorted(made.path.iterdir()):
        content = path.read_bytes()
        for altered in (content[: len(content) // 2], bytes([content[0] ^ 1]) + content[1:], None):
            if altered is None:
                path.unlink()
            else:
                path.write_bytes(altered)
            with pytest.raises((JournalDamagedError, NoJournalError)) as caught:
                restore(made.path, home, newer=True)
            assert str(made.path) in str(caught.value)
            path.write_bytes(content)
    restored = listing(home)
    assert {name: restored[name] for name in before} == before


def test_a_file_of_somebody_elses_is_left_alone(home: Path) -> None:
    """A copy that a person made in the journal's directory is no part of the journal."""
    fill(home, "a", ingest=True)
    made = backup(home)
    shutil.copy(home / "journal.1.duckdb", home / "journal.copy.duckdb")
    assert restore(made.path, home, newer=True).complete
    assert (home / "journal.copy.duckdb").exists()
    assert len(held(home)["a"]) == 5


def test_an_open_journal_is_not_exchanged(home: Path, tmp_path: Path) -> None:
    """Who has it open is named: what that process would append to the old files would be lost."""
    fill(home, "a")
    made = backup(home)
    with Journal.open(home), pytest.raises(JournalBusyError, match=r"open in process \d+"):
        restore(made.path, home, newer=True)
    fill(tmp_path / "other", "x")
    with pytest.raises(JournalDamagedError, match="another journal"):
        restore(made.path, tmp_path / "other", newer=True)
    assert len(held(tmp_path / "other")["x"]) == 5
    assert restore(made.path, home, newer=True).complete


def test_a_restore_killed_anywhere_leaves_the_old_journal_or_the_new(
    home: Path, shim: Shim
) -> None:
    """Before each write, sync, rename: whoever opens it next finds one of the two, whole."""
    fill(home, "a", ingest=True)
    backup(home)
    fill(home, "a", "b")
    said = shim.run(
        """
        import os, pathlib, shutil
        from notebook_agents.journal import Journal
        from notebook_agents.journal.backup import newest_backup, restore
        from support.syscalls import killed_at_each
        home = pathlib.Path(os.environ["NA_ROOT"])
        kept = home.with_name("kept")
        shutil.copytree(home, kept)
        made = newest_backup(kept)
        seen = []

        def after(number):
            with Journal.open(home, create=False) as journal:
                records = journal.select()
                assert len(journal.payloads([r.seq for r in records])) == len(records)
                journal.append([], durable=True)
            seen.append(len(records))
            shutil.rmtree(home)
            shutil.copytree(kept, home)

        killed = killed_at_each(lambda: restore(made, home, newer=False), after)
        print(killed, *seen)
        """,
        home,
    )
    killed, *seen = map(int, said.split())
    assert killed > 15
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {15, 5}


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_disk_that_fails_anywhere_in_a_backup_or_restore(
    what: str, home: Path, shim: Shim
) -> None:
    """Whichever write, sync or rename fails: it is said, and the journal is whole as before."""
    said = shim.run(
        f"""
import errno, os, pathlib
from notebook_agents.errors import JournalWriteError
from notebook_agents.journal import Journal
from support.syscalls import fail, mend
from test_journal import note
home = pathlib.Path(os.environ["NA_ROOT"])
from notebook_agents.journal.backup import backup, backups, restore
with Journal.open(home) as journal:
    for name in "abc":
        journal.append([note(name)], durable=True)
    journal.ingest()
made = backup(home)
failed = 0
for op in ("write", "sync", "create", "rename"):
    for number in range(0, 100, 3 if op == "write" else 1):
        fail(op, "", errno.EIO, skip=number, times=1)
        try:
            backup(home) if {what!r} == "backup" else restore(made.path, home, newer=True)
        except Exception as error:
            assert isinstance(error, JournalWriteError), repr(error)
            failed += 1
            mend()
        else:
            mend()
            break
        with Journal.open(home) as journal:
            assert [r.name for r in journal.select(thread="t")] == ["a", "b", "c"]
            assert len(journal.payloads([1, 2, 3])) == 3
    assert not [p for p in (home / "backups").iterdir() if p.name.startswith(".")]
print(failed)
""",
        home,
    )
    assert int(said) > 10


def test_a_run_goes_on_in_a_restored_journal(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    """What returned before the backup does not run again after a restore."""

    def agent(journal: na.Journal, *, ready: bool) -> na.Agent:
        def first(state: Any) -> Any:
            ledger.note("first")
            return {"n": state["n"] + 1}

        def second(state: Any) -> Any:
            if not ready:
                raise ValueError("not yet")
            ledger.note("second")
            return {"n": state["n"] + 1}

        return na.Agent(chain(first, second), "counter", journal)

    with na.Journal.open(home) as journal, pytest.raises(ValueError, match="not yet"):
        agent(journal, ready=False).run({"n": 0}, thread="t")
    restore(backup(home).path, tmp_path / "again", newer=True)
    with na.Journal.open(tmp_path / "again") as journal:
        run = agent(journal, ready=True).run({"n": 0}, thread="t")
        assert run.status is RunStatus.SUCCEEDED
        assert run.value["n"] == 2
    assert ledger.lines() == ["first", "second"]


# -- the schedule ------------------------------------------------------------------------------


def test_backups_are_made_at_close_when_the_newest_is_old(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting there are none; with it one when due, and only the last are kept."""
    fill(home, "a")
    assert backups(home) == []
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "24")
    fill(home, "a")
    fill(home, "a")
    assert [each.last for each in backups(home)] == [10]
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "0")
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_KEEP", "2")
    fill(home, "a")
    fill(home, "a")
    with Journal.open(home):
        pass  # nothing is new
    assert [each.last for each in backups(home)][-1] == 25
    assert len(backups(home)) == 2


def test_a_long_process_makes_its_backup_beside_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is never closed has backups too."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "24")
    with Journal.open(home) as journal:
        journal.append([note("one")], durable=True)
        journal._backups.wait()
        assert [each.last for each in backups(home)] == [1]


def test_a_backup_that_cannot_be_made_stops_no_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, with the reason; a schedule that means nothing is refused at once."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "1")
    home.mkdir()
    (home / "backups").write_text("in the way")
    fill(home, "a")
    assert "no backup of" in caplog.text
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "daily")
    with pytest.raises(UsageError, match="NOTEBOOK_AGENTS_BACKUP_HOURS=daily"):
        Journal.open(home, mode="exclusive")
    assert presence.who(home) == "?"  # who was refused has nothing open
    monkeypatch.delenv("NOTEBOOK_AGENTS_BACKUP_HOURS")
    assert list(held(home)) == ["a"]


def test_a_backup_that_cannot_be_read_stops_no_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is none, whether the disk fails or another process is just removing it."""
    fill(home, "a")
    broken = backup(home).path / "backup.json"
    whole = backup(home)
    broken.unlink()
    broken.symlink_to("/proc/self/mem")  # whoever reads it gets an input/output error
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "24")
    fill(home, "a")
    assert [each.path for each in backups(home)] == [whole.path]


def test_processes_that_find_a_backup_due_together_make_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else five kernels would push all but the last hour's out of those that are kept."""
    fill(home, "a", count=1)
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "24")
    gate = os.pipe()

    def kernel() -> None:
        os.close(gate[1])
        with Journal.open(home) as journal:
            os.read(gate[0], 1)
            journal.append([note("more", thread="a")], durable=True)

    kernels = [fork(kernel, tmp_path / f"{number}.log") for number in range(5)]
    os.close(gate[0])
    os.close(gate[1])
    assert [each.end() for each in kernels] == [0] * 5
    assert len(backups(home)) == 1


def test_what_is_backed_up_after_a_restore_is_the_newest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts on from an earlier number than the backups of what was given up, and is kept."""
    fill(home, "a", count=2)
    first = backup(home)
    fill(home, "a", count=8)
    backup(home)
    restore(first.path, home, newer=False)
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "0")
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_KEEP", "1")
    fill(home, "a", count=1)
    assert [each.last for each in backups(home)] == [3]


# -- the commands ------------------------------------------------------------------------------


def test_the_commands_back_up_list_and_restore(agents: Path, cli: Callable[..., Ended]) -> None:
    """Each says what it did and what it did not; JSON has what the help says."""
    run = ("run", f"{agents}:counter", "--input", '{"n": 1}', "--thread")
    assert cli(*run, "t").code == 0
    made = cli("journal", "backup")
    assert "your key is not in it" in made.out
    assert cli(*run, "u").code == 0
    name = made.out.partition(":")[0].rpartition("/")[2]
    assert name in cli("journal", "backups").out
    assert "may run again: u (" in cli("journal", "restore", name, "--no-newer").out
    assert "no backup" in cli("journal", "restore", "nowhere").err
    for command, words in {"backup": [], "backups": [], "restore": [name]}.items():
        written = json.loads(cli("journal", command, *words, "--json").out)
        keys = set(written[0] if isinstance(written, list) else written)
        assert keys <= set(re.findall(r"\w+", inside("journal", command, "--help").stdout))


def test_a_journal_moves_to_a_network_file_system_by_a_restore(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is restored there has no write-ahead log, and the other way round."""
    fill(home, "a", ingest=True)
    monkeypatch.setenv("NOTEBOOK_AGENTS_ON_NETWORK", "1")
    restore(backup(home).path, tmp_path / "network", newer=True)
    fill(tmp_path / "network", "a")
    with Journal.open(tmp_path / "network") as journal:
        assert journal._queue.journal_mode() == "delete"
    made = backup(tmp_path / "network")
    monkeypatch.setenv("NOTEBOOK_AGENTS_ON_NETWORK", "0")
    restore(made.path, tmp_path / "local", newer=True)
    assert len(held(tmp_path / "local")["a"]) == 10
    with Journal.open(tmp_path / "local") as journal:
        assert journal._queue.journal_mode() == "wal"
