"""Where a reader of a log that is followed is: of `dkrctl logs` and of the Python client.

Each line has a time of its own (docs/protocol.md, section 6). An older guardian gave one to several, so how many of them were had is
counted.
"""

import datetime
from collections.abc import Iterator, Mapping

from common.clock import now
from dkrctl.log_lines import Line
from dkrctl.places import Place

ID_HEADER = "dkr-container"  # the container's id: another one may have its name by then


class Position(Place[Line]):
    """The place in what `query` asks for."""

    def __init__(self, query: Mapping[str, str]) -> None:
        super().__init__(lambda line: line.time)
        self._query = dict(query)
        self._asked = now()

    @property
    def follows(self) -> bool:
        return self._query.get("follow") == "true"

    def queries(self) -> Iterator[dict[str, str]]:
        """What is to be asked now, one after the other, each once the answer before has been taken whole."""
        if not self.begun:
            yield self._query
            return
        further = {key: value for key, value in self._query.items() if key != "tail"}
        if "tail" in self._query and not self._time:
            # The last lines of then, before all that have come since.
            before = {key: value for key, value in self._query.items() if key != "follow"}
            yield {**before, "until": _earlier(self._query.get("until"), self._asked)}
            further["since"] = _later(self._query.get("since"), self._asked)
        if self._time:
            self.go_on()
            further["since"] = self._time
        yield further


def _earlier(one: str | None, other: str) -> str:
    return other if one is None or _when(other) < _when(one) else one


def _later(one: str | None, other: str) -> str:
    return other if one is None or _when(one) < _when(other) else one


def _when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
