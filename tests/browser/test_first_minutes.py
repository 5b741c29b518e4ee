"""A newcomer with nothing but the README: its two cells, a kill, one click, the stored answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .people import Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RED = "[data-mime-type='application/vnd.jupyter.stderr']"


def test_the_two_cells_of_the_readme_survive_a_kill(lab: Callable[..., Lab]) -> None:
    """Nothing red at any moment; what a click began prints under its cell, too."""
    make, run, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    tab = lab([make, run.rstrip()])
    desk = Desk(tab)
    desk.begin()
    desk.step("charge", "returned").wait_for()
    tab.shot("1-running")
    tab.kill_kernel()
    desk.status("its kernel is gone").wait_for()
    tab.shot("2-gone")
    desk.button("Resume").click()
    desk.status("succeeded").wait_for()
    desk.output.get_by_text(
        re.compile("^charging ann .*^charging eve ", re.MULTILINE | re.DOTALL)
    ).wait_for()
    desk.timeline.get_by_text(re.compile("1 step replayed")).wait_for()
    tab.shot("3-resumed")
    assert tab.page.locator(RED).count() == 0
    tab.run(0)
    tab.done(0)
    tab.run(1)
    desk.timeline.get_by_text(re.compile("the stored answer was given: nothing was run")).wait_for()
    tab.shot("4-stored")
    assert tab.page.locator(RED).count() == 0
