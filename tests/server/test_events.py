"""What the stream of events tells, as it happens."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

import notebook_agents as na

from .agents import add, chained

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .served import Served, Stream


@pytest.fixture
def watching(server: Served, where: str) -> Iterator[Callable[..., Stream]]:
    """Watch this test's journal."""
    open_: list[Stream] = []

    def watch(**query: object) -> Stream:
        open_.append(server.stream(journal=where, **query))
        return open_[-1]

    yield watch
    for stream in open_:
        stream.close()


def test_a_stream_begins_by_asking_for_the_page(
    journal: na.Journal, watching: Callable[..., Stream]
) -> None:
    """Whatever was missed, who comes (again) asks for all."""
    first = watching().until("threads")
    assert first["reload"] and first["threads"] == []


def test_conversations_that_change_are_told(
    journal: na.Journal, watching: Callable[..., Stream]
) -> None:
    """A new one, one that goes on, and one that goes."""
    stream = watching()
    stream.until("threads")
    na.Agent(chained(add), "counter", journal).run({"n": 0}, thread="t")
    told = stream.until(
        "threads", lambda data: any(r["status"] == "succeeded" for r in data["threads"])
    )
    assert [row["thread"] for row in told["threads"]] == ["t"]
    journal.delete_thread("t")
    assert stream.until("threads", lambda data: data["gone"])["gone"] == ["t"]


def test_steps_are_told_while_they_run(
    watching: Callable[..., Stream], driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A step that cannot return before it was seen is seen; then comes only what changed."""
    stream = watching(thread="t")
    whole = stream.until("run", lambda data: _step(data, "wait") is not None)["state"]
    assert [step["state"] for step in whole["steps"]] == ["returned", "running"]
    assert whole["driver"] == {"pid": driver.pid, "host": socket.gethostname()}
    (tmp_path / "free").touch()
    deltas = []
    for name, data in stream:
        deltas += [data["delta"]] if name == "run" else []
        if deltas and deltas[-1]["status"] == "succeeded":
            break
    told = {step["name"]: step["state"] for delta in deltas for step in delta["steps"]}
    assert told == {"wait": "returned", "then": "returned"}


def test_the_newest_run_is_followed(journal: na.Journal, watching: Callable[..., Stream]) -> None:
    """Who watches a conversation is given its next run, whole."""
    agent = na.Agent(chained(add), "counter", journal)
    agent.run({"n": 0}, thread="t")
    stream = watching(thread="t")
    assert stream.until("run")["run"] == 1
    agent.run({"n": 7}, thread="t")
    assert stream.until("run", lambda data: data["run"] == 2)["state"]["run"] == 2


def test_the_death_of_a_driver_is_told(
    watching: Callable[..., Stream], driver: subprocess.Popen[str]
) -> None:
    """A killed process commits nothing; that its run is orphaned is told all the same."""
    stream = watching(thread="t")
    stream.until("run", lambda data: data["state"]["status"] == "running")
    driver.kill()
    told = stream.until("run")
    assert (told["delta"] or told["state"])["status"] == "orphaned"


def test_the_death_of_a_driver_is_told_to_lists(
    watching: Callable[..., Stream], driver: subprocess.Popen[str]
) -> None:
    """Also to those who watch no run."""
    stream = watching()
    stream.until("threads")
    driver.kill()
    told = stream.until("threads", lambda data: data["threads"])
    assert [row["status"] for row in told["threads"]] == ["orphaned"]
    assert told["threads"][0]["driver"]["alive"] is False


def test_a_journal_that_is_taken_away_ends_the_stream(
    home: Path, journal: na.Journal, watching: Callable[..., Stream]
) -> None:
    """Its page is told why."""
    stream = watching()
    stream.until("threads")
    home.rename(home.with_name("elsewhere"))
    try:
        assert stream.until("failed")["code"] == "no_journal"
        assert list(stream) == []
    finally:
        home.with_name("elsewhere").rename(home)


def _step(data: dict[str, Any], name: str) -> str | None:
    steps = (data["delta"] or data["state"])["steps"]
    return next((step["state"] for step in steps if step["name"] == name), None)
