"""One server for the tests of a session; each test has a folder of its root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .served import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a server."""
    served = Served(tmp_path_factory.mktemp("served"))
    try:
        served.wait()
        yield served
    finally:
        served.close()


@pytest.fixture
def folder(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder in the server's root; this process has the server's key."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(server.data))
    made = server.root / tmp_path.name
    made.mkdir()
    return made


@pytest.fixture
def home(folder: Path) -> Path:
    """Name the directory of a journal in that folder."""
    return folder / ".notebook_agents"


@pytest.fixture
def where(server: Served, home: Path) -> str:
    """Name that directory as a request does."""
    return str(home.relative_to(server.root))
