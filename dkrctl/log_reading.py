"""The log of a container as `dkrctl logs` reads it: one that is followed goes on over a restart of the daemon."""

from collections.abc import Iterator
from urllib.parse import urlencode

from common.errors import NotFound
from dkrctl.daemon import Daemon, target
from dkrctl.following import Following
from dkrctl.http import Answer
from dkrctl.log_lines import Line, splitter
from dkrctl.log_position import ID_HEADER, Position


class Reading(Following[Line]):
    """One log that is read. `reader` as of Following."""

    def __init__(self, daemon: Daemon, container: str, query: dict[str, str], reader: int) -> None:
        self._position = Position(query)
        super().__init__(daemon, self._position, f"the log of {container} goes on", reader)
        self._name = container
        self._container = container

    def batches(self) -> Iterator[list[Line]]:
        try:
            yield from super().batches()
        except NotFound as error:
            if not self._position.begun:
                raise
            raise gone(self._name) from error

    def answered(self) -> Iterator[list[Line]]:
        for query in self._position.queries():
            where = target(self._container, "/logs" + (f"?{urlencode(query)}" if query else ""))
            yield from splitter().batches(
                self._daemon.stream("GET", where, reader=self._reader, on_head=self.begun)
            )

    def begun(self, answer: Answer) -> None:
        super().begun(answer)
        self._container = answer.headers.get(ID_HEADER, self._container)


def gone(name: str) -> NotFound:
    """The error for a container that was removed while its log could not be read."""
    return NotFound(
        f"cannot go on with the log of {name}: the container was removed while the daemon was away",
        hint="the last that it wrote may not have been shown",
    )
