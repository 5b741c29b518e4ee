"""`notebook-agents`: the command line.

`app` has the commands, which parse, call and render; `exits` is the one place that turns errors,
statuses and signals into exit codes. Nothing of LangGraph, DuckDB or rich is imported before a
command needs it.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line with this process's arguments."""
    from notebook_agents.cli.app import app

    app()
