"""Times as people say them: "5 seconds", "About an hour", "3 weeks". The words are those of Docker's tables."""

from common.clock import nanoseconds

_STEPS = (  # below this many seconds: of this many seconds each, called so
    (60, 1, "second"),
    (60 * 60, 60, "minute"),
    (48 * 3600, 3600, "hour"),
    (14 * 86400, 86400, "day"),
    (60 * 86400, 7 * 86400, "week"),
    (730 * 86400, 30 * 86400, "month"),
    (float("inf"), 365 * 86400, "year"),
)


def duration(seconds: float) -> str:
    """A length of time in words; one below zero (clocks differ) counts as none."""
    if seconds < 1:
        return "Less than a second"
    for limit, unit, word in _STEPS:  # noqa: B007  # the last one takes all
        if seconds < limit:
            break
    count = int(seconds // unit)
    if count == 1 and word in ("minute", "hour"):
        return "About a minute" if word == "minute" else "About an hour"
    return f"{count} {word}{'' if count == 1 else 's'}"


_minutes: dict[str, float] = {}  # of a long list many are of the same


def parse(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None where it is none."""
    if not isinstance(text, str):
        return None
    seconds = text[17:19] + text[20:29]
    if len(text) == 30 and seconds.isascii() and seconds.isdigit():  # as dkrd writes them
        minute = text[:17]
        since = _minutes.get(minute)
        if since is None:
            since = _minutes[minute] = nanoseconds(f"{minute}00.000000000Z") / 1e9
        if since:
            return since + int(seconds) / 1e9
    import datetime  # late: 1.4 ms

    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def ago(text: object, now: float) -> str:
    """How long ago the RFC 3339 time `text` was, or "unknown"."""
    then = parse(text)
    return "unknown" if then is None else f"{duration(now - then)} ago"
