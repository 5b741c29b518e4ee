"""What a kernel held comes back from the panel, and what does not is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .panels import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab


def test_a_killed_kernels_variables_come_back_and_what_does_not_is_said(
    paneled: Callable[..., Lab],
) -> None:
    """SIGKILL; the panel says what is kept, brings it back in the fresh kernel, names the lock."""
    keep = "%load_ext notebook_agents\n%agents autosave on"
    make = "import threading\ntable = [1, 2, 3]\nlock = threading.Lock()"
    tab = paneled([keep, make, "sum(table)", "table.append(4)"])
    panel = Panel(tab)
    panel.show()
    for number in (0, 1, 3):
        tab.run(number)
        tab.done(number)
    kept = panel.node.get_by_text("Variables kept as of cell")
    kept.wait_for()
    tab.kill_kernel()
    kept.click()
    panel.shot("1-kept")
    panel.node.get_by_role("button", name="Restore", exact=True).click()
    panel.node.get_by_text("table").first.wait_for()
    panel.node.get_by_text("lock").first.wait_for()
    panel.shot("2-report")
    tab.run(2)
    tab.output(2).get_by_text("10", exact=True).wait_for()
    panel.node.get_by_role("button", name="Go back").first.click()
    panel.dialog.get_by_text("Variables that came later are removed").wait_for()
    panel.shot("3-asked")
    panel.dialog.get_by_role("button", name="Cancel").click()
