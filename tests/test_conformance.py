"""The saver passes the base part of LangGraph's own conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph.checkpoint.conformance import checkpointer_test, validate

from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

BASE = {"put", "put_writes", "get_tuple", "list", "delete_thread"}


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


async def passed(
    kind: type[JournalSaver], home: Path, *, ingest: bool
) -> dict[str, tuple[int, int]]:
    """Return passed and failed checks by capability."""
    made = iter(range(100))

    @checkpointer_test(name=f"{kind.__name__}{ingest}")
    async def saver() -> AsyncGenerator[JournalSaver, None]:
        with Journal.open(home / str(next(made))) as journal:
            if ingest:
                append = journal.append

                def append_and_ingest(drafts, *, durable):  # type: ignore[no-untyped-def]
                    append(drafts, durable=durable)
                    journal.ingest()

                journal.append = append_and_ingest  # type: ignore[method-assign]
            yield kind(journal)

    report = await validate(saver, capabilities=BASE)
    return {
        name: (result.tests_passed, result.tests_failed)
        for name, result in report.results.items()
        if name in BASE
    }


async def test_the_async_saver_passes_all_base_checks(home: Path) -> None:
    """58 of 58 through the async methods."""
    results = await passed(JournalSaver, home, ingest=False)
    assert sum(ok for ok, _ in results.values()) == 58
    assert not any(failed for _, failed in results.values())


async def test_the_sync_saver_passes_all_base_checks(home: Path) -> None:
    """58 of 58 through the sync methods."""
    results = await passed(OnlySync, home, ingest=False)
    assert sum(ok for ok, _ in results.values()) == 58
    assert not any(failed for _, failed in results.values())


async def test_checkpoints_read_the_same_from_duckdb(home: Path) -> None:
    """58 of 58 when every record is moved to DuckDB as soon as it is appended."""
    results = await passed(OnlySync, home, ingest=True)
    assert sum(ok for ok, _ in results.values()) == 58
    assert not any(failed for _, failed in results.values())
