"""Identifiers: what they are made of and how they look."""

from __future__ import annotations

import base64
import hashlib
import secrets

_STEP_BYTES = 12  # 24 characters; 96 bits, far from a collision among the steps of one thread


def digest_id(*parts: str) -> str:
    """Return 24 lower-case characters that stand for `parts`, the same in every process."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=_STEP_BYTES).hexdigest()


def node_step_id(thread: str, task_id: str, node: str) -> str:
    """Return the id of a node's execution.

    LangGraph's task id alone is not enough: an error handler runs under the task id of the node
    that failed.
    """
    return digest_id("node", thread, task_id, node)


def route_id(thread: str, task_id: str, place: str) -> str:
    """Return the id under which a conditional edge's choice is recorded.

    Args:
        thread: The thread's name.
        task_id: LangGraph's id of the task that the edge leaves.
        place: What tells this edge from others that leave it.
    """
    return digest_id("route", thread, task_id, place)


def call_step_id(parent: str, name: str, digest: str, ordinal: int) -> str:
    """Return the id of a durable call inside the step `parent`.

    Args:
        parent: The enclosing step's id.
        name: The called function's qualified name.
        digest: A digest of its arguments, or the caller's `key=`.
        ordinal: 0 for the first call with this name and digest inside the parent, then 1, …
    """
    return digest_id("call", parent, name, digest, str(ordinal))


def idempotency_key(step: str) -> str:
    """Return the key under which every attempt of `step` reaches the outside world."""
    return f"na-{step}"


def new_journal_id() -> str:
    """Return a random 26-character name for a new journal."""
    return base64.b32encode(secrets.token_bytes(16)).decode().lower().rstrip("=")


# Sixteen each: one byte of a seed picks one.
_ADJECTIVES = """amber brisk calm clear deep early fair fresh
    green keen light lucid mild north plain quiet""".split()  # noqa: SIM905 - reads better than sixteen quoted words
_NOUNS = """brook cedar cliff cloud coast delta field fjord
    grove heath lake marsh meadow ridge river shore""".split()  # noqa: SIM905


def thread_name(agent: str, seed: bytes) -> str:
    """Return a readable thread name such as `audit-calm-river-3f9a`: one seed, one name."""
    adjective = _ADJECTIVES[seed[0] % len(_ADJECTIVES)]
    return f"{agent}-{adjective}-{_NOUNS[seed[1] % len(_NOUNS)]}-{seed[2:6].hex()}"


def new_thread_name(agent: str) -> str:
    """Return a readable thread name that was never given before."""
    return thread_name(agent, secrets.token_bytes(6))
