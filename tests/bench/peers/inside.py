"""What a process in a peer's environment does: measure, and write it down."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ..facts import versions
from ..measure import Bench, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable


def measured(measure: Callable[[Bench, Path], None], *packages: str) -> None:
    """Measure, and write rows, notes and versions into the file that the command line names.

    Args:
        measure: Does it, in a folder for its files.
        packages: Whose versions count besides the usual ones.
    """
    bench = Bench(rng=Random(1), small=sys.argv[2:] == ["quick"])
    with sandbox() as home:
        measure(bench, home)
    kept = {"versions": versions(*packages), "rows": bench.rows, "notes": bench.lines}
    Path(sys.argv[1]).write_text(json.dumps(kept))
