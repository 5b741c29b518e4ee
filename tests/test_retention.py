"""Deleting checkpoints beside drivers: a driver that begins at the last moment is seen."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from support.checks import add, chain
from support.holding import holding, until

import notebook_agents as na
from notebook_agents.errors import NotebookAgentsError, ThreadBusyError
from notebook_agents.model import Kind, RunStatus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("what", ["prune", "delete_for_runs"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_that_begins_before_the_deletion_commits_is_seen(
    what: str, ended: bool, home: Path, tmp_path: Path
) -> None:
    """The look and the append are one: refused while it drives; made anew where it has ended."""
    said: list[NotebookAgentsError | None] = []
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), f"holding-{tmp_path.name}", journal)
        agent.run({"n": 0}, thread="t", config={"metadata": {"run_id": "r"}})
        saver = na.JournalSaver(journal)

        def delete() -> None:
            try:
                saver.prune(["t"]) if what == "prune" else saver.delete_for_runs(["r"])
            except NotebookAgentsError as error:
                said.append(error)
            else:
                said.append(None)

        worker = threading.Thread(target=delete)
        with journal._writer.leading:  # it has looked, and has its turn when this block ends
            worker.start()
            until(lambda: journal._writer._waiting)
            held = holding(home, tmp_path)
            driver = held.__enter__()
            if ended:
                assert driver.let_go() == 0
        worker.join()
        deleted = journal.select(thread="t", kinds=[Kind.DELETION])
        assert bool(deleted) == ended
        if not ended:
            assert isinstance(said[0], ThreadBusyError)
            assert f"process {driver.pid}" in str(said[0])
        held.__exit__(None, None, None)
        assert said == [None] or not ended
        assert journal.thread("t").status is RunStatus.SUCCEEDED
        assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is not None
