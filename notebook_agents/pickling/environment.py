"""Secrets of the environment, and how they are kept out of a pickle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from notebook_agents.errors import DefinitionError, ValueNotKeptError
from notebook_agents.hiding import hide, known_secrets, names_by_value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["hide", "known_secrets", "names_by_value", "refuse_inside", "value_of"]


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
