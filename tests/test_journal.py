"""The journal: what was appended is there, in order, whoever died in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import duckdb
import pytest

from notebook_agents import faults
from notebook_agents.errors import FencedError, JournalBusyError, NotDurableError, ThreadBusyError
from notebook_agents.journal import Claim, Draft, Journal, integrity
from notebook_agents.journal.queue_file import LOG_BYTES
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from notebook_agents.sealing import DataKey


def note(name: str, *, thread: str = "t", **columns: Any) -> Draft:
    """Return a small record."""
    return Draft(
        **{
            "kind": Kind.STEP_INTENDED,
            "thread": thread,
            "scope": thread,
            "name": name,
            "plain": name.encode(),
            **columns,
        }
    )


def names(journal: Journal, thread: str = "t") -> list[str | None]:
    """Return the names of a thread's records, in order."""
    return [record.name for record in journal.select(thread=thread)]


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; return how it ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_appends_are_read_back_in_order_with_gapless_numbers(home: Path) -> None:
    """What is appended is read back in order, numbered from 1 without gaps."""
    with Journal.open(home) as journal:
        for i in range(5):
            journal.append([note(f"{i}a"), note(f"{i}b")], durable=i % 2 == 0)
        records = journal.select(thread="t")
        assert [record.seq for record in records] == list(range(1, 11))
        assert [record.name for record in records][:3] == ["0a", "0b", "1a"]
        assert journal.payload(3) == b"1a"


