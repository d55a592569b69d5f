"""The log of a container as typed lines."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from common.errors import NotFound
from dkrctl.daemon import target
from dkrctl.log_lines import Line, splitter
from dkrctl.log_position import ID_HEADER, Position
from dkrctl.log_reading import gone
from dkrctl.sdk.following import Following

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from datetime import datetime

    from dkrctl.sdk.transport import Transport


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a container's output, or 16 KiB of one that is longer.

    stream  where it was written to; of a terminal all is `stdout`
    time    when, RFC 3339 with nanoseconds
    data    the bytes, with the newline where there was one
    """

    stream: Literal["stdout", "stderr"]
    time: str
    data: bytes


def query_of(
    follow: bool,
    tail: int | None,
    since: datetime | str | None,
    until: datetime | str | None,
    *,
    stdout: bool,
    stderr: bool,
) -> dict[str, str]:
    """The query of docs/protocol.md, section 1. Raises ValueError for a time that does not know its zone."""
    query = {name: "false" for name, wanted in (("stdout", stdout), ("stderr", stderr)) if not wanted}
    if follow:
        query["follow"] = "true"
    if tail is not None:
        query["tail"] = str(int(tail))
    for name, time in (("since", since), ("until", until)):
        if time is not None:
            query[name] = told(name, time)
    return query


def told(name: str, time: datetime | str) -> str:
    """A time as the query has it. Raises ValueError for one that does not know its zone."""
    if isinstance(time, str):
        return time
    if time.tzinfo is None:
        raise ValueError(f"{name} is a time without a zone: as in datetime.now(UTC)")
    return time.isoformat()


class _Reading(Following[Line]):
    """One log that is read."""

    def __init__(self, transport: Transport, container: str, query: Mapping[str, str]) -> None:
        self._position = Position(query)
        super().__init__(transport, self._position)
        self._name = container
        self._container = container

    async def lines(self) -> AsyncGenerator[LogLine]:
        try:
            async with contextlib.aclosing(self.items()) as lines:
                async for line in lines:
                    yield LogLine(cast("Literal['stdout', 'stderr']", line.stream), line.time, line.data)
        except NotFound as error:
            if not self._position.begun:
                raise
            raise gone(self._name) from error

    async def answered(self) -> AsyncGenerator[list[Line]]:
        for query in self._position.queries():
            lines, where = splitter(), target(self._container, "/logs")
            async with contextlib.aclosing(self._transport.stream(where, query, self.begun)) as pieces:
                async for piece in pieces:
                    yield lines.feed(piece)
            lines.end()

    def begun(self, headers: Mapping[str, str]) -> None:
        super().begun(headers)
        self._container = headers.get(ID_HEADER, self._container)


def log_lines(transport: Transport, container: str, query: Mapping[str, str]) -> AsyncGenerator[LogLine]:
    """The lines as they come, each once; what is followed goes on over a restart of the daemon. Raises DkrError."""
    return _Reading(transport, container, query).lines()
