"""A process that resumes a killed thread and says when it came by what.

Nothing but the standard library is imported before the first mark.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

MARKS = (
    "Python starts",
    "import langgraph.graph",
    "import what an agent needs",
    "open the journal",
    "rebuild the graph, read the state, replay, to the first new step",
)
"""The phases, in order."""


def main(home: str, began: int, *, profile: bool) -> None:
    """Resume the one thread of a journal; print the ms of each phase as JSON.

    Args:
        home: The journal.
        began: When this process was asked for, in ns of the clock.
        profile: Whether to say by whom the last phase was spent, instead.
    """
    at = [began, time.time_ns()]
    import langgraph.graph  # noqa: F401 - this is what is measured

    at.append(time.time_ns())
    import cloudpickle  # noqa: F401
    import dill  # noqa: F401
    import duckdb  # noqa: F401

    import notebook_agents as na
    import notebook_agents.graph.resume  # `na` imports lazily

    at.append(time.time_ns())
    with na.Journal.open(home, create=False) as journal:
        at.append(time.time_ns())
        thread = journal.threads()[0].thread
        if profile:
            from .profiles import by_owner, profiled

            owners = by_owner(profiled(lambda: na.resume(thread, journal=journal)))
            print(json.dumps({owner: seconds * 1e3 for owner, seconds in owners.items()}))
            return
        na.resume(thread, journal=journal)
    at.append(int(Path(os.environ["BENCH_STAMP"]).read_text()))
    took = [(after - before) / 1e6 for before, after in itertools.pairwise(at)]
    print(json.dumps(dict(zip(MARKS, took, strict=True))))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), profile=sys.argv[3:] == ["profile"])
