"""What is shown under a cell while a run works, and its record afterwards.

A run has one record under its cell (JSON, HTML and text, which a saved notebook keeps) and behind
it a live view, which takes the record's place where it can. What its steps do is noted on their
path (an append to a queue, nothing more); a thread of its own sends what changed to the live view,
at most four times a second and so rarely that it takes a small share of the time. The record is
renewed less often, and once more at the end, from the journal. Nothing in here can fail a run: what
goes wrong is logged, once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from notebook_agents import clock
from notebook_agents.model import RunStatus
from notebook_agents.runtime.events import StepEvent, observe
from notebook_agents.settings import timeline
from notebook_agents.ui import details
from notebook_agents.ui.bundles import bundle, default_home, live_view, publish, short
from notebook_agents.ui.folding import Folding
from notebook_agents.ui.state import State, run_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.journal import Journal
    from notebook_agents.model import Driver, RunView
    from notebook_agents.runtime.showing import Shown

P = ParamSpec("P")
R = TypeVar("R")

_PAUSE_SECONDS = 0.25
_SHARE = 40
"""An update may take one part in so many of the time."""
_BUNDLE_SECONDS = (2.0, 30.0)
"""Between two bundles, where a widget shows what happens in between; twice as long each time. A
notebook that is saved when its kernel was killed has what the last one had."""
_WHOLE_SECONDS = 1.0
"""After so long the widget gets everything once more: a page may have missed what came first."""
_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_REMEMBERED = 64
_PER_CELL = 12
"""Runs of one cell that get a display of their own."""
_logger = logging.getLogger("notebook_agents.ui")
_failed = False
asked_by_button: ContextVar[bool] = ContextVar("na_asked_by_button", default=False)
"""Whether a button of a component whose widget this kernel does not have asked for what runs."""


def _harmless(function: Callable[P, R]) -> Callable[P, R | None]:
    """Have a function that shows something log what it raises, the first time, and return None."""

    @wraps(function)
    def harmless(*args: P.args, **kwargs: P.kwargs) -> R | None:
        global _failed
        try:
            return function(*args, **kwargs)
        except Exception:
            if not _failed:
                _failed = True
                _logger.warning("a run could not be shown; it goes on", exc_info=True)
            return None

    return harmless


class Live:
    """The display of one run in this kernel.

    Args:
        run: The run.
    """

    def __init__(self, run: Shown) -> None:
        self.run = run
        name = f"{run.journal.id}\0{run.thread}\0{run.number}".encode()
        self._id = f"notebook-agents-{hashlib.blake2b(name, digest_size=8).hexdigest()}"
        self._widget: Any = None
        self._view: RunView | None = None
        self._state: State = {}
        self._folding: Folding | None = None
        self._events: deque[tuple[StepEvent, int]] = deque()
        self._depth = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._watching = ExitStack()
        self._due = 0.0
        self._between = _BUNDLE_SECONDS[0]
        self.shown_in: str | None = None
        """The execution (of a cell) in which it was displayed last."""

    # -- a run that works -------------------------------------------------------------------------

    def begin(self, run: Shown) -> None:
        """Show the run, and what it does, until `end`."""
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return  # its graph is driven on another loop, inside
        self.finish()
        self.run = run
        view = run.now()
        given = details.arguments(run.journal, run.thread, run.number, {s.id for s in view.steps})
        home, driver = default_home(run.journal), _driver(run.journal, run.thread)
        self._folding = Folding(view, given, driver=driver, journal=home)
        self._renew(*self._folding.record())
        self._display()
        self._over = threading.Event()
        self._between = _BUNDLE_SECONDS[0]
        self._due = 0.0
        self._watching.enter_context(observe(self._note))
        self._thread = threading.Thread(
            target=copy_context().run,
            args=(self._follow, self._over),
            name="notebook-agents-timeline",
            daemon=True,
        )
        self._thread.start()

    def end(self, run: Shown) -> None:
        """Show the run as its records tell it, now that nothing drives it here."""
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
        self.finish()
        self.run = run
        try:
            self.show_now()
        except BaseException:
            self._send()
            raise
        if self._state.get("status") == RunStatus.RUNNING:  # steps in worker threads go on
            follow = threading.Thread(
                target=copy_context().run, args=(self._wait_for_end,), daemon=True
            )
            follow.start()

    def finish(self) -> None:
        """Have the thread that sends updates end."""
        self._over.set()
        self._watching.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def _note(self, event: StepEvent) -> None:
        """Take note of an event, on its step's path."""
        if event.run == self.run.number and event.thread == self.run.thread:
            self._events.append((event, clock.now_us()))

    @_harmless
    def _follow(self, over: threading.Event) -> None:
        pause = _PAUSE_SECONDS
        whole = time.monotonic() + _WHOLE_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            self._send()
            if began >= whole and self._widget is not None:
                self._widget.state, whole = self.state, math.inf
            pause = max(_PAUSE_SECONDS, _SHARE * (time.monotonic() - began))
            if began >= self._due and not over.is_set():
                self._send_bundle()

    def _send(self) -> None:
        """Send what changed to the widget."""
        if self._folding is None:
            return
        for _ in range(len(self._events)):
            event, at = self._events.popleft()
            self._folding.take(event, clock.from_us(at))
        if self._folding.changed and self._widget is not None:
            self._widget.tell(self._folding.delta())

    def _send_bundle(self) -> None:
        """Renew the bundle that a saved notebook keeps, and pages without the widget show."""
        assert self._folding is not None
        began = time.monotonic()
        view, state = self._folding.record()
        if self._widget is not None:
            self._widget.state = state  # a view that is made meanwhile begins with it
        self._view, self._state = view, state
        self._publish(update=True)
        now = time.monotonic()
        if self._widget is None:
            self._due = now + max(_PAUSE_SECONDS, _SHARE * (now - began))
        else:
            self._between = min(self._between * 2, _BUNDLE_SECONDS[1])
            self._due = now + max(self._between, _SHARE * (now - began))

    @_harmless
    def _wait_for_end(self) -> None:
        while self._depth == 0:
            time.sleep(_LOOK_SECONDS)
            head = self.run.journal.head(self.run.thread)
            if head is None or not head.driven:
                self.show_now()
                return

    # -- a run at rest ----------------------------------------------------------------------------

    def show_now(self) -> None:
        """Show the run as its records tell it now, where it is displayed already."""
        self._show(self.run.now())
        self._publish(update=True)

    def show(self, run: Shown) -> None:
        """Display a run that nothing drives here."""
        self.run = run
        self._show(run.view)
        self._display()

    def bundle(self, run: Shown) -> dict[str, Any]:
        """Return what shows a run that is the value of a cell."""
        if self.shown_in is None or self.shown_in != execution():
            if not self._depth or self._view is None:
                self.run = run
                self._show(run.view)
            self._display()
        return short(run)

    @property
    def state(self) -> State:
        """The state as it is now."""
        folding = self._folding
        if not self._depth or folding is None:
            return self._state
        return folding.state

    @property
    def has_widget(self) -> bool:
        """Whether the run's own widget is in this kernel."""
        return self._widget is not None

    def _show(self, view: RunView) -> None:
        run = self.run
        given = {} if self._folding is None else self._folding.arguments
        seen = set() if self._folding is None else self._folding.steps
        for event, _ in list(self._events):  # what no update was told of
            if event.what == "intended":
                seen.add(event.step)
            if event.arguments is not None:
                given[event.step] = event.arguments
        missing = {step.id for step in view.steps} - seen
        given |= details.arguments(run.journal, run.thread, run.number, missing)
        state = run_state(
            view,
            arguments=given,
            results=details.results(run.journal, view),
            driver=_driver(run.journal, run.thread),
            journal=default_home(run.journal),
        )
        self._folding = None
        self._events.clear()
        self._renew(view, state)

    def _renew(self, view: RunView, state: State) -> None:
        self._view, self._state = view, state
        if self._widget is not None:
            self._widget.state = state

    # -- the display ------------------------------------------------------------------------------

    def _display(self) -> None:
        """Display the run in the cell that runs, unless it is there already."""
        here = execution()
        if here is not None and here == self.shown_in:
            self._publish(update=True)
            return
        if not _room_in(here):
            return
        if self._widget is None and not asked_by_button.get():
            self._widget = make_widget(self)
        self.shown_in = here
        self._publish(update=False)
        if self._widget is not None:
            publish(live_view(self._widget.model_id))

    def _publish(self, *, update: bool) -> None:
        if self.shown_in is not None:
            assert self._view is not None
            publish(bundle(self._view, self._state), display_id=self._id, update=update)


