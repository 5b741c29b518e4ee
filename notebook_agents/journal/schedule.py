"""Backups that nobody has to think of."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from notebook_agents import clock, settings
from notebook_agents.disk import fsync_directory
from notebook_agents.errors import NotebookAgentsError

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_agents.journal.backup import Backup

_LOOK_SECONDS = 60.0

_logger = logging.getLogger("notebook_agents.journal")


class Schedule:
    """Makes the backups that NOTEBOOK_AGENTS_BACKUP_HOURS asks for; without it, nothing.

    Beside the work, in a worker thread, and at close. What goes wrong is logged: no run fails for
    it.
    """

    def __init__(self, home: Path, *, wanted: bool) -> None:
        self._home = home
        self._asked = settings.backup_schedule() if wanted else None
        self._look_at = 0.0
        self._worker: threading.Thread | None = None

    def after_commit(self, last: int) -> None:
        """Look once a minute whether a backup is due."""
        if self._asked is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if not self.busy and self._seems_due(last):
            self._worker = threading.Thread(
                target=self._run, name="notebook-agents-backup", daemon=True
            )
            self._worker.start()

    @property
    def busy(self) -> bool:
        """Whether a backup is being made."""
        return self._worker is not None and self._worker.is_alive()

    def wait(self) -> None:
        """Wait for a backup that is being made."""
        if self._worker is not None:
            self._worker.join()

    def at_close(self, last: int) -> None:
        """Make a backup if one is due."""
        if self._asked is not None and self._seems_due(last):
            self._run()

    def _seems_due(self, last: int) -> bool:
        try:
            return self._due(last)
        except OSError as error:
            self._warn(error)
            return False

    def _due(self, last: int) -> bool:
        from notebook_agents.journal.backup import backups

        assert self._asked is not None
        found = backups(self._home)
        if not found or not last:
            return last > 0
        age = clock.from_us(clock.now_us()) - found[-1].created
        # One from the future was made before the clock was set back: it says nothing.
        return found[-1].last != last and not timedelta() <= age < self._asked.every

    def _run(self) -> None:
        from notebook_agents.journal.backup import FOLDER, backing_up, backups, make

        assert self._asked is not None
        try:
            with backing_up(self._home, self._home / FOLDER) as journal:
                if not self._due(journal.newest()):
                    return  # another process has made it, while this one waited for its turn
                made = make(journal, self._home / FOLDER)
                kept = [each for each in backups(self._home) if each.journal == made.journal]
                for old in kept[: -self._asked.keep]:
                    _remove(old)
        except (NotebookAgentsError, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        _logger.warning("no backup of %s was made: %s", self._home, error)


def _remove(old: Backup) -> None:
    """Remove a backup: from the first moment on it is none."""
    going = old.path.with_name(f".{old.journal[:8]}-{old.path.name}")
    old.path.rename(going)
    fsync_directory(going.parent)
    shutil.rmtree(going)
