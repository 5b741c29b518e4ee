"""`dumps` and `loads`: the picklers that apply the rules, and what is said when they cannot.

The first byte of the output tells the engine: `c` cloudpickle, `d` dill's rules were needed. Both
are pickles of protocol 5 behind it. Persistent ids are `("env", variable)` for a secret, and
`("ref", token)` for an object of this package.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Collection, Mapping
from typing import Any

import cloudpickle

from notebook_agents.errors import NotebookAgentsError, ValueNotKeptError
from notebook_agents.pickling import environment
from notebook_agents.pickling.refusals import type_name
from notebook_agents.pickling.rules import RefusedError, rule_for
from notebook_agents.pickling.search import Culprit, path_to, smallest_failing

_CLOUDPICKLE = b"c"
_DILL = b"d"
_NESTED = "it is nested too deeply"
_LONGEST_REASON = 200
_PLAIN = frozenset({type(None), bool, int, float, complex, bytes, list, tuple, dict, set})

Refer = Callable[[object], str | None]
Encode = Callable[[object], bytes]


def dumps(
    obj: object,
    *,
    what: str,
    by_value: Collection[str] = (),
    secrets: Mapping[str, str] | None = None,
    reference: Refer | None = None,
) -> bytes:
    """Pickle an object so that it comes back in a process that has none of this one's cells.

    Args:
        obj: Anything. What belongs to `__main__` goes by value, exceptions without their traceback.
        what: Names the object in errors: "result of node 'fetch'".
        by_value: Modules and packages whose classes and functions go by value too.
        secrets: Values of environment variables, by the variable's name. A string that equals one
            is left out and read from the environment again by `loads`.
        reference: Returns a token for an object that shall be kept as a reference, else None.

    Returns:
        Bytes for `loads`.

    Raises:
        ValueNotKeptError: Something in it cannot be kept. The message says where it is, what it is
            and what to do instead.
        DefinitionError: A secret's value is a part of something in it.
    """
    options = (frozenset(by_value), environment.names_by_value(secrets or {}), reference)

    def encode(value: object) -> bytes:
        return _encode(_pickler_class(options), _CLOUDPICKLE, value, options)

    try:
        data = encode(obj)
    except Exception as error:
        data = _second_try(obj, error, what, options, encode, secrets or {})
    if secrets:
        environment.refuse_inside(data, secrets, what)
    return data


def loads(data: bytes, *, reference: Callable[[str], object] | None = None) -> object:
    """Rebuild what `dumps` was given.

    Only for bytes that this user's key has authenticated: a pickle is code.

    Args:
        data: What `dumps` returned.
        reference: Returns the object for a token that `dumps` was given for it.

    Raises:
        ValueNotKeptError: A module, a name or an environment variable that it needs is not here, or
            another version of Python compiled a function in it.
    """
    if data[:1] == _DILL:
        _fallback()  # so that the pickle's own import of dill does not change other picklers
    elif data[:1] != _CLOUDPICKLE:
        raise ValueNotKeptError(
            "what was kept was not pickled by this version of notebook-agents: install the newer one"
        )
    file = io.BytesIO(data)
    file.seek(1)
    try:
        return _Unpickler(file, reference).load()
    except (NotebookAgentsError, MemoryError):
        raise
    except Exception as error:
        raise ValueNotKeptError(
            f"what was kept cannot be rebuilt here ({_reason(error)}): import, install or define "
            "what is missing first, then resume"
        ) from error
