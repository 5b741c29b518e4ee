"""A real JupyterLab and a real browser, driven by what a person can do: click, type, look.

JupyterLab's own objects are asked only where a person would look at the screen: whether the kernel
is idle, which cell is selected.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser, Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60
"""How long anything may take on a busy machine; the slowest is the kernel's first start."""
EXTENSION = "@notebook-agents/jupyterlab"
_QUIET = "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"


def chromium() -> str | None:
    """Return the path of a Chromium, or None where none is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def extension() -> bool:
    """Whether JupyterLab finds our extension in this environment."""
    return Path(sys.prefix, "share/jupyter/labextensions", EXTENSION, "package.json").is_file()


class Server:
    """A JupyterLab server of its own, which knows nothing of this user.

    Args:
        folder: Where notebooks, settings and the server's log are.
        extension: Whether our own extension of JupyterLab is there.
    """

    def __init__(self, folder: Path, *, extension: bool = False) -> None:
        self.root = folder / "work"
        self.root.mkdir(parents=True)
        self.token = "browser-test"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        homes = {name: folder / name.lower() for name in (*places, "IPYTHONDIR")}
        quiet = homes["JUPYTER_CONFIG_DIR"] / _QUIET
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false"}')
        if not extension:
            disabled = homes["JUPYTER_CONFIG_DIR"] / "labconfig/page_config.json"
            disabled.parent.mkdir()
            disabled.write_text(json.dumps({"disabledExtensions": {EXTENSION: True}}))
        here = {name: str(path) for name, path in homes.items()}
        environment = {**os.environ, **here}
        environment.pop("NOTEBOOK_AGENTS_HOME", None)  # a notebook's journal lies beside it
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0"),
                f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.root}",
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Return when it answers.

        Raises:
            AssertionError: It ended, or does not answer.
        """
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            try:
                self.ask("api/status")
            except OSError:
                time.sleep(0.1)  # between two questions: nothing tells when it listens
            else:
                return
        raise AssertionError("JupyterLab does not answer: " + Path(self._log.name).read_text())

    def ask(self, path: str) -> Any:
        """Return what the server's REST API says."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def close(self) -> None:
        """End it, and its kernels with it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def write(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook of code cells."""
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook.metadata.kernelspec = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, self.root / name)


class Lab:
    """One notebook in one browser tab.

    Args:
        server: Where it is.
        page: The tab.
        notebook: The notebook's name.
        shots: Where screenshots go.
        busy: Its kernel is at work already.
    """

    def __init__(
        self, server: Server, page: Page, notebook: str, shots: Path, *, busy: bool = False
    ) -> None:
        self.server = server
        self.page = page
        self.notebook = notebook
        self.shots = shots
        page.set_default_timeout(SECONDS * 1e3)
        self.open(busy=busy)

    def open(self, *, busy: bool = False) -> None:
        """Open the notebook, or load the page again; return when its kernel is idle.

        Args:
            busy: The kernel is at work: return when the page is connected with it.
        """
        server = self.server
        self.page.goto(f"{server.url}/lab/tree/{self.notebook}?token={server.token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        if busy:
            self.page.wait_for_function(f"() => {_KERNEL}?.connectionStatus === 'connected'")
        else:
            self.idle()

    def idle(self) -> None:
        """Return when the kernel has nothing to do."""
        self.page.wait_for_function(f"() => {_KERNEL}?.status === 'idle'")

    def cell(self, number: int) -> Locator:
        """Return a cell, from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def run(self, number: int) -> None:
        """Run a cell as Ctrl-Enter does; return when it has begun."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        # A fresh kernel may give the cell the number that it has already.
        self.page.evaluate(
            f"""number => {{
                const panel = {_PANEL};
                panel.content.activeCellIndex = number;
                panel.content.deselectAll();
                panel.content.activeCell.model.executionCount = null;
                window.jupyterapp.commands.execute('notebook:run-cell');
            }}""",
            number,
        )
        self.page.wait_for_function(
            "prompt => !['', '[ ]:'].includes(prompt.innerText)", arg=prompt.element_handle()
        )

    def done(self, number: int) -> None:
        """Return when a cell's run has ended, as its prompt says."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        prompt.get_by_text(re.compile(r"\[\d+\]:")).wait_for()

    def output(self, number: int) -> Locator:
        """Return what is under a cell."""
        return self.cell(number).locator(".jp-OutputArea")

    def save(self) -> Any:
        """Save the notebook; return it as it is in the file."""
        self.page.evaluate(f"() => {_PANEL}.context.save()")
        return nbformat.read(self.server.root / self.notebook, as_version=4)

    def theme(self, name: str) -> None:
        """Change the theme."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            f"JupyterLab {name}",
        )
        dark = str(name != "Dark").lower()
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{dark}'")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def narrow(self, width: int) -> None:
        """Have the window be so many pixels wide, with its side bars folded."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def kernel(self) -> int:
        """Return the kernel's process id, as the system has it."""
        sessions = self.server.ask("api/sessions")
        kernel = next(one["kernel"]["id"] for one in sessions if one["path"] == self.notebook)
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                said = process.read_text()
            except OSError:
                continue  # it ended meanwhile
            if f"kernel-{kernel}.json" in said:
                return int(process.parent.name)
        raise AssertionError(f"kernel {kernel} has no process")

    def kill_kernel(self) -> None:
        """SIGKILL the kernel; return when the fresh one that Jupyter starts is idle.

        What Jupyter says of it in a dialog is confirmed, as a person does.
        """
        os.kill(self.kernel(), signal.SIGKILL)
        dialog = self.page.locator(".jp-Dialog")
        dialog.wait_for()
        self.page.keyboard.press("Enter")
        dialog.wait_for(state="detached")
        self.idle()

    def shot(self, name: str, what: Locator | None = None) -> None:
        """Keep a picture of the page, or of a part of it."""
        self.shots.mkdir(parents=True, exist_ok=True)
        (what or self.page).screenshot(path=self.shots / f"{name}.png")


_PANEL = "window.jupyterapp.shell.currentWidget"
_KERNEL = f"{_PANEL}?.sessionContext?.session?.kernel"


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Give a Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(
            executable_path=chromium(), headless=True, args=arguments
        )
        yield browser
        browser.close()
