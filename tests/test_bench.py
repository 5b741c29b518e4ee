"""The benchmarks run; what they measure is judged by `make bench` alone, never by a test."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from bench import page
from bench.__main__ import NAMES, main
from bench.measure import Bench, Cost
from click.testing import CliRunner

if TYPE_CHECKING:
    from pathlib import Path

COMPARING = {"size", "resume", "overhead", "lookups"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of everything at the smallest sizes."""
    out = tmp_path_factory.mktemp("bench")
    done = CliRunner().invoke(main, ["--quick", "--seed", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_every_benchmark_reports_rows_bars_or_lines(run: Path) -> None:
    """A run's JSON has what each benchmark reported, and rows of the ones that compare systems."""
    found = json.loads((run / "bench.json").read_text())

    assert tuple(found["benchmarks"]) == NAMES
    for name, benchmark in found["benchmarks"].items():
        assert benchmark["rows"] or benchmark["bars"] or benchmark["lines"], name
    comparing = {name for name, benchmark in found["benchmarks"].items() if benchmark["rows"]}
    assert comparing >= COMPARING


def test_a_row_has_a_value_for_each_round_of_each_system(run: Path) -> None:
    """A row of the JSON names work and unit, and each of its systems has as many values."""
    found = json.loads((run / "bench.json").read_text())
    rows = [row for benchmark in found["benchmarks"].values() for row in benchmark["rows"]]

    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["work"], row["name"]
        assert row["unit"], row["name"]
        assert len({len(system["values"]) for system in row["systems"].values()}) == 1
        assert all(value > 0 for system in row["systems"].values() for value in system["values"])


def test_the_pages_are_made_again_from_the_json(run: Path, tmp_path: Path) -> None:
    """Without measuring anything, a JSON gives the very pages and plots that its run wrote."""
    written = page.write(json.loads((run / "bench.json").read_text()), tmp_path)

    names = {path.name for path in written}
    assert names == {"benchmarks.md", "overhead.svg", "files.svg", "profile.md"}
    for path in written:
        assert path.read_bytes() == (run / path.name).read_bytes(), path.name


def test_the_page_has_every_row_with_every_system(run: Path) -> None:
    """Whatever a benchmark compared stands in the page's tables, and so does each peer's title."""
    text = (run / "benchmarks.md").read_text()
    found = json.loads((run / "bench.json").read_text())

    for benchmark in found["benchmarks"].values():
        for row in benchmark["rows"]:
            assert row["work"][1:] in text
            assert all(f"| {system} |" in text for system in row["systems"])
    peers = json.loads(page.PEERS.read_text()) if page.PEERS.exists() else {}
    assert all(peer["title"] in text for peer in peers.values())


def test_the_pages_in_docs_are_whole() -> None:
    """The pages that were committed have all their parts, and both plots lie beside them."""
    text = (page.DOCS / "benchmarks.md").read_text()

    assert all(f"## {part}" in text for part in ("Systems beside each other", "Bars", "By hand"))
    assert all((page.DOCS / f"{plot}.svg").exists() for plot in ("overhead", "files"))
    assert "The limit." in (page.DOCS / "profile.md").read_text()


@pytest.mark.parametrize("load", [0.1, 3.7])
def test_figures_of_a_busy_machine_are_called_placeholders(run: Path, load: float) -> None:
    """Whoever reads figures that were taken beside other work is told so."""
    found = json.loads((run / "bench.json").read_text())
    found["facts"]["load"] = load

    assert ("placeholders" in "\n".join(page.machine(found))) == (load > 1)


def test_systems_take_turns_in_every_round() -> None:
    """No system of a row is run twice before every other one was run, and one round is not kept."""
    order: list[str] = []

    def arm(name: str) -> Any:
        return lambda: (order.append(name), Cost(1.0, 0.5))[1]

    bench = Bench(rng=Random(1), say=lambda line: None)
    found = bench.compare("a", "work", {name: arm(name) for name in "abc"}, rounds=4, per=2)

    assert all(set(order[at : at + 3]) == set("abc") for at in range(0, 15, 3))
    assert {name: len(costs) for name, costs in found.items()} == dict.fromkeys("abc", 4)
    assert bench.rows[0]["systems"]["a"] == {"values": [500.0] * 4, "cpu": [250.0] * 4}
