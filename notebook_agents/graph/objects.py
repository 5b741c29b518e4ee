"""The door to a thread's objects: `agent.thread("t").objects`, and `na.objects()` inside a node."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from notebook_agents.errors import NotDurableError
from notebook_agents.graph.drive import going
from notebook_agents.runtime.objects import Store, store
from notebook_agents.runtime.steps import current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_agents.journal import Journal
    from notebook_agents.pickling.report import RestoreReport
    from notebook_agents.runtime.object_records import Every


class Objects(MutableMapping[str, Any]):
    """Python objects that belong to a thread: data frames, models, functions of a cell.

    What a step changes is recorded together with its result, so that a resume in a fresh process
    has graph state and objects of the same step. What is changed outside a run is on disk when the
    assignment returns; what is changed in place there, when the next run begins or `save` returns.
    An object is loaded when it is first asked for. See also `na.on_restore`.
    """

    def __init__(self, journal: Journal, thread: str) -> None:
        self._journal = journal
        self._thread = thread

    def __getitem__(self, name: str) -> Any:
        return self._store.get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"objects are kept by name: give a string, not {name!r}")
        self._store.put(name, value)

    def __delitem__(self, name: str) -> None:
        self._store.remove(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.names())

    def __len__(self) -> int:
        return len(self._store.names())

    def __contains__(self, name: object) -> bool:
        return name in self._store.names()

    @property
    def every(self) -> Every:
        """How often a run keeps them: "step" (at first), a number of steps, a timedelta, "exit".

        It can be set, and is kept with them. With any other than "step" a resume may find objects
        that are older than the graph's state, never newer ones.
        """
        return self._store.every

    @every.setter
    def every(self, every: Every) -> None:
        self._store.every = every

    def save(self) -> None:
        """Record now what was changed in place outside a run.

        Raises:
            ThreadBusyError: Another process drives the thread.
        """
        self._store.save()

    def restore(self) -> RestoreReport:
        """Load every object and say what came back, what was refused, and what does not load here.

        One that fails does not stop the others; its bytes stay, for another process.
        """
        return self._store.restore()

    def __repr__(self) -> str:
        return f"<Objects of thread {self._thread!r}: {', '.join(self) or 'none'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return again, (str(self._journal.home), self._journal.mode, self._thread)

    @property
    def _store(self) -> Store:
        found = store(self._journal, self._thread, _reduce)
        inside = current()
        if inside is not None and _is_of(inside[0].journal, inside[0].thread, self):
            found.begin(inside[0])
        elif (drive := going(self._journal, self._thread)) is not None:
            found.begin(drive.driver)
        return found


def objects() -> Objects:
    """Return the objects of the thread in whose node or step this is called.

    Raises:
        NotDurableError: This code runs in no node: `agent.thread("t").objects` has a thread's.
    """
    inside = current()
    if inside is None:
        raise NotDurableError(
            "na.objects() was called outside a run: inside a node it has the thread's objects, "
            'anywhere else agent.thread("…").objects does'
        )
    return Objects(inside[0].journal, inside[0].thread)


def again(home: str, mode: Any, thread: str) -> Objects:
    """Rebuild the objects of a thread where a function refers to them."""
    from notebook_agents.graph.folder import journal_at

    return Objects(journal_at(home, mode), thread)


def _is_of(journal: Journal, thread: str, objects: Objects) -> bool:
    return journal.id == objects._journal.id and thread == objects._thread


def _reduce(value: object) -> Any:
    # Not imported above: an agent's threads have objects, and an object may be an agent.
    return import_module("notebook_agents.graph.kinds").reduce(value)
