"""What the README tells a newcomer to do first does what it says."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.running import Ended

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
DIES = """import os
    if customer == "eve" and "DIES" in os.environ:
        os.kill(os.getpid(), 9)"""
"""Where the README's reader lets chance decide."""


def test_the_first_program_is_killed_and_goes_on(python: Callable[..., Ended]) -> None:
    """The README's program, killed while it charges, charges in an empty process only the rest."""
    make, run, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = make + run
    (resume,) = re.findall(r'^\$ python -c "(.*)"$', README, re.MULTILINE)
    assert "    time.sleep(2)\n" in program
    program = program.replace("time.sleep(2)", DIES)
    assert python(program, script=True, DIES="1").code == -signal.SIGKILL
    resumed = python(resume)
    assert resumed.code == 0, resumed.err
    assert re.findall("charging ([a-z]+)", resumed.out) == ["eve"]
    for told in ("2 steps replayed", "1 step was in doubt"):
        assert told in resumed.out
        assert told in README
    assert "run again with" in resumed.out
