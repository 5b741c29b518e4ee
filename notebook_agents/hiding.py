"""Secrets of the environment: how they are known, and how they are kept out of what people see."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORDS = frozenset({"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL"})
SHORTEST = 8
"""Characters below which a value is no secret: it would be found everywhere by chance."""


def known_secrets() -> dict[str, str]:
    """Return the environment variables whose name says that they hold a secret.

    The name has one of the words KEY, TOKEN, SECRET, PASSWORD, PASSWD, PASSPHRASE or CREDENTIAL,
    set off by underscores, in upper or lower case, and the value has eight characters or more.
    """
    found = {name: os.environ.get(name, "") for name in os.environ if _says_so(name)}
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


@cache
def _says_so(name: str) -> bool:
    return not _WORDS.isdisjoint(name.upper().split("_"))


def names_by_value(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the variable's name for each value that is long enough to be a secret."""
    return {value: name for name, value in secrets.items() if len(value) >= SHORTEST}


def hide(text: str, secrets: Mapping[str, str]) -> str:
    """Return `text` with each secret's value replaced by the name of its variable."""
    for value, name in names_by_value(secrets).items():
        text = text.replace(value, f"${name}")
    return text


def hidden(text: str) -> str:
    """Return `text` without the secrets of this process's environment; see `hide`."""
    return hide(text, known_secrets())
