"""Where journals and notebooks are, and that nothing outside the server's root is reached."""

from __future__ import annotations

import os
from pathlib import Path

from notebook_agents.server.refusals import RefusedError
from notebook_agents.settings import FOLDER, HOME_VARIABLE


class Places:
    """The server's root, and what lies below it.

    Symbolic links are followed before anything is compared: what lies elsewhere is outside.

    Args:
        root: The folder that the server shows.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser().resolve()

    def journal(self, *, journal: str | None = None, notebook: str | None = None) -> Path:
        """Return the directory of the journal that a request means.

        Args:
            journal: Its path relative to the root; goes first.
            notebook: A notebook's contents path: the journal that its kernel would use.

        Raises:
            RefusedError: There is none, or it lies outside the root.
        """
        if journal is not None:
            home = self._inside(journal, "the journal")
        elif configured := os.environ.get(HOME_VARIABLE):
            home = Path(configured).expanduser().resolve()
            if not home.is_relative_to(self.root):
                raise _outside(f"the journal that {HOME_VARIABLE} names")
        else:
            home = self._found(self.root if notebook is None else self._folder_of(notebook))
        if not _is_folder(home):
            raise _none(f"in {self.shown(home)}")
        return home

    def _found(self, folder: Path) -> Path:
        """Return the nearest journal in a folder or above it, up to the root."""
        for above in (folder, *folder.parents):
            if (above / FOLDER).is_dir():
                home = (above / FOLDER).resolve()
                if not home.is_relative_to(self.root):
                    raise _outside(f"the journal that {self.shown(above / FOLDER)} leads to")
                return home
            if above == self.root:
                break
        raise _none(f"in {self.shown(folder)}, nor above it up to the server's root")

    def _folder_of(self, notebook: str) -> Path:
        """Return the folder of a notebook, which need not be there."""
        found = self._inside(notebook, "the notebook")
        return found if found == self.root else found.parent

    def _inside(self, path: str, what: str) -> Path:
        try:
            found = (self.root / path.lstrip("/")).resolve()
        except (ValueError, OSError, RuntimeError) as error:  # a NUL, too long, a loop of links
            raise RefusedError(
                "bad_request", f"the path of {what} is none ({error}): give another"
            ) from None
        if not found.is_relative_to(self.root):
            raise _outside(what)
        return found

    def shown(self, path: Path) -> str:
        """Return a path relative to the root, "." for the root itself."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else "…"

    def contents(self, path: str | None) -> str | None:
        """Return the contents path of a file; None where it lies outside the root."""
        if path is None:
            return None
        file = Path(path)
        if not file.is_relative_to(self.root):
            try:
                file = file.resolve()
            except (OSError, RuntimeError, ValueError):
                return None
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its name is too long
        return False


def _outside(what: str) -> RefusedError:
    return RefusedError(
        "journal_outside_root",
        f"{what} lies outside the server's root and is not shown here: start Jupyter in a folder "
        "above it",
    )


def _none(where: str) -> RefusedError:
    return RefusedError(
        "no_journal",
        f"there is no journal {where}: run an agent in a notebook there, which makes one",
    )
