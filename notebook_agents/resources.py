"""Files that lie at the top level of the repository and inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path


def resource(folder: str, name: str) -> Path:
    """Return the path of a file of `store/` or `notebooks/`.

    A wheel carries them as `notebook_agents/_store` and `notebook_agents/_notebooks`. An editable
    install has no such copies (hatch leaves `force-include` out of it), so the checkout is looked
    in too.

    Raises:
        FileNotFoundError: The file is in neither place; the installation is broken.
    """
    package = Path(__file__).parent
    for base in (package / f"_{folder}", package.parent / folder):
        if (base / name).is_file():
            return base / name
    raise FileNotFoundError(f"{folder}/{name} is missing from this installation of notebook-agents")
