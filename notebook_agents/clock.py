"""Time, in one place, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def now_us() -> int:
    """Return the wall clock in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def from_us(microseconds: int) -> datetime:
    """Return `microseconds` since 1970-01-01 UTC as an aware datetime."""
    return EPOCH + microseconds * MICROSECOND


def ticking_us() -> int:
    """Return microseconds of a clock that nobody sets, the same for all processes of this host."""
    return time.monotonic_ns() // 1000
