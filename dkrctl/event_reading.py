"""What happens to containers, as `dkrctl events` reads it: over a restart of the daemon, of which no event is lost."""

from collections.abc import Iterator
from urllib.parse import urlencode

from dkrctl.daemon import Daemon
from dkrctl.event_lines import splitter
from dkrctl.event_position import Event, Position
from dkrctl.following import Following


class Reading(Following[Event]):
    """Events that are read. `reader` as of Following."""

    def __init__(self, daemon: Daemon, query: list[tuple[str, str]], reader: int) -> None:
        self._position = Position(query)
        super().__init__(daemon, self._position, "events go on", reader)

    def answered(self) -> Iterator[list[Event]]:
        query = self._position.query()
        where = "/v1/events" + (f"?{urlencode(query)}" if query else "")
        yield from splitter().batches(
            self._daemon.stream("GET", where, reader=self._reader, on_head=self.begun)
        )