def test_a_log_with_zeros_behind_its_frames_is_read_after_a_kill(
    home: Path, tmp_path: Path
) -> None:
    """The first durable append makes the log as long as it will become; no record is lost by it."""
    with Journal.open(home) as journal:
        journal.append([note("not synced")], durable=False)
        journal.append([note("first")], durable=True)
        journal.append([note("second")], durable=True)
        log = (home / "queue.sqlite-wal").read_bytes()
        assert len(log) == LOG_BYTES
        assert not any(log[-LOG_BYTES // 2 :])
        killed = tmp_path / "killed"
        shutil.copytree(home, killed)
    with Journal.open(killed) as journal:
        journal.append([note("third")], durable=True)
        assert names(journal) == ["not synced", "first", "second", "third"]
        assert journal.payload(2) == b"first"


def test_staged_records_go_out_before_the_next_append(home: Path) -> None:
    """What was staged is committed in the same transaction as the next append, before it."""
    with Journal.open(home) as journal:
        journal.stage([note("staged")])
        assert names(journal) == []
        journal.append([note("appended")], durable=True)
        assert names(journal) == ["staged", "appended"]


def test_reads_merge_the_queue_with_duckdb(home: Path) -> None:
    """A thread reads the same before, while and after DuckDB takes its records over."""
    with Journal.open(home) as journal:
        journal.append([note(str(i), refs=(1,) if i else ()) for i in range(50)], durable=True)
        before = journal.select(thread="t")
        assert journal.ingest() == 50
        journal.append([note("new")], durable=True)
        after = journal.select(thread="t")
        assert [(r.seq, r.name, r.refs) for r in after[:50]] == [
            (r.seq, r.name, r.refs) for r in before
        ]
        assert after[50].name == "new"
        assert journal.payloads([7, 51]) == {7: b"6", 51: b"new"}


def test_numbers_go_on_after_the_queue_was_emptied(home: Path) -> None:
    """A number is never given twice, also when everything has left the queue."""
    with Journal.open(home) as journal:
        journal.append([note("a"), note("b")], durable=True)
        journal.ingest()
    with Journal.open(home) as journal:
        journal.append([note("c")], durable=True)
        assert [record.seq for record in journal.select(thread="t")] == [1, 2, 3]


def test_ingesting_twice_takes_each_record_in_once(home: Path) -> None:
    """A burst that died between DuckDB's commit and the queue's trim doubles nothing."""

    def die(fault: faults.Fault) -> None:
        if fault is faults.Fault.INGEST_COMMITTED:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        journal = Journal.open(home)
        journal.append([note(str(i)) for i in range(20)], durable=True)
        faults.arm(die)
        journal.ingest()

    assert in_child(work) == -signal.SIGKILL
    with Journal.open(home) as journal:
        journal.ingest()
        assert journal.sql("SELECT count(*), count(DISTINCT seq) FROM records") == [(20, 20)]
        assert names(journal) == [str(i) for i in range(20)]


def test_a_failed_burst_is_retried_from_the_watermark(home: Path) -> None:
    """An error in a burst, after the batch was flushed, neither loses nor doubles a record."""

    class Boom(Exception):
        pass

    def raise_at_flush(fault: faults.Fault) -> None:
        if fault is faults.Fault.INGEST_FLUSHED:
            raise Boom

    with Journal.open(home) as journal:
        journal.append([note(str(i)) for i in range(20)], durable=True)
        faults.arm(raise_at_flush)
        try:
            with pytest.raises(Boom):
                journal.ingest()
        finally:
            faults.arm(None)
        journal.ingest()
        assert journal.sql("SELECT count(*) FROM records") == [(20,)]


def test_threads_of_one_process_share_commits_without_losing_any(home: Path) -> None:
    """Eight worker threads append at once: every record is there, in order within each."""
    with Journal.open(home) as journal:

        def work(thread: str) -> None:
            for i in range(50):
                journal.append([note(str(i), thread=thread)], durable=i % 5 == 0)

        workers = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for n in range(8):
            assert names(journal, f"t{n}") == [str(i) for i in range(50)]


async def test_coroutines_append_without_blocking_their_loop(home: Path) -> None:
    """Sixteen coroutines append at once on one loop, and all are answered."""
    async with Journal.open(home) as journal:
        await asyncio.gather(
            *(journal.append_async([note(str(i))], durable=True) for i in range(16))
        )
        assert sorted(names(journal), key=lambda name: int(name or 0)) == [
            str(i) for i in range(16)
        ]


def test_several_processes_append_to_one_journal(home: Path) -> None:
    """Four processes append at once: numbers are gapless, and each one's order is kept."""
    Journal.open(home).close()
    children = []
    for n in range(4):
        pid = os.fork()
        if pid == 0:
            with Journal.open(home) as journal:
                for i in range(50):
                    journal.append([note(str(i), thread=f"p{n}")], durable=False)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with Journal.open(home) as journal:
        assert [record.seq for record in journal.select()] == list(range(1, 201))
        for n in range(4):
            assert names(journal, f"p{n}") == [str(i) for i in range(50)]


def test_a_forked_child_uses_the_journal_and_loses_nothing(home: Path) -> None:
    """A child of a process with an open journal appends, reads DuckDB and exits cleanly."""
    with Journal.open(home) as journal:
        journal.append([note("parent")], durable=True)
        journal.ingest()
        journal.stage([note("parent's own")])

        def work() -> None:
            journal.append([note("child")], durable=True)
            assert names(journal) == ["parent", "child"]
            sys.exit(0)

        pid = os.fork()
        if pid == 0:
            try:
                work()
            except SystemExit:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        journal.append([note("parent again")], durable=True)
        assert names(journal) == ["parent", "child", "parent's own", "parent again"]


def test_forks_during_bursts_leave_parent_and_child_whole(home: Path) -> None:
    """Forking while a background burst runs neither hangs, aborts nor loses a record."""
    with Journal.open(home) as journal:
        for round_ in range(10):
            journal.append([note(f"{round_}-{i}") for i in range(20)], durable=False)
            burst = threading.Thread(target=journal.ingest)
            burst.start()

            def work(round_: int = round_) -> None:
                journal.append([note(f"child {round_}")], durable=True)

            assert in_child(work) == 0
            burst.join()
        assert len(names(journal)) == 210
        assert journal.sql("SELECT count(*) FROM records") == [(210,)]


EXIT_IN_A_BURST = """
import sys, threading
from notebook_agents.journal import Draft, Journal
from notebook_agents.model import Kind
journal = Journal.open(sys.argv[1])
drafts = [Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"x" * 100) for _ in range(3000)]
journal.append(drafts, durable=False)
worker = threading.Thread(target=journal._background_ingest, daemon=True)
journal._burst_thread = worker
worker.start()
"""


def test_an_interpreter_that_exits_during_a_burst_does_not_abort(home: Path) -> None:
    """A process ends with status 0 though its burst thread is busy in DuckDB, five times."""
    with Journal.open(home) as journal:
        journal.append([note("makes the key, and says so")], durable=True)
    for _ in range(5):
        ended = subprocess.run(
            [sys.executable, "-c", EXIT_IN_A_BURST, str(home)], capture_output=True, check=False
        )
        assert (ended.returncode, ended.stderr.decode()[-300:]) == (0, "")
    with Journal.open(home) as journal:
        assert journal.sql("SELECT count(*) FROM records") == [(15_001,)]


def test_exclusive_mode_keeps_others_out_of_duckdb_and_names_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process has a journal exclusively, others append; their history waits for it."""
    monkeypatch.setattr("notebook_agents.journal.archive._WAIT_SECONDS", 0.05)
    with Journal.open(home, mode="exclusive") as journal:
        journal.append([note("mine")], durable=True)

        def work() -> None:
            with Journal.open(home) as other:
                other.append([note("theirs")], durable=True)
                with pytest.raises(JournalBusyError, match=f"held by process {os.getppid()}"):
                    other.ingest()

        assert in_child(work) == 0
        assert journal.sql("SELECT count(*) FROM records") == [(2,)]


def test_a_closed_journal_says_so(home: Path) -> None:
    """Using a journal after close() is an error that says what to do, and closing twice is none."""
    journal = Journal.open(home)
    journal.close()
    journal.close()
    with pytest.raises(NotDurableError, match=r"Journal\.open"):
        journal.append([note("late")], durable=True)


def start(thread: str = "t", *, session: int = 1) -> Draft:
    """Return the record with which a driver claims a thread."""
    claim = Claim(agent="a", run=1, session=session, notebook=None)
    return note("a", thread=thread, kind=Kind.RUN_STARTED, run=1, attempt=session, claim=claim)


def test_one_driver_per_thread_and_a_dead_one_gives_way(home: Path) -> None:
    """A living driver's thread is refused to another process; a killed driver's is not."""
    with Journal.open(home) as journal:

        def claim_and_die() -> None:
            with Journal.open(home) as mine:
                mine.append([start()], durable=True)
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(claim_and_die) == -signal.SIGKILL
        assert journal.thread("t").status is RunStatus.ORPHANED
        draft = start(session=2)
        journal.append([draft], durable=True)
        assert draft.claim is not None
        assert draft.claim.token == 2

        def meet_the_living() -> None:
            with (
                Journal.open(home) as mine,
                pytest.raises(ThreadBusyError, match=str(os.getppid())),
            ):
                mine.append([start(session=3)], durable=True)

        assert in_child(meet_the_living) == 0


def test_a_driver_that_lost_its_thread_cannot_write(home: Path) -> None:
    """Records under an older fencing token are refused, and those of others still go through."""
    with Journal.open(home) as journal:
        for session in (1, 2):
            journal.append([start(session=session)], durable=True)
            journal.driving.discard("t")  # cut off: another driver takes it
        with pytest.raises(FencedError, match="no longer drives thread 't'"):
            journal.append([note("zombie", token=1)], durable=True)
        journal.append([note("living", token=2), note("other", thread="u")], durable=True)
        assert names(journal) == ["a", "a", "living"]


def test_a_deleted_thread_is_gone_and_its_name_is_free(home: Path) -> None:
    """After a deletion nothing of the thread is read, its key is gone, its name starts anew."""
    with Journal.open(home) as journal:
        journal.append([note("secret")], durable=True)
        journal.ingest()
        journal.delete_thread("t")
        assert names(journal) == []
        journal.append([note("fresh")], durable=True)
        assert names(journal) == ["fresh"]
        assert journal.sql("SELECT count(*) FROM live WHERE thread = 't'") == [(1,)]


def test_views_that_another_build_made_are_replaced(home: Path) -> None:
    """A journal from before a view was changed or added answers queries with those of now."""
    with Journal.open(home) as journal:
        journal.append([note("pay", step="s", run=1, attempt=1)], durable=True)
        journal.ingest()
        (file,) = home.glob("journal.*.duckdb")
    with duckdb.connect(str(file)) as old:
        old.execute("DROP VIEW decisions")
        old.execute("CREATE OR REPLACE VIEW steps AS SELECT 1 AS something_else")
        old.execute("UPDATE meta SET value = 'older' WHERE key = 'views'")
    with Journal.open(home) as journal:
        assert journal.sql("SELECT name, outcome FROM steps") == [("pay", "uncertain")]
        assert journal.sql("SELECT said FROM decisions") == []
        digests = journal.sql("SELECT count(*) FROM meta WHERE key = 'views' AND value <> 'older'")
        assert digests == [(1,)]


def test_what_is_looked_at_after_a_kill_is_of_one_moment(home: Path) -> None:
    """Who appends while heads and records are compared makes no damage of it."""
    with Journal.open(home) as journal, Journal.open(home) as other:
        journal.append([note("a")], durable=True)

        def appending(scope: str) -> DataKey:
            other.append([note("b"), note("c", thread="new")], durable=True)
            return journal.stored_key(scope)

        integrity.after_kill(journal.queue, appending)

        class Appending:
            def execute(self, *asked: Any) -> Any:
                other.append([note("d"), note("e", thread="newer")], durable=True)
                return connection.execute(*asked)

        with journal.burst() as connection:
            integrity.heads(journal.queue, cast("Any", Appending()))
