"""A notebook that comes from elsewhere: what is under its cells can be read, and does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat

from .people import TRIP, Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab


def test_a_notebook_that_nobody_trusts_shows_its_runs_and_runs_nothing(
    lab: Callable[..., Lab],
) -> None:
    """Another person's notebook: its record is read in a page that trusts none of it."""
    tab = lab([TRIP, "agent.run({'said': 'a trip'}).value['said']"])
    desk = Desk(tab)
    desk.go()
    desk.begin()
    desk.status("succeeded").wait_for()
    tab.done(1)
    notebook = tab.save()
    # Jupyter trusts what it has signed, wherever it lies: this is another notebook.
    notebook.cells[0].source += "\n# by somebody else"
    tab.notebook = tab.notebook.replace("/notebook.", "/received.")
    nbformat.write(notebook, tab.server.root / tab.notebook)
    tab.open()
    desk.output.get_by_text("succeeded").wait_for()
    trusted = "window.jupyterapp.shell.currentWidget.content.model.cells.get(1).trusted"
    assert tab.page.evaluate(trusted) is False
    desk.shot("1-untrusted")
    shown = desk.output.inner_text()
    for word in ("search", "book", "thank", "returned", "3 steps returned"):
        assert word in shown
    for word in ("widget", "Error", "<div", "undefined"):
        assert word not in shown
    assert desk.timeline.count() == 0
    assert desk.output.locator("script, button, input, textarea, iframe").count() == 0
    tab.theme("Dark")
    desk.shot("2-dark")
    tab.theme("Light")  # it is the server's setting
