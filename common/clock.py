"""Points in time as everything here writes them down: RFC 3339 with nanoseconds, UTC. Texts of one length, which compare as the times."""

from __future__ import annotations

import time


def now() -> str:
    """The time."""
    return timestamp(time.time_ns())


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch."""
    year, month, day, hour, minute, second = time.gmtime(ns // 1_000_000_000)[:6]
    return f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns % 1_000_000_000:09}Z"
