"""keys.copy has every data key that the queue has, whoever was killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from test_journal import note

from notebook_agents.journal import Journal, keycopy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.syscalls import Shim

    Dies = Callable[[Callable[[], object]], None]


@pytest.fixture
def killed(home: Path, dies: Dies, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Append a record of thread `b` in a process that is killed when its key is to be copied."""

    def work() -> None:
        monkeypatch.setattr(keycopy, "add", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        Journal.open(home).append([note("first", thread="b")], durable=True)

    return lambda: dies(work)


def stored(home: Path) -> dict[str, bytes]:
    """Return the queue's keys."""
    with closing(sqlite3.connect(f"file:{home / 'queue.sqlite'}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT scope, wrapped FROM keys").fetchall())


def test_the_next_opening_adds_a_key_that_a_kill_left_out(
    home: Path, killed: Callable[[], None]
) -> None:
    """Without its copy the key would go with the queue."""
    with Journal.open(home) as journal:
        journal.append([note("a", thread="a")], durable=True)
    killed()
    assert keycopy.read(home)[1].keys() == {"a"}
    Journal.open(home).close()
    assert keycopy.read(home)[1] == stored(home)
    assert stored(home).keys() == {"a", "b"}


def test_a_first_key_that_a_kill_left_out(home: Path, killed: Callable[[], None]) -> None:
    """There is no record yet then."""
    killed()
    assert not (home / "keys.copy").exists()
    Journal.open(home).close()
    assert keycopy.read(home)[1].keys() == stored(home).keys() == {"b"}


def test_who_closes_last_adds_what_a_process_that_was_killed_beside_it_left_out(
    home: Path, killed: Callable[[], None]
) -> None:
    """The end is a clean one, and nobody looks for it later."""
    with Journal.open(home) as journal:
        journal.append([note("a", thread="a")], durable=True)
        killed()
    assert keycopy.read(home)[1].keys() == stored(home).keys() == {"a", "b"}


def test_a_copy_that_cannot_be_written_leaves_no_file_open(
    home: Path, shim: Shim, tmp_path: Path
) -> None:
    """A full disk is said each time, and a kernel that goes on does not run out of descriptors."""
    program = """
        import json, os
        from pathlib import Path
        from support.syscalls import fail, mend
        from test_journal import note
        from notebook_agents.errors import JournalWriteError
        from notebook_agents.journal import Journal
        home = Path(os.environ["NA_ROOT"])
        def copies():
            links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            return [os.readlink(link) for link in links if os.path.exists(link)].count(
                str(home / "keys.copy"))
        with Journal.open(home) as journal:
            journal.append([note("a")], durable=True)
            fail("write", "keys.copy", 28)
            try:
                journal.append([note("b", thread="b")], durable=True)
            except JournalWriteError as error:
                said = str(error)
            print(json.dumps([said, copies()]))
            mend()
    """
    said, left = json.loads(shim.run(program, home))
    assert "full" in said or "space" in said
    assert left == 0
    assert keycopy.read(home)[1].keys() == stored(home).keys()
