"""Put the front end of JupyterLab, where it is built, into the wheel.

A source install needs neither Node nor a network for that: it has no front end, and
`notebook-agents doctor` says so. `make lab` builds it; so does any build of the wheel with
NOTEBOOK_AGENTS_LAB=1, which fails where it cannot be built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("extensions", "jupyterlab")
BUILT = SOURCE / "labextension"
NAME = "@notebook-agents/jupyterlab"


class Lab(BuildHookInterface[Any]):
    """Ships the built front end, and builds it where it is told to."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's own
        """Add what is built to the files of the wheel."""
        if os.environ.get("NOTEBOOK_AGENTS_LAB") == "1":
            self._build()
        if not (Path(self.root) / BUILT / "package.json").is_file():
            self.app.display_warning(
                "without the JupyterLab extension, which is not built: `make lab` builds it"
            )
            return
        (Path(self.root) / BUILT / "package.json.orig").unlink(missing_ok=True)  # jupyter-builder's
        place = f"share/jupyter/labextensions/{NAME}"
        shared = build_data["shared_data"]
        shared[str(BUILT)] = place
        shared[str(SOURCE / "install.json")] = f"{place}/install.json"

    def _build(self) -> None:
        """Build the front end.

        Raises:
            SystemExit: jlpm, which comes with jupyter-builder, or Node is not installed.
            CalledProcessError: It cannot be built; npm's output says why.
        """
        if missing := [name for name in ("jlpm", "node") if shutil.which(name) is None]:
            raise SystemExit(
                f"the JupyterLab extension is not built, {' and '.join(missing)} missing: install "
                "Node and jupyter-builder, or build without NOTEBOOK_AGENTS_LAB"
            )
        for command in (("jlpm", "install", "--immutable"), ("jlpm", "build:prod")):
            subprocess.run(command, cwd=Path(self.root) / SOURCE, check=True)  # noqa: S603 - no input
