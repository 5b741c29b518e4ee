"""The size of a folder's files, noted while a run goes on.

A module of its own, so that a graph that is kept by value refers to it instead of holding a copy.
"""

from __future__ import annotations

from pathlib import Path

noted: list[tuple[int, int]] = []
"""How many steps had ended, and the bytes of all files then."""


def files(folder: Path) -> dict[str, int]:
    """Return the bytes of each file in a folder and the folders in it."""
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def note(folder: str, ended: int) -> None:
    """Note the bytes of a folder's files."""
    noted.append((ended, sum(files(Path(folder)).values())))
