"""The options `--health-…` as the request's `health`. Loaded by a run that has one of them (see lean.py): imports our lean modules only."""

from common.errors import BadRequest
from dkrctl.parse import Parsed, count, seconds, utf8

_PROBES = ("health-cmd", "health-http", "health-tcp")
_TIMES = (
    ("health-interval", "interval"),
    ("health-timeout", "timeout"),
    ("health-start-period", "startPeriod"),
    ("health-start-interval", "startInterval"),
)
_MAX_RETRIES = 1000


def check_of(parsed: Parsed) -> dict[str, object]:
    """What the request says of the health. Raises BadRequest."""
    given = [long for long in _PROBES if parsed.last(long) is not None]
    if not given:
        raise BadRequest(
            f"cannot take --{parsed.named('health-')}: nothing says how the container's health is found out",
            hint="one of --health-cmd, --health-http and --health-tcp is wanted",
        )
    if len(given) > 1:
        raise BadRequest(
            f"cannot take --{given[0]} and --{given[1]}: a container's health is found out in one way",
            hint="leave out one of the two; a command can do both",
        )
    health: dict[str, object] = _probe(given[0], utf8(parsed.last(given[0]) or "", f"--{given[0]}"))
    for long, key in _TIMES:
        text = parsed.last(long)
        if text is not None:
            health[key] = seconds(text, long)
    retries = parsed.last("health-retries")
    if retries is not None:
        number = count(retries, "health-retries", _MAX_RETRIES)
        if not number:
            raise BadRequest(
                "cannot take --health-retries 0: the first probe that fails is the first that counts"
            )
        health["retries"] = number
    wish = parsed.last("health-on-failure")
    if wish is not None:
        health["onFailure"] = wish
    return health


def _probe(long: str, value: str) -> dict[str, object]:
    if not value:
        raise BadRequest(f"cannot take --{long}: it is empty", hint="leave it out for none")
    if long == "health-cmd":
        return {"args": ["/bin/sh", "-c", value]}
    if long == "health-http":
        return {"http": value}
    port = count(value, long, 65535)
    if not port:
        raise BadRequest("cannot take --health-tcp 0: that is no port")
    return {"tcp": port}
