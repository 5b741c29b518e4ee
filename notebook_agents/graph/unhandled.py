"""What no retry policy and no error handler of a node may take for that node's failure."""

from __future__ import annotations

from typing import Any

from langgraph.errors import GraphBubbleUp

from notebook_agents.errors import FencedError, JournalError, StepInDoubt
from notebook_agents.runtime.stopping import RunStopped


class Unhandled(GraphBubbleUp):
    """Carries `cause` past LangGraph's retry policies and error handlers, to the run's end.

    LangGraph gives a node's error handler whatever is raised, a BaseException too, and goes on with
    what that says. But a doubt, a wish to stop and a journal that fails are not the node's.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class past_handlers:  # noqa: N801 - used like a function in `with`
    """Have in the block no error taken for the node's that is not."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, StepInDoubt | RunStopped | JournalError | FencedError):
            raise Unhandled(error) from error
