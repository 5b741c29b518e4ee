"""The command line while it drives a run: stopped, crowded out, watched."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.command_line import COMMAND, Driving, cli, threads

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_a_signal_leaves_a_run_that_can_be_resumed(
    number: signal.Signals, code: int, name: str, here: Path, drive: type[Driving]
) -> None:
    """One line says how to go on; what had returned is not done again."""
    words = ("agents.py:slow", "--input", '{"question": "?"}', "--thread", "t")
    run = drive("run", *words)
    run.until("▸ second")
    ended, said = run.stop(number)
    assert ended == code
    assert said == (
        f"notebook-agents: stopped by {name}: thread t can be resumed with: "
        "notebook-agents resume t\n"
    )
    assert threads()["t"]["status"] == "orphaned"
    (here / "free").touch()
    done = cli("resume", "t")
    assert done.returncode == 0
    assert "in doubt: started by process 1, never returned" in done.stdout
    assert (here / "ledger").read_text() == "first\nsecond\n"


def test_a_signal_while_resuming_leaves_it_resumable_again(
    here: Path, drive: type[Driving]
) -> None:
    """A resume can be stopped like a run, and its run command goes on with it too."""
    words = ("agents.py:slow", "--input", '{"question": "?"}', "--thread", "t")
    run = drive("run", *words)
    run.until("▸ second")
    run.stop(signal.SIGTERM)
    resume = drive("resume")
    resume.until("▸ second")
    assert resume.stop(signal.SIGINT)[0] == 130
    (here / "free").touch()
    again = json.loads(cli("run", *words, "--json").stdout)
    assert (again["sessions"], again["status"]) == (3, "succeeded")
    assert (here / "ledger").read_text() == "first\nsecond\n"


def test_a_second_signal_ends_a_fan_out_at_once(here: Path, drive: type[Driving]) -> None:
    """Worker threads that do not return cannot keep the command; no step is lost."""
    run = drive("run", "agents.py:wide", "--input", '{"n": 40}', "--thread", "t")
    run.until("▸ part")
    code, said = run.stop(signal.SIGTERM, again=True)
    assert code == 143
    assert said.splitlines()[-1].endswith("notebook-agents resume t")
    (here / "free").touch()
    assert cli("resume", "t").returncode == 0
    assert sorted(map(int, (here / "ledger").read_text().split())) == list(range(40))


def test_after_a_signal_no_other_step_begins(here: Path, drive: type[Driving]) -> None:
    """Of a wide fan-out only the steps that were running return; the others never begin."""
    run = drive("run", "agents.py:wide", "--input", '{"n": 40}', "--thread", "t")
    run.until("▸ part")
    run.process.send_signal(signal.SIGINT)
    (here / "gate").write_bytes(b"")  # those that were running return
    _, said = run.process.communicate(timeout=30)
    assert run.process.returncode == 130, said
    ledger = here / "ledger"
    assert not ledger.exists() or len(ledger.read_text().split()) < 40
    assert threads()["t"]["status"] == "orphaned"
    (here / "free").touch()
    assert cli("resume", "t").returncode == 0
    assert sorted(map(int, (here / "ledger").read_text().split())) == list(range(40))


def test_a_thread_that_another_process_drives_exits_with_5(
    here: Path, drive: type[Driving]
) -> None:
    """The process that holds it is named, and not disturbed."""
    run = drive("run", "agents.py:slow", "--input", '{"question": "?"}', "--thread", "t")
    run.until("▸ second")
    done = cli("resume", "t")
    assert done.returncode == 5
    assert str(run.process.pid) in done.stderr
    assert threads()["t"]["status"] == "running"
    assert threads()["t"]["driver"]["pid"] == run.process.pid
    assert run.stop(signal.SIGINT)[0] == 130


def test_a_step_in_doubt_exits_with_4(here: Path, drive: type[Driving]) -> None:
    """An at-most-once step that was cut off is asked about, with its key."""
    run = drive("run", "agents.py:paying", "--input", '{"question": "?"}', "--thread", "t")
    run.until("▸   charge")
    run.process.kill()
    run.process.communicate()
    (here / "free").touch()
    done = cli("resume", "t")
    assert done.returncode == 4
    assert "its idempotency key is na-" in done.stdout
    assert threads()["t"]["status"] == "in_doubt"


def test_on_a_terminal_the_view_is_live_and_leaves_the_result_only(here: Path) -> None:
    """A terminal sees steps while they run; stdout in a pipe is what it is without one."""
    (here / "free").touch()
    master, terminal = pty.openpty()
    words = ["run", "agents.py:slow", "--input", '{"question": "?"}', "--thread", "t"]
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=terminal, text=True
    )
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # Linux's way to say that the other side has closed it
        while block := os.read(master, 4096):
            seen += block
    os.close(master)
    assert process.stdout is not None
    out = process.communicate()[0]
    assert process.returncode == 0
    assert b"thread t" in seen
    assert b"\x1b[?25h" in seen  # the cursor is back
    assert out.startswith("slow · thread t · run 1 · ✓ succeeded\n")


DEAF = '''
import fcntl, os, signal, threading
from pathlib import Path
import notebook_agents as na
from langgraph.graph import END, START, StateGraph

MAIN = threading.current_thread()


def tell_another_thread(number):
    """Wait until the main thread is inside flock; take the signal in this thread."""
    waiting = f"-> FLOCK  ADVISORY  WRITE {os.getpid()} "
    while waiting not in Path("/proc/locks").read_text():
        pass
    signal.pthread_kill(threading.get_ident(), number)


def blocked(state):
    number = getattr(signal, Path("number").read_text())
    holder, asker = (os.open("lock", os.O_CREAT | os.O_RDWR) for _ in range(2))
    fcntl.flock(holder, fcntl.LOCK_EX)
    threading.Thread(target=tell_another_thread, args=(number,)).start()
    try:
        fcntl.flock(asker, fcntl.LOCK_EX)
    except KeyboardInterrupt:
        Path("interrupted").touch()
        raise
    return {}


graph = StateGraph(dict)
graph.add_node(blocked)
graph.add_edge(START, "blocked")
graph.add_edge("blocked", END)
deaf = na.Agent(graph.compile(name="deaf"))
'''


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/locks")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_does_not_interrupt_a_blocking_call_is_answered(
    name: str, code: int, here: Path
) -> None:
    """It came a moment before the call, or to another thread: the call would last for ever."""
    (here / "deaf.py").write_text(DEAF)
    (here / "number").write_text(name)
    done = cli("run", "deaf.py:deaf", "--input", "{}", "--thread", "t")
    assert done.returncode == code
    assert (here / "interrupted").exists()
    assert threads()["t"]["status"] == "orphaned"
