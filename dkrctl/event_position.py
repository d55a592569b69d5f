"""Where a reader of events is: of `dkrctl events` and of the Python client. No two events have the same time."""

import datetime
from collections.abc import Iterable

from common.clock import now
from common.errors import LimitReached
from dkrctl.places import Place

Event = dict[str, object]


class Position(Place[Event]):
    """The place in what `query` asks for."""

    def __init__(self, query: Iterable[tuple[str, str]]) -> None:
        super().__init__(lambda event: str(event["time"]))
        self._query = list(query)
        self._asked = now()
        until = dict(self._query).get("until")
        self._follows = until is None or _when(until) > _when(self._asked)

    @property
    def follows(self) -> bool:
        return self._follows

    def query(self) -> list[tuple[str, str]]:
        """What is to be asked now."""
        if not self.begun:
            return self._query
        # Of whoever wanted what comes, and was told nothing yet, that began when they asked.
        since = self._time or dict(self._query).get("since", self._asked)
        self.go_on()
        return [*((key, value) for key, value in self._query if key != "since"), ("since", since)]

    def missed(self, time: str) -> None:
        raise LimitReached(
            f"cannot tell all events: those between {self._time} and {time} are lost",
            hint="so many came while the daemon was not there to be asked that they are not kept any more",
        )


def _when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