class _Shows:
    """What `runtime.showing` finds in this module."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str, int], Live] = OrderedDict()
        self._lock = threading.Lock()

    @_harmless
    def begin(self, run: Shown) -> None:
        """Show a run that this process drives from now on."""
        self.of(run).begin(run)

    @_harmless
    def end(self, run: Shown) -> None:
        """Show how it stands, now that this process has put it down."""
        self.of(run).end(run)

    @_harmless
    def stored(self, run: Shown) -> None:
        """Show a run whose recorded answer is given."""
        self.of(run).show(run)

    def bundle(self, run: Shown) -> dict[str, Any]:
        """Return what a cell shows whose value the run is, by media type."""
        return self._bundle(run) or {"text/plain": repr(run)}

    @_harmless
    def _bundle(self, run: Shown) -> dict[str, Any]:
        return self.of(run).bundle(run)

    def of(self, run: Shown) -> Live:
        """Return the display of a run, new or known."""
        key = (run.journal.id, run.thread, run.number)
        with self._lock:
            live = self._runs.get(key)
            if live is None:
                live = self._runs[key] = Live(run)
            self._runs.move_to_end(key)
            while len(self._runs) > _REMEMBERED:
                self._runs.popitem(last=False)
            return live

    def known(self, thread: str, run: int | None = None) -> Live | None:
        """Return the display of a run that this kernel has shown; None for any run: the newest."""
        with self._lock:
            for (_, name, number), live in reversed(self._runs.items()):
                if name == thread and run in (None, number):
                    return live
        return None


shows = _Shows()


def execution() -> str | None:
    """Return the id of the request, of a cell or a button, that this code runs for."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    parent = None if kernel is None else kernel.get_parent()
    return ((parent or {}).get("header") or {}).get("msg_id")


def make_widget(live: Live) -> Any:
    """Return a widget for a run, or None where none is installed or wanted."""
    if timeline() == "static":
        return None
    try:
        from notebook_agents.ui.widget import TimelineWidget
    except ImportError:
        return None
    from notebook_agents.ui.actions import handle

    return TimelineWidget(live._state, current=lambda: live.state, asked=handle)


_room: tuple[str | None, int] = (None, 0)


def _room_in(here: str | None) -> bool:
    """Whether the execution may have one more display; says how many runs have none."""
    global _room
    _room = (here, _room[1] + 1 if here == _room[0] else 1)
    if here is None or _room[1] <= _PER_CELL:
        return True
    more = _room[1] - _PER_CELL
    text = f"and {more} more run{'' if more == 1 else 's'}: `notebook-agents list` shows them all"
    update = more > 1
    publish({"text/plain": text}, display_id=f"{here}-more", update=update)
    return False


def _driver(journal: Journal, thread: str) -> Driver | None:
    head = journal.head(thread)
    return head.driver if head is not None and head.driven else None
