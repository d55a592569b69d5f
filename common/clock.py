"""Points in time as everything here writes them down: RFC 3339 with nanoseconds, UTC. Texts of one length, which compare as the times."""

import time

_PLACES = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19), (20, 29))  # of the numbers in a text


def now() -> str:
    """The time."""
    return timestamp(time.time_ns())


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch."""
    year, month, day, hour, minute, second = time.gmtime(ns // 1_000_000_000)[:6]
    return f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns % 1_000_000_000:09}Z"


def nanoseconds(text: str) -> int:
    """The nanoseconds since the epoch of what `timestamp` made; 0 of any other text."""
    digits = "".join(text[begin:end] for begin, end in _PLACES)
    if len(text) != 30 or not digits.isascii() or not digits.isdigit():
        return 0
    year, month, day, hour, minute, second, rest = (int(text[begin:end]) for begin, end in _PLACES)
    # Years from March on, so that the day of a leap year is the last one: calendar would load datetime and locale.
    years, months = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = years * 365 + years // 4 - years // 100 + years // 400 + (153 * months + 2) // 5 + day - 719_469
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + rest
