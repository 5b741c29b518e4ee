"""A kernel of this Python that says at its start what is unfinished in its notebook."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from notebook_agents.errors import UsageError

NAME = "notebook-agents"
EXTENSION = "notebook_agents.ui.welcome"
"""What makes the kernel different from ipykernel's own; also how ours are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a kernel is installed.

    Attributes:
        user: For this user, whatever the environment.
        prefix: An environment's folder; None for this Python's.
    """

    user: bool = False
    prefix: str | None = None

    def folder(self, name: str) -> Path:
        """Return the kernel's folder, as Jupyter looks for it."""
        if self.user:
            base = Path(_need("jupyter_core.paths").jupyter_data_dir())
        else:
            base = Path(self.prefix or sys.prefix).absolute() / "share" / "jupyter"
        return base / "kernels" / name


def install(place: Place, *, name: str = NAME, display_name: str | None = None) -> Path:
    """Install the kernel, or put it in the place of one that this wrote before.

    Returns:
        Its folder.

    Raises:
        UsageError: The name is none for a kernel, another kernel has it, the folder cannot be
            written, or ipykernel is not installed.
    """
    ipykernel = _need("ipykernel.kernelspec")
    name = name.lower()  # Jupyter knows kernels by their names in small letters
    if not _need("jupyter_client.kernelspec")._is_valid_kernel_name(name):
        raise UsageError(
            f"{name!r} is no name for a kernel: use letters, digits, '.', '-' and '_' only"
        )
    folder = place.folder(name)
    if folder.exists() and not _ours(folder):
        raise UsageError(f"{folder} is another kernel: give this one a --name of its own")
    # debugpy complains about frozen modules; ipykernel's own kernel turns them off too.
    arguments = ["-Xfrozen_modules=off"] if platform.python_implementation() == "CPython" else []
    title = display_name or f"Python {sys.version_info[0]} ({name})"
    with tempfile.TemporaryDirectory() as temporary:
        made = ipykernel.write_kernel_spec(
            Path(temporary) / name,
            overrides={"display_name": title},
            extra_arguments=[f"--IPKernelApp.extra_extensions={EXTENSION}"],
            python_arguments=arguments,
        )
        try:
            if folder.exists():
                shutil.rmtree(folder)
            shutil.copytree(made, folder)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written ({error.strerror or error}): install the kernel with "
                "--user, or with --prefix and a folder that is yours"
            ) from error
    return folder


def uninstall(place: Place | None, *, name: str = NAME) -> Path:
    """Remove a kernel that `install` made.

    Args:
        place: Where; None for this Python's environment or, if it is not there, this user.
        name: Its name.

    Returns:
        The folder that is gone.

    Raises:
        UsageError: There is none, it is another kernel, or it cannot be removed.
    """
    places = [place] if place is not None else [Place(), Place(user=True)]
    folders = [one.folder(name.lower()) for one in places]
    folder = next((one for one in folders if one.is_dir()), None)
    if folder is None:
        looked = " or ".join(map(str, folders))
        raise UsageError(f"there is no kernel {name!r} in {looked}: `jupyter kernelspec list`")
    if not _ours(folder):
        raise UsageError(
            f"{folder} is another kernel: `jupyter kernelspec remove {name}` if it is to go"
        )
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be removed ({error.strerror or error}): remove it as its owner"
        ) from error
    return folder


def _need(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"a kernel needs {module}, which is not installed for {sys.executable}; install it "
            "with: python -m pip install 'notebook-agents[notebook]'"
        ) from error


def _ours(folder: Path) -> bool:
    try:
        arguments = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))["argv"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(EXTENSION in str(argument) for argument in arguments)
