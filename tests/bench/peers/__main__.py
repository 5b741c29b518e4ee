"""`python -m tests.bench.peers NAME …`: measure systems that no other environment can hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..facts import facts
from ..measure import ROOT
from ..page import PEERS, REPOSITORY


class Peer(NamedTuple):
    """A system and what its environment holds."""

    title: str
    module: str
    requirements: tuple[str, ...]


_OURS = (str(REPOSITORY), "langgraph-checkpoint-sqlite>=3.1")
EVERY = {
    "postgres": Peer(
        "PostgresSaver on a local PostgreSQL",
        "postgres_saver",
        (*_OURS, "langgraph-checkpoint-postgres>=3.2", "psycopg[binary]>=3.2"),
    ),
    "dbos": Peer("DBOS on SQLite", "dbos_steps", (*_OURS, "dbos>=3.4")),
    "duckdb": Peer(
        "langgraph-checkpoint-duckdb",
        "duckdb_saver",
        (
            "langgraph-checkpoint-duckdb>=2.0.2",
            "langgraph-checkpoint-sqlite<3",
            "langgraph",
            "click",
        ),
    ),
}


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(EVERY)))
@click.option("--quick", is_flag=True, help="The smallest sizes, and nothing is kept.")
def main(names: tuple[str, ...], quick: bool) -> None:
    """Measure the named systems, each in an environment of its own."""
    for name in names:
        begun = time.monotonic()
        about = facts()
        found = _measured(EVERY[name], quick=quick)
        found["facts"] = {**about, "versions": found.pop("versions")}
        found["command"] = f"python -m tests.bench.peers {name}"
        found["title"] = EVERY[name].title
        found["seconds"] = round(time.monotonic() - begun, 1)
        found["load_after"] = round(os.getloadavg()[0], 1)
        if not quick:
            kept = json.loads(PEERS.read_text()) if PEERS.exists() else {}
            PEERS.parent.mkdir(exist_ok=True)
            PEERS.write_text(json.dumps({**kept, name: found}, indent=1) + "\n")
            click.echo(f"kept in {PEERS.name}; the next `make bench` has it on its page")


def _measured(peer: Peer, *, quick: bool) -> dict[str, Any]:
    """Make an environment, measure in it, and return what its process wrote."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        python = Path(folder, "venv", "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements], check=True)
        out = Path(folder, "out.json")
        module = f"{__package__}.{peer.module}"
        command = [str(python), "-m", module, str(out), *(["quick"] if quick else [])]
        subprocess.run(command, cwd=ROOT, check=True, env=_environment())
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _environment() -> dict[str, str]:
    """Return this process's variables but those that would bring its packages along."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


if __name__ == "__main__":
    main()
