"""`python -m notebook_agents`: the command line."""

from __future__ import annotations

from notebook_agents.cli import main

if __name__ == "__main__":
    main()
