"""Points in time as people give them to `--since` and `--until`, in Docker's ways, as RFC 3339."""

import datetime
import re

from common.errors import BadRequest
from dkrctl.parse import seconds

_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)
_LENGTH = re.compile(r"[\d.]+[a-z][a-z\d.]*", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_HINT = "as in 2026-01-31T12:00:00Z, 2026-01-31, 1769860800, or ago: 10m, 1h30m"


def moment(text: str, name: str, now: float) -> str:
    """What `text` means: RFC 3339; a date with or without a time, here; seconds since the epoch; or a length of time before `now`.

    name  of the option, in errors

    Raises BadRequest.
    """
    if _LENGTH.fullmatch(text):
        return rfc_3339(now - seconds(text, name), name)
    if _SECONDS.fullmatch(text):
        return _of_seconds(text, name)
    try:
        given = datetime.datetime.fromisoformat(text)
    except ValueError as err:
        raise BadRequest(f"cannot take --{name} {ascii(text)[1:-1]}: it is no time", hint=_HINT) from err
    if _RFC_3339.fullmatch(text):
        return text  # whole, with its nanoseconds
    try:
        seconds_since = given.timestamp()  # without an offset: the time of this place
    except (ValueError, OverflowError, OSError) as err:
        raise _beyond(name) from err
    return rfc_3339(seconds_since, name)


def rfc_3339(since_epoch: float, name: str) -> str:
    """Seconds since the epoch as RFC 3339, to the microsecond. Raises BadRequest beyond the year 9999."""
    try:
        when = datetime.datetime.fromtimestamp(since_epoch, datetime.UTC)
    except (ValueError, OverflowError, OSError) as err:
        raise _beyond(name) from err
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _beyond(name: str) -> BadRequest:
    return BadRequest(f"cannot take --{name}: it lies beyond all calendars", hint=_HINT)


def _of_seconds(text: str, name: str) -> str:
    """Exactly: a float has no room for nanoseconds beside so many seconds."""
    whole, _, part = text.partition(".")
    return rfc_3339(float(whole), name).removesuffix(".000000Z") + f".{part:0<9}Z"
