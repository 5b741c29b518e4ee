"""What the handlers share: where journals are, which are open, threads to work in, who watches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from notebook_agents.server.live import Watchers
from notebook_agents.server.opened import Journals
from notebook_agents.server.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_SWEEP_SECONDS = 5.0
_WARM_SECONDS = 1.0
"""To import a lot slows all other threads down: not while the first page is drawn."""


class Service:
    """One server's.

    Nothing of a journal is touched on the event loop. What reads, what changes and what looks
    whether all is well have threads of their own: one that hangs keeps none of the others.

    Args:
        root: The folder that the server shows.
    """

    def __init__(self, root: str) -> None:
        self.places = Places(root)
        self.journals = Journals()
        self.watchers = Watchers(self.journals)
        self._reads = ThreadPoolExecutor(4, "notebook-agents-read")
        self._acts = ThreadPoolExecutor(2, "notebook-agents-act")
        self._looks = ThreadPoolExecutor(1, "notebook-agents-health")
        self._sweeping: asyncio.Task[None] | None = None
        self._warm = False

    def begin(self) -> None:
        """Begin to close what nobody uses, once there is an event loop."""
        with suppress(RuntimeError):  # the server's loop does not run yet: the first request does
            self._sweeping = self._sweeping or asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await self._in(self._looks, self.journals.sweep)

    async def read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what reads."""
        return await self._in(self._reads, function, *args, **kwargs)

    async def act(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what changes something."""
        return await self._in(self._acts, function, *args, **kwargs)

    async def look(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what looks whether all is well."""
        return await self._in(self._looks, function, *args, **kwargs)

    async def _in(
        self, pool: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        self.begin()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, partial(function, *args, **kwargs))

    def warm(self) -> None:
        """Have loaded what the first look at a run needs: LangGraph takes a second."""
        if not self._warm:
            self._warm = True
            loop = asyncio.get_running_loop()
            loop.call_later(_WARM_SECONDS, loop.run_in_executor, self._looks, _load)


def _load() -> None:
    import notebook_agents.server.contents  # noqa: F401
