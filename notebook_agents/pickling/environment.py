"""Secrets: how they are known, and how they are kept out of a pickle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from notebook_agents.errors import DefinitionError, ValueNotKeptError

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORDS = frozenset({"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL"})
_SHORTEST = 8
"""Characters below which a value is no secret: it would be found everywhere by chance."""


def known_secrets() -> dict[str, str]:
    """Return the environment variables whose name says that they hold a secret.

    The name has one of the words KEY, TOKEN, SECRET, PASSWORD, PASSWD, PASSPHRASE or CREDENTIAL,
    set off by underscores, in upper or lower case, and the value has eight characters or more.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and not _WORDS.isdisjoint(name.upper().split("_"))
    }


def names_by_value(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the variable's name for each value that is long enough to be a secret."""
    return {value: name for name, value in secrets.items() if len(value) >= _SHORTEST}


def refuse_inside(data: bytes, secrets: Mapping[str, str], what: str) -> None:
    """Refuse a pickle that holds a secret as a part of something else.

    Raises:
        DefinitionError: It does. The message names the variable, never the value.
    """
    for value, name in names_by_value(secrets).items():
        if value.encode(errors="surrogateescape") in data:
            raise DefinitionError(
                f"{what} holds the value of the environment variable {name}, which would put it "
                f"into the journal: read os.environ[{name!r}] inside the node that needs it"
            )


def hide(text: str, secrets: Mapping[str, str]) -> str:
    """Return `text` with each secret's value replaced by the name of its variable."""
    for value, name in names_by_value(secrets).items():
        text = text.replace(value, f"${name}")
    return text


def value_of(name: str) -> str:
    """Return the secret that a pickle refers to by its variable.

    Raises:
        ValueNotKeptError: The variable is not set here.
    """
    if (value := os.environ.get(name)) is not None:
        return value
    raise ValueNotKeptError(
        f"what was kept needs the environment variable {name}, whose value is never written to the "
        f"journal: set {name} and resume"
    )
