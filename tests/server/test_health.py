"""Which check of a journal's health fails, and what that is answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import notebook_agents as na
from notebook_agents import settings
from notebook_agents.journal.locks import FileLock
from notebook_agents.server.health import health
from notebook_agents.server.opened import Journals

from .agents import add, chained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .served import Served


@pytest.fixture
def journals() -> Iterator[Journals]:
    """Open what is looked at."""
    made = Journals()
    yield made
    made.sweep(idle=0)


def failed(found: dict[str, Any]) -> dict[str, str]:
    """Return the failed checks' remedies by name."""
    checks = {check["name"]: check["remedy"] for check in found["checks"] if not check["ok"]}
    assert found["failed"] == list(checks) and found["ok"] is not bool(checks)
    return checks


def test_a_lock_that_is_kept(server: Served, journal: na.Journal, home: Path, where: str) -> None:
    """Somebody keeps all others from writing: 503, and who it is."""
    na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="t")
    lock = FileLock(home / "queue.lock")
    assert lock.acquire(0)
    try:
        found = server.ask("health", journal=where, expect=503)
        assert "a lock cannot be taken" in failed(found)["lock"]
        assert server.ask("threads", journal=where)["total"] == 1, "reads go on"
    finally:
        lock.close()
    assert failed(server.ask("health", journal=where)) == {}


def test_a_disk_that_is_full(journal: na.Journal, home: Path, journals: Journals) -> None:
    """Too little room is said before it is none."""
    assert failed(health(journals, home, low_bytes=0)) == {}
    assert "make room" in failed(health(journals, home, low_bytes=2**62))["disk"]


def test_a_disk_that_refused_to_sync(journal: na.Journal, home: Path, journals: Journals) -> None:
    """What is not durable is not well."""
    (home / "queue.unsynced").touch()
    try:
        assert "close every kernel" in failed(health(journals, home))["disk"]
    finally:
        (home / "queue.unsynced").unlink()


def test_a_backlog(
    journal: na.Journal, home: Path, journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that no burst takes over are said."""
    monkeypatch.setattr(settings, "INGEST_BYTES", 100)
    assert "exclusive" in failed(health(journals, home))["backlog"]


def test_a_journal_is_let_go(journal: na.Journal, home: Path) -> None:
    """Who wants a journal alone has to wait until it was idle, and no longer."""
    journals = Journals()
    with journals.using(home) as first, journals.using(home) as second:
        assert first is second
        journals.sweep(idle=0)
        assert not first.closed
    journals.sweep(idle=60)
    assert not first.closed
    journals.sweep(idle=0)
    assert first.closed


def test_a_journal_that_was_exchanged(home: Path) -> None:
    """A journal that was put in the place of another one is the one that is read."""
    for name in ("one", "two"):
        with na.Journal.open(home) as journal:
            na.Agent(chained(add), "counter", journal).run({"n": 0}, thread=name)
        home.rename(home.with_name(name))
    journals = Journals()
    home.with_name("one").rename(home)
    with journals.using(home) as journal:
        assert [info.thread for info in journal.threads()] == ["one"]
    home.rename(home.with_name("one"))
    home.with_name("two").rename(home)
    with journals.using(home) as journal:
        assert [info.thread for info in journal.threads()] == ["two"]
    journals.sweep(idle=0)
