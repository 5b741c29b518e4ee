"""Pickles of what LangGraph's own serialiser is not for: results, definitions, objects, variables.

cloudpickle does the work: what was defined in a notebook's cells goes by value, so that it comes
back where those cells never ran. What it cannot do is tried with dill. What would only look
restored is refused, by name and with the path to it: an open file, a lock, a connection.

A pickle is code. Nothing here checks where one comes from: `loads` is for bytes whose seal was
opened.
"""

from __future__ import annotations

from notebook_agents.pickling.codec import dumps, loads
from notebook_agents.pickling.environment import known_secrets
from notebook_agents.pickling.rules import register

__all__ = ["dumps", "known_secrets", "loads", "register"]
