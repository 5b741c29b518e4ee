"""Snapshots of variables that are taken faster than recorded: each piece is copied once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys
import numpy
from IPython.core.interactiveshell import InteractiveShell
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.pickling.snapshot import PIECE
from notebook_agents.ui.autosave import keeper

user = InteractiveShell.instance().user_ns
own = keeper()
own._begin()
user["array"] = array = numpy.zeros(3 * PIECE // 8 + 1)
array[:] = numpy.arange(len(array))
first = own.snapshots.capture()
array[0] = -1.0
second = own.snapshots.capture()
print(len(first.copies), len(second.copies))

def write(captured, token):
    columns = {"scope": own.thread, "token": token, "run": own._life, "attempt": 1}
    try:
        return own.snapshots.write(captured, columns=columns, more={})
    except NotebookAgentsError as error:
        print(type(error).__name__)

right = sys.argv[1] == "right"
write(first, own._token - (not right))
write(second, own._token)
print(own.snapshots.missing())
seq = write(own.snapshots.capture(), own._token)
kept = own.snapshots.load(seq, "it")[0]["array"]
print((kept == array).all(), own.snapshots.missing())
"""


@pytest.mark.parametrize("written", ["right", "wrong"])
def test_a_piece_that_waits_for_being_recorded_is_not_copied_again(
    tmp_path: Path, written: str
) -> None:
    """Nor is it lost where its recording fails: the next snapshot has all as it is then."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, written], capture_output=True, text=True, cwd=tmp_path
    )

    lines = done.stdout.splitlines()
    assert lines[0] == "4 2", done.stderr
    assert lines[-1] == "True {}", done.stderr
    if written == "wrong":
        assert lines[1:3] == ["FencedError", "NotebookAgentsError"]
