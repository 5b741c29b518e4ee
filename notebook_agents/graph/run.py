"""A run as its caller gets it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import RunNotFinishedError, UnknownThreadError
from notebook_agents.graph.codec import ResultCodec, strict_serializer
from notebook_agents.graph.people import interrupts
from notebook_agents.journal.values import Decoder, unpack
from notebook_agents.model import Interrupt, Kind, RunStatus, RunView, Step
from notebook_agents.runtime import showing
from notebook_agents.runtime.timeline import to_html, to_text
from notebook_agents.runtime.view import run_view, steps_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from notebook_agents.journal import Journal

_WHAT_TO_DO = {
    RunStatus.FAILED: 'mend what failed and run it again, or call na.resume("{thread}")',
    RunStatus.WAITING: "answer it by na.resume({thread!r}, answer=...), or by "
    "agent.run(Command(resume=...), thread={thread!r})",
    RunStatus.IN_DOUBT: "find out whether the doubtful step happened, say it by "
    "na.resolve({thread!r}, answer=na.did(result)) or na.did_not(), then resume",
    RunStatus.CANCELLED: "start another with new=True",
}


class Run:
    """One run of a thread. In a notebook it shows itself as a timeline.

    Attributes:
        thread: The thread's name.
        number: The run's number within the thread, from 1.
        stored: Its value was in the journal already and nothing was run for it.
        journal: Where it is recorded.
    """

    def __init__(
        self,
        journal: Journal,
        thread: str,
        number: int,
        *,
        stored: bool = False,
        allow: Iterable[tuple[str, ...] | type] = (),
    ) -> None:
        self.thread = thread
        self.number = number
        self.stored = stored
        self.journal = journal
        self._allow = tuple(allow)

    @cached_property
    def view(self) -> RunView:
        """The run as its records told it when this was first asked for."""
        return self.now()

    def now(self) -> RunView:
        """Return the run as its records tell it now."""
        view = run_view(self.journal, self.thread, self.number, stored=self.stored)
        if view.status.finished or view.closed is not None:
            return view
        codec = ResultCodec(strict_serializer(self._allow))
        asked = interrupts(self.journal, self.thread, self.number, codec=codec)
        return replace(view, interrupts=asked)

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What its steps ask people and nobody has answered yet; `na.resume` takes the answers."""
        return self.view.interrupts

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self.view.status

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its steps, in the order in which they first began."""
        return self.view.steps

    def page(self, after: str | None = None, limit: int = 100) -> tuple[Step, ...]:
        """Return some of its steps as they are now; of a long run, without reading the others.

        Args:
            after: The id of the last step of the page before; None: the first page.
            limit: How many at most.

        Raises:
            UnknownThreadError: The run has no such step.
        """
        return steps_page(self.journal, self.thread, self.number, after=after, limit=limit)

    @cached_property
    def value(self) -> Any:
        """What the graph returned.

        Raises:
            RunNotFinishedError: It returned nothing yet; the message says what to do.
            UnknownThreadError: The thread was deleted before this was first asked for.
        """
        if self.status is not RunStatus.SUCCEEDED:
            todo = _WHAT_TO_DO.get(self.status, 'resume it with na.resume("{thread}")')
            raise RunNotFinishedError(
                f"run {self.number} of thread {self.thread!r} is {self.status} and has no value: "
                + todo.format(thread=self.thread)
            )
        ends = self.journal.select(thread=self.thread, run=self.number, kinds=[Kind.RUN_FINISHED])
        if not ends:
            raise UnknownThreadError(
                f"thread {self.thread!r} was deleted, and with it the value of run {self.number}: "
                "run the agent again"
            )
        record = ends[-1]
        tree, _ = unpack(self.journal.payload(record.seq))
        codec = ResultCodec(strict_serializer(self._allow))
        return Decoder(codec, self.journal.parts).decode(tree, record.refs)

    def __repr__(self) -> str:
        return to_text(self.view)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        if (shows := showing.display()) is not None:
            return shows.bundle(self)
        return {"text/plain": to_text(self.view), "text/html": to_html(self.view)}
