"""LangGraph's former DuckDB saver, with the LangGraph that it was made for.

Ours needs a newer LangGraph, so what is beside it here is LangGraph's sqlite saver of that time.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from langgraph.checkpoint.duckdb import DuckDBSaver

from ..lookups import rows as lookups
from ..overhead import rows as overhead
from ..size import JUDGED, conversation
from ..systems import MEMORY, SYNC, SYSTEMS, saver_of
from ..texts import BYTES
from ..weights import files
from .inside import measured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..measure import Bench
    from ..systems import Opened

DUCKDB = "DuckDBSaver sync"
ROUNDS = 5


def _measure(bench: Bench, home: Path) -> None:
    ours = {name: SYSTEMS[name] for name in (MEMORY, SYNC)}
    overhead(bench, home / "overhead", {**ours, DUCKDB: _open}, rounds=ROUNDS)
    lookups(bench, home, {SYNC: SYSTEMS[SYNC], DUCKDB: _open})
    steps = bench.size(500, 5)
    folder = home / "size"
    folder.mkdir()
    with _open(folder) as system:
        system.run(conversation(steps, JUDGED, 1), {"n": 0, "messages": []})
    size = sum(files(folder).values())
    bench.say(
        f"its files after {steps} steps of the conversation of `size`, closed: {size:,} bytes, "
        f"÷ content {size / (steps * 2 * BYTES):.2f}"
    )


@contextmanager
def _open(folder: Path) -> Iterator[Opened]:
    with DuckDBSaver.from_conn_string(str(folder / "saver.duckdb")) as saver:
        saver.setup()
        yield saver_of(saver, "sync")


if __name__ == "__main__":
    measured(_measure, "langgraph-checkpoint-duckdb")
