"""A health check: what it may say, what is meant where it says nothing, and which URLs it may name.

Pure, and of the standard library alone: the api, root's side and the client have it in common.
"""

from __future__ import annotations

Json = dict[str, object]

STATUSES = ("starting", "healthy", "unhealthy")
ON_FAILURE = ("none", "stop", "kill", "restart")
PROBES = ("args", "http", "tcp")  # of which a check has one
MIN_SECONDS = 0.1  # of an interval, and of a timeout: each probe is a process
MAX_RETRIES = 1000
MAX_OUTPUT = 4096  # bytes of a probe's output that are kept, as Docker's
MAX_RESULTS = 5  # that are kept
MAX_URL = 2048  # characters
# Docker's
DEFAULTS: Json = {
    "interval": 30,
    "timeout": 30,
    "retries": 3,
    "startPeriod": 0,
    "startInterval": 5,
    "onFailure": "none",
}
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
# What `read_url` takes, as ECMA-262, Python and Rust read it alike.
URL_PATTERN = rf'http://(?:localhost|127(?:\.{_BYTE}){{3}}|\[::1\])(?::{_PORT})?(?:[/?][!"$-~]*)?'


def restarts_by(health: object) -> bool:
    """Whether a container with this check, of a request or a bundle, is started again when it was unhealthy."""
    return isinstance(health, dict) and health.get("onFailure") == "restart"


def whole(health: Json) -> Json:
    """A request's `health` with what it leaves open filled in."""
    return {**DEFAULTS, **health}


def read_url(url: str) -> tuple[str, int, str]:
    """Address, port and target of `http://ADDRESS[:PORT][/PATH][?QUERY]`. Raises ValueError with what is wrong.

    The address is one of the container's loopback: nothing is looked up, so no file and no server of the container's can lead the probe
    elsewhere.
    """
    if len(url) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters")
    if not url.startswith("http://"):
        raise ValueError("is no URL that begins with http://")
    if not url.isascii() or any(not "!" <= letter <= "~" for letter in url):
        raise ValueError("holds a character that no URL can: write it as %20 and the like")
    if "#" in url:
        raise ValueError("has a fragment, which no server is told")
    rest = url.removeprefix("http://")
    end = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    host, port = authority, "80"
    if ":" in authority.rpartition("]")[2]:
        host, _, port = authority.rpartition(":")
    if not (port.isdigit() and len(port) <= 5 and port[0] != "0" and int(port) <= 65535):
        raise ValueError(f"has the port {port[:20]!r}: 1 to 65535 is wanted")
    return _address(host), int(port), target if target.startswith("/") else f"/{target}"


def _address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    if host == "[::1]":
        return "::1"
    parts = host.split(".")
    if (
        len(parts) == 4
        and parts[0] == "127"
        and all(
            part.isdigit() and len(part) <= 3 and str(int(part)) == part and int(part) < 256 for part in parts
        )
    ):
        return host
    raise ValueError(
        f"names {host[:80]!r}: an address of the container's loopback is wanted, as 127.0.0.1, [::1] or localhost"
    )
