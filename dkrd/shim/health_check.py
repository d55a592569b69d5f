"""A container's health check as its bundle has it: a closed schema (docs/protocol.md, 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import health
from dkrd.runtime.document import refuse

if TYPE_CHECKING:
    from dkrd.runtime.document import Reader


@dataclass(frozen=True, slots=True)
class Check:
    """How it is found out whether a container is well. Of the three probes one is there.

    args            a command to be executed in it, or empty
    http            address, port and target of a URL, or None
    tcp             a port, or 0
    interval        seconds from the end of a probe to the next one
    timeout         seconds that a probe may take
    retries         how many have to fail, one after the other
    start_period    seconds from the start in which a failure does not count
    start_interval  the interval in that time, until one was well
    on_failure      none, stop, kill or restart
    """

    args: tuple[str, ...]
    http: tuple[str, int, str] | None
    tcp: int
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float
    on_failure: str


def parse(reader: Reader) -> Check:
    """The check that `reader` holds. Raises BadRequest with the path of what does not fit."""
    given = [key for key in health.PROBES if reader.has(key)]
    if len(given) != 1:
        refuse(reader.path, "one of args, http and tcp is wanted")
    check = Check(
        args=reader.texts("args", default=True),
        http=_url(reader),
        tcp=reader.integer("tcp", 1, 65535) if reader.has("tcp") else 0,
        interval=_every(reader, "interval"),
        timeout=_every(reader, "timeout"),
        retries=reader.integer("retries", 1, health.MAX_RETRIES),
        start_period=reader.seconds("startPeriod"),
        start_interval=_every(reader, "startInterval"),
        on_failure=reader.one_of("onFailure", health.ON_FAILURE),
    )
    reader.done()
    if given == ["args"] and not (check.args and check.args[0]):
        refuse(reader.where("args"), "is empty: a command is wanted")
    return check


def _url(reader: Reader) -> tuple[str, int, str] | None:
    if not reader.has("http"):
        return None
    try:
        return health.read_url(reader.text("http"))
    except ValueError as err:
        refuse(reader.where("http"), str(err))


def _every(reader: Reader, key: str) -> float:
    seconds = reader.seconds(key)
    if seconds < health.MIN_SECONDS:
        refuse(reader.where(key), f"is less than {health.MIN_SECONDS:g} seconds")
    return seconds
