"""Journals to be spoilt."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from damage import oracle, specimens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Make each specimen once; give its directory and what is in it."""
    folder = tmp_path_factory.mktemp("specimens")
    made: dict[str, tuple[Path, Any]] = {}

    def give(name: str) -> tuple[Path, Any]:
        if name not in made:
            home = specimens.make(name, folder)
            shutil.copytree(home, folder / "read")
            made[name] = (home, oracle.read(folder / "read"))
            shutil.rmtree(folder / "read")
        return made[name]

    return give


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the key that all specimens are sealed with, also while they are made."""
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", specimens.KEY)


@pytest.fixture
def copy(shelf, tmp_path) -> Callable[[str], Path]:
    """Give a copy of a specimen."""

    def give(name: str, to: str = "copy") -> Path:
        shutil.copytree(shelf(name)[0], tmp_path / to)
        return tmp_path / to

    return give
