"""The two plots of `docs/benchmarks.md`, the same bytes for the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .measure import cuts
from .systems import ASYNC, EXCLUSIVE, OURS, SYNC

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COLOURS = {SYNC: "#c44e52", ASYNC: "#dd8452", OURS: "#4c72b0", EXCLUSIVE: "#64b5cd"}
OTHER = "#222222"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "path.snap": False}


def overhead(rows: Sequence[Mapping[str, Any]], base: str, path: Path) -> None:
    """Draw what each system adds to a base in each row, with quartiles, a panel for each row."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 1.3 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        for panel, row in zip(panels, rows, strict=True):
            floor = row["systems"][base]["values"]
            names = [name for name in row["systems"] if name != base]
            for place, name in enumerate(names):
                wall = row["systems"][name]["values"]
                more = [own - other for own, other in zip(wall, floor, strict=True)]
                low, middle, high = cuts(more)
                spread = [[middle - low], [high - middle]]
                colour = COLOURS.get(name, OTHER)
                panel.barh(place, middle, xerr=spread, color=colour, ecolor="#444444", capsize=2)
            panel.set_yticks(range(len(names)), names)
            panel.invert_yaxis()
            panel.set_title(row["work"], fontsize=9, loc="left")
            panel.set_xlabel(f"{row['unit']} over {base}; lower is better")
        _save(figure, path)


def files(series: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Draw the bytes of all files over the steps of a run, one line for each system."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        panel = figure.subplots()
        for name, points in series.items():
            steps = [step for step, _ in points]
            megabytes = [size / 1e6 for _, size in points]
            style = "-" if name in COLOURS else "--"
            colour = COLOURS.get(name, OTHER)
            panel.plot(steps, megabytes, style, color=colour, label=name, linewidth=1.5)
        panel.set_yscale("log")
        panel.set_xlabel("steps of a conversation that grows by 2 KB a step")
        panel.set_ylabel("MB of all files, while it runs")
        panel.legend(frameon=False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
