"""A run's display in all the shapes that front ends know."""

from __future__ import annotations

import logging
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

from notebook_agents import clock, settings
from notebook_agents.errors import NotebookAgentsError
from notebook_agents.model import RunStatus
from notebook_agents.runtime import previews
from notebook_agents.runtime.timeline import clean, page_of, status_text, summary, to_html, to_text

if TYPE_CHECKING:
    from notebook_agents.journal import Journal
    from notebook_agents.model import RunView
    from notebook_agents.runtime.showing import Shown
    from notebook_agents.ui.state import State

MEDIA_TYPE = "application/vnd.notebook-agents.timeline.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_CHILD = ".jp-OutputArea-child"
_ONE_OF_BOTH = (
    f"<style>{_CHILD}:has(.na-record):has(+ {_CHILD} .nat-timeline){{display:none}}"
    f"{_CHILD}:has(.na-record) + {_CHILD} > .jp-OutputArea-output:not(:has(*)){{display:none}}"
    "</style>"
)
"""JupyterLab shows the live view, or the record, and not its own "model not found" or "Loading"."""
_ANSWER = 4_000
"""Characters of an answer that a cell shows."""
_logger = logging.getLogger("notebook_agents.ui")


def bundle(view: RunView, state: State) -> dict[str, Any]:
    """Return a run's record by media type; a front end takes the first that it knows.

    No widget is among them. Where its model is gone, with its kernel, a front end says so and
    shows nothing else of the bundle.

    Args:
        view: The run.
        state: Its state, see `state.py`.
    """
    page = page_of(view)
    return {
        MEDIA_TYPE: state,
        "text/html": f'<div class="na-record">{_as_of(view)}{to_html(view, page=page)}{_hint(view)}'
        f"{_ONE_OF_BOTH}</div>",
        "text/plain": to_text(view, page=page),
    }


def live_view(model: str) -> dict[str, Any]:
    """Return what is displayed behind a record: the live view of a widget's model, by its id.

    Its HTML is empty: nbconvert would warn that it cannot show the widget, the record stands there.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": model}
    return {_WIDGET: view, "text/html": ""}


def publish(shown: dict[str, Any], **options: Any) -> None:
    """Display a bundle in the cell that runs; `display_id` and `update` as IPython takes them."""
    from IPython.display import display

    display(shown, raw=True, **options)  # type: ignore[no-untyped-call]


def _as_of(view: RunView) -> str:
    """Return, of a run that works, when it stood so: a page that is loaded again shows it later."""
    if view.status is not RunStatus.RUNNING:
        return ""
    now = clock.from_us(clock.now_us()).astimezone()
    return f"<p>As it stood at {now:%H:%M:%S %Z} on {now:%Y-%m-%d}: a record, no live view.</p>"


def _hint(view: RunView) -> str:
    """Return, for pages that outlive the kernel, how a run that worked in it goes on."""
    if view.status is not RunStatus.RUNNING:
        return ""
    call = f"na.resume({clean(view.thread)!r})"
    return (
        "<p>If its kernel is gone, what returned is kept: <code>import notebook_agents as na; "
        f"{escape(call)}</code> goes on behind it.</p>"
    )


def short(run: Shown) -> dict[str, Any]:
    """Return what a cell shows whose value is a run that is displayed in the same cell already."""
    view = run.view
    if view.status is not RunStatus.SUCCEEDED:  # a button may go on with it: what is here stays
        return {"text/plain": f"run {view.number} of thread {clean(view.thread)!r}, shown above"}
    lines = [f"{status_text(view.status)} · {summary(view)}", answer_text(run)]
    return {"text/plain": "\n".join(line for line in lines if line)}


def answer_text(run: Shown) -> str:
    """Return what the graph returned: of a conversation its last message, else a preview."""
    try:
        value = run.value
    except Exception:  # whatever a foreign class raises on being rebuilt
        _logger.info("the value of thread %r cannot be shown", run.thread, exc_info=True)
        return ""
    messages = value.get("messages") if isinstance(value, dict) else None
    said = (
        getattr(messages[-1], "content", None)
        if isinstance(messages, list | tuple) and messages
        else None
    )
    if isinstance(said, str) and said:
        return said if len(said) <= _ANSWER else f"{said[:_ANSWER]}…"
    return previews.of_value(value, limit=_ANSWER)


def default_home(journal: Journal) -> str | None:
    """Return a journal's path, or None where a call without a path means it."""
    with suppress(NotebookAgentsError):
        if settings.journal_home(create=False).resolve() == journal.home.resolve():
            return None
    return str(journal.home)
