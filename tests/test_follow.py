"""Whoever follows a journal sees what any process records, soon, in order, and once."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from crash.processes import fork
from support.checks import add, chain
from support.holding import until

import notebook_agents as na
from notebook_agents import clock
from notebook_agents.cli.app import app
from notebook_agents.errors import NotDurableError, UnknownThreadError
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from pathlib import Path


def go(home: Path, thread: str = "t") -> None:
    """Run an agent."""
    with na.Journal.open(home) as journal:
        na.Agent(chain(add), "counter", journal).run({"n": 1}, thread=thread, new=True)


def no_duckdb(*_: object) -> None:
    """Be the opening of DuckDB that must not happen."""
    raise AssertionError("DuckDB was opened")


def test_records_of_another_process(home, tmp_path, journal, monkeypatch):
    """Each is seen within 200 ms of its commit, and DuckDB is not opened for it."""
    monkeypatch.setattr(journal._archive, "_connect", no_duckdb)
    go_on = os.pipe()

    def program() -> None:
        with na.Journal.open(home) as opened:
            agent = na.Agent(chain(add), "counter", opened)
            for number in range(5):
                os.read(go_on[0], 1)
                agent.run({"n": number}, thread=f"t{number}")

    child = fork(program, tmp_path / "log")
    seen = []
    followed = journal.follow(since=0)
    for _ in range(5):
        os.write(go_on[1], b"x")
        for record in followed:
            late = (clock.now_us() - record.ts) / 1e6
            assert late < 0.2
            seen.append(record.seq)
            if record.kind is Kind.RUN_FINISHED:
                break
    assert child.end() == 0
    assert seen == list(range(1, journal.newest() + 1))


def test_records_that_leave_the_queue_meanwhile(home, journal):
    """What DuckDB took over before it was read is not left out."""
    followed = journal.follow(since=0, seconds=30)
    go(home)
    seen = [record.seq for record in islice(followed, 3)]
    for _ in range(3):
        go(home)
        journal.ingest()
    seen += [record.seq for record in islice(followed, journal.newest() - 3)]
    assert seen == list(range(1, journal.newest() + 1))


def test_one_thread(home, journal):
    """Of a thread only its own records are seen, also one that is not there yet."""
    followed = journal.follow(since=0, thread="b", seconds=timedelta(seconds=1))
    for thread in "abab":
        go(home, thread)
    seen = list(followed)
    assert [record.seq for record in seen] == [r.seq for r in journal.select(thread="b")]
    assert {record.thread for record in seen} == {"b"}


def test_only_what_comes(home, journal):
    """Without a number nothing of the past is told, and nothing is told twice."""
    go(home)
    past = journal.newest()
    followed = journal.follow(seconds=0.1)
    assert list(followed) == []
    assert [record.seq for record in journal.follow(past - 1, seconds=0)] == [past]


def test_following_costs_next_to_nothing(journal):
    """While nothing comes, following takes less than a hundredth of a core."""
    begun = time.process_time()
    assert list(journal.follow(seconds=1.0)) == []
    assert time.process_time() - begun < 0.02


def test_a_journal_that_is_closed(home):
    """Whoever follows a closed journal is told, and not left waiting."""
    journal = na.Journal.open(home)
    go(home)
    followed = journal.follow(since=0)
    next(followed)
    journal.close()
    with pytest.raises(NotDurableError, match="open it again"):
        list(followed)


def test_log(home, done, cli):
    """`log` shows a thread's records, `--json` one object a line."""
    shown = cli("log", "t", "--journal", str(home))
    assert shown.code == 0, shown.err
    assert [line.split()[4] for line in shown.out.splitlines()] == [
        "run_started",
        "step_intended",
        "step_returned",
        "run_finished",
    ]
    told = cli("log", "--all", "--json", "--since", "1", "--journal", str(home))
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["seq"] for row in rows] == list(range(2, rows[-1]["seq"] + 1))
    assert {row["thread"] for row in rows} == {"t"}
    assert cli("log", "nope", "--journal", str(home)).code == UnknownThreadError.exit_code


def test_log_follow(home, tmp_path, done):
    """`log --follow` writes what another process records; Ctrl-C ends it."""

    def program() -> None:
        app(["log", "--follow", "--since", "1", "--journal", str(home), "--json"])

    child = fork(program, tmp_path / "log")
    go(home)
    until(lambda: child.log.exists() and child.log.read_text().count("run_finished") == 2)
    child.interrupt()
    child.end()
    assert "stopped by Ctrl-C" in child.log.read_text()
