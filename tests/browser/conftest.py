"""One server and one browser for all; a notebook of its own for each test."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .lab import Lab, Server, chromium, extension, opened_browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from playwright.sync_api import Browser, Page

SHOTS = Path("bench-out", "screens")


def _needed() -> list[tuple[bool, str]]:
    """Return what these tests need: whether it is there, and how it is installed."""
    install = f"`{sys.executable} -m pip install --group browser`"
    return [
        (chromium() is not None, "Chromium (`apt-get install chromium`)"),
        (find_spec("playwright") is not None, f"playwright ({install})"),
        (find_spec("jupyterlab") is not None, f"JupyterLab ({install})"),
    ]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Give a browser; `make browser` refuses to run without one."""
    if missing := [how for there, how in _needed() if not there]:
        wanted = "NEED_BROWSER" in os.environ
        (pytest.exit if wanted else pytest.skip)(f"a browser's test needs: {'; '.join(missing)}")
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="package")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a JupyterLab."""
    started = Server(tmp_path_factory.mktemp("lab"))
    try:
        started.wait()
        yield started
    finally:
        started.close()


@pytest.fixture(scope="package")
def extended(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a JupyterLab that has our extension."""
    if not extension():
        wanted = "NEED_BROWSER" in os.environ
        (pytest.exit if wanted else pytest.skip)("JupyterLab's extension is not built: `make lab`")
    started = Server(tmp_path_factory.mktemp("extended"), extension=True)
    try:
        started.wait()
        yield started
    finally:
        started.close()


@pytest.fixture
def lab(
    browser: Browser, server: Server, request: pytest.FixtureRequest
) -> Iterator[Callable[[Sequence[str]], Lab]]:
    """Give what opens a notebook of these cells, in a folder of its own."""
    yield from _opener(browser, server, request)


@pytest.fixture
def paneled(
    browser: Browser, extended: Server, request: pytest.FixtureRequest
) -> Iterator[Callable[[Sequence[str]], Lab]]:
    """Give the same where JupyterLab has our extension."""
    yield from _opener(browser, extended, request)


def _opener(
    browser: Browser, server: Server, request: pytest.FixtureRequest
) -> Iterator[Callable[[Sequence[str]], Lab]]:
    pages = []

    def open_page(width: int) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        return page

    def again(tab: Lab) -> Lab:
        """Open a notebook in one more tab."""
        return Lab(server, open_page(1200), tab.notebook, tab.shots, busy=True)

    def open_notebook(
        cells: Sequence[str], *, width: int = 1200, before: Callable[[Path], None] | None = None
    ) -> Lab:
        folder = f"{request.node.name}-{len(pages)}".replace("[", "-").replace("]", "")
        (server.root / folder).mkdir()
        server.write(f"{folder}/notebook.ipynb", cells)
        if before is not None:
            before(server.root / folder)
        return Lab(server, open_page(width), f"{folder}/notebook.ipynb", SHOTS / request.node.name)

    open_notebook.again = again  # type: ignore[attr-defined]
    yield open_notebook
    for number, page in enumerate(pages):
        page.screenshot(path=SHOTS / request.node.name / f"last-{number}.png")
        page.close()
