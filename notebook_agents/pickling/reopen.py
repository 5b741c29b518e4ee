"""`on_restore`: what cannot be kept is described when it is kept, and opened again later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents.errors import UsageError
from notebook_agents.pickling.refusals import type_name

if TYPE_CHECKING:
    from collections.abc import Callable


class Hook(NamedTuple):
    """How something is opened again.

    Attributes:
        make: Returns it, given what `keep` returned; without `keep`, given nothing.
        keep: Returns what is to be known of it, or None where nothing is.
    """

    make: Callable[..., Any]
    keep: Callable[[Any], Any] | None


_hooks: dict[str, Hook] = {}


def on_restore(
    what: str | type,
    make: Callable[..., Any] | None = None,
    *,
    keep: Callable[[Any], Any] | None = None,
) -> Any:
    """Say how an object that cannot be kept comes back: a connection, a file, what a GPU holds.

    `na.on_restore("db", lambda: sqlite3.connect("shop.db"))` is for the object of that name among
    the objects of any thread; `na.on_restore(Client, Client, keep=lambda client: client.url)` is
    for objects of that type and its subclasses, also inside others. Without `make` it decorates the
    function that is to make it. The function is kept with the object, so that a fresh process needs
    no cell; one that has such a hook itself uses its own.

    Args:
        what: The object's name, or its type.
        make: Returns the object, given what `keep` returned; without `keep`, given nothing.
        keep: Given the object when it is kept; returns what `make` needs, which is kept instead.

    Raises:
        UsageError: `what` is neither a name nor a type.
    """
    if not isinstance(what, str | type):
        raise UsageError(
            f"on_restore({what!r}): give the object's name among the objects of a thread, or a type"
        )

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _hooks[_key(what)] = Hook(function, keep)
        return function

    return register if make is None else register(make)


def reduce(value: object) -> tuple[Any, ...] | None:
    """Return what `__reduce__` may return of an object whose type has a hook, else None."""
    if not _hooks or isinstance(value, type):
        return None
    for base in type(value).__mro__[:-1]:
        if (hook := _hooks.get(_key(base))) is not None:
            return _reduced(_key(base), hook, value)
    return None


def named(name: str, value: object) -> Any:
    """Return what stands for an object of this name: itself, unless the name has a hook."""
    hook = _hooks.get(_key(name))
    return value if hook is None else Reopened(*_reduced(_key(name), hook, value)[1])


class Reopened:
    """Stands for an object that is made again when it is loaded."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return again, self._arguments


def _reduced(key: str, hook: Hook, value: object) -> tuple[Any, ...]:
    kept = () if hook.keep is None else (hook.keep(value),)
    return again, (key, hook.make, kept, hook.keep)


def _key(what: str | type) -> str:
    return f"name {what}" if isinstance(what, str) else f"type {type_name(what)}"


# Journals name this: see rebuild.py.


def again(
    key: str,
    make: Callable[..., Any],
    kept: tuple[Any, ...],
    keep: Callable[[Any], Any] | None = None,
) -> Any:
    """Open something again, as this process says or else as the one did that kept it.

    From then on this process says the same: it is kept once more before the next one opens it.
    """
    return _hooks.setdefault(key, Hook(make, keep)).make(*kept)
