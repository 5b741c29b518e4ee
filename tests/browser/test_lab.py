"""The harness itself: it sees what a person sees, and kills what a person loses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab


def test_a_cell_runs_and_a_killed_kernel_comes_back(lab: Callable[..., Lab]) -> None:
    """Run, kill, run again."""
    tab = lab(["x = 1\nprint('x is', x)", "print('x' in globals())"])
    tab.run(0)
    tab.output(0).get_by_text("x is 1").wait_for()
    before = tab.kernel()
    tab.kill_kernel()
    tab.run(1)
    tab.output(1).get_by_text("False").wait_for()
    assert tab.kernel() != before
    tab.shot("killed")
