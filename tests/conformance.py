"""`python -m tests.conformance`: what LangGraph's own conformance suite says of the saver."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.report import ProgressCallbacks

from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from langgraph.checkpoint.conformance.report import CapabilityReport

CHECKS = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}
"""How many checks the suite has for each capability."""


class OnlySync(JournalSaver):
    """Answers the suite's async calls by the saver's sync methods."""

    async def aput(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return self.put(*args, **kwargs)

    async def aput_writes(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return self.put_writes(*args, **kwargs)

    async def aget_tuple(self, config):  # type: ignore[no-untyped-def]
        return self.get_tuple(config)

    async def alist(self, config, **kwargs):  # type: ignore[no-untyped-def]
        for found in self.list(config, **kwargs):
            yield found

    async def adelete_thread(self, thread_id):  # type: ignore[no-untyped-def]
        self.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids):  # type: ignore[no-untyped-def]
        self.delete_for_runs(run_ids)

    async def acopy_thread(self, source, target):  # type: ignore[no-untyped-def]
        self.copy_thread(source, target)

    async def aprune(self, thread_ids, **kwargs):  # type: ignore[no-untyped-def]
        self.prune(thread_ids, **kwargs)


FORMS = {
    "JournalSaver, async methods": (JournalSaver, False),
    "JournalSaver, sync methods": (OnlySync, False),
    "JournalSaver, every record moved to DuckDB": (OnlySync, True),
}
"""The ways in which the suite is run: a saver, and whether DuckDB takes every record at once."""


async def report(
    name: str, home: Path, progress: ProgressCallbacks | None = None
) -> CapabilityReport:
    """Run the suite in one of `FORMS`, on journals in the directory `home`."""
    kind, ingest = FORMS[name]
    made = iter(range(100))

    @checkpointer_test(name=name)
    async def saver() -> AsyncGenerator[JournalSaver, None]:
        with Journal.open(home / str(next(made))) as journal:
            if ingest:
                append = journal.append

                def append_and_ingest(drafts, *, durable):  # type: ignore[no-untyped-def]
                    append(drafts, durable=durable)
                    journal.ingest()

                journal.append = append_and_ingest  # type: ignore[method-assign]
            yield kind(journal)

    return await validate(saver, progress=progress)


def main() -> None:
    """Print a report for each form; the exit code is 1 if a check failed or was not there."""
    missed = False
    for name in FORMS:
        with tempfile.TemporaryDirectory() as place:
            os.environ["JUPYTER_DATA_DIR"] = place  # where the master key is made
            found = asyncio.run(report(name, Path(place), ProgressCallbacks.default()))
        found.print_report()
        passed = sum(result.tests_passed for result in found.results.values())
        print(f"    {passed} of {sum(CHECKS.values())} checks passed\n")
        missed |= {name: result.tests_passed for name, result in found.results.items()} != CHECKS
    sys.exit(missed)


if __name__ == "__main__":
    main()
