"""Every payload is sealed with a data key, and every data key is wrapped with a master key.

A data key belongs to one scope of a journal (a thread and its forks) and lies in the journal,
wrapped. The master key lies in the user's key ring, outside the journal. Rotation rewrites the
wrapped keys only, and throwing a wrapped key away shreds its scope.
"""

from __future__ import annotations

from notebook_agents.sealing.envelope import DataKey
from notebook_agents.sealing.keys import KeyRing, MasterKey, load_ring, wrapped_by

__all__ = ["DataKey", "KeyRing", "MasterKey", "load_ring", "wrapped_by"]
