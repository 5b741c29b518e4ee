"""The list of threads and the file that it is read from: the same answers, and no room wasted."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from notebook_agents.journal import Claim, Draft, Journal, writer
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def begun(journal: Journal, thread: str) -> Claim:
    """Begin a run on a thread; return its claim."""
    claim = Claim(agent="a", run=1, session=1, notebook=f"{thread}.ipynb")
    columns: dict[str, Any] = {"run": 1, "name": "a", "attempt": 1, "claim": claim}
    journal.append(
        [Draft(kind=Kind.RUN_STARTED, thread=thread, scope=thread, **columns)], durable=True
    )
    return claim


def ended(journal: Journal, thread: str, claim: Claim, status: RunStatus) -> None:
    """End that run."""
    columns: dict[str, Any] = {"run": 1, "name": str(status), "token": claim.token}
    draft = Draft(kind=Kind.RUN_FINISHED, thread=thread, scope=thread, **columns)
    journal.append([draft], durable=True)


def said_of_drivers(home: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that the heads say of drivers, by thread."""
    columns = "driver_pid, driver_host, driver_boot, driver_started, driver_since"
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        rows = connection.execute(f"SELECT thread, {columns} FROM threads").fetchall()
    return {thread: tuple(said) for thread, *said in rows}


def test_the_list_says_of_each_thread_what_its_head_says(home: Path) -> None:
    """Driven, given back, ended, without a run: all are listed, the newest record first."""
    with Journal.open(home) as journal:
        claims = {thread: begun(journal, thread) for thread in ("driven", "left", "done", "failed")}
        journal.append([Draft(kind=Kind.SNAPSHOT, thread="plain", scope="plain")], durable=True)
        ended(journal, "failed", claims["failed"], RunStatus.FAILED)
        ended(journal, "done", claims["done"], RunStatus.SUCCEEDED)
        journal.release("left", claims["left"].token)
        infos = journal.threads()
        assert [info.thread for info in infos] == ["done", "failed", "plain", "left", "driven"]
        assert infos == [head.info() for head in journal.heads()]
        assert infos == [journal.thread(info.thread) for info in infos]
        status = {info.thread: info.status for info in infos}
        assert status["left"] is RunStatus.ORPHANED
        assert status["driven"] is RunStatus.RUNNING
        driver = next(info.driver for info in infos if info.thread == "driven")
        assert driver is not None
        assert driver.pid == os.getpid()


def test_a_head_keeps_nothing_of_a_driver_that_gave_its_thread_back(home: Path) -> None:
    """Neither after the end of a run nor after a release."""
    with Journal.open(home) as journal:
        ended(journal, "done", begun(journal, "done"), RunStatus.SUCCEEDED)
        journal.release("left", begun(journal, "left").token)
        begun(journal, "driven")
    said = said_of_drivers(home)
    assert said["done"] == said["left"] == (None,) * 5
    assert None not in said["driven"]


def test_the_last_to_close_gives_back_the_room_of_what_duckdb_took(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where so much is left that nobody may be kept waiting for it while others write."""
    monkeypatch.setattr(writer, "_VACUUM_PAGES", 0)
    texts = [os.urandom(20_000) for _ in range(20)]
    with Journal.open(home) as journal:
        journal.append(
            [Draft(kind=Kind.SNAPSHOT, thread="t", scope="t", plain=text) for text in texts],
            durable=True,
        )
        journal.ingest()
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection:
        pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count")
        )
    assert 2 * free <= pages - free
    with Journal.open(home) as journal:
        assert not journal.queue.after_kill
        found = journal.payloads(range(1, 21))
        assert [found[seq] for seq in sorted(found)] == texts
