"""Subinterpreters: refused by name, because a library that this package needs hangs there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from notebook_agents.errors import NotDurableError


def refuse_others() -> None:
    """Refuse any interpreter but the process's first one.

    Raises:
        NotDurableError: This is another one.
    """
    for name in ("_interpreters", "_xxsubinterpreters"):  # the first since Python 3.13
        if find_spec(name) is not None:
            module = import_module(name)
            here, first = module.get_current(), module.get_main()
            if here != first:
                raise NotDurableError(
                    "nothing is recorded in a subinterpreter, where libraries that the journal "
                    "needs do not load: use it in the main one, or in a process of its own"
                )
            return
