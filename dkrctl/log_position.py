"""Where a reader of a log that is followed is, so that it goes on there over a restart of the daemon: of `dkrctl logs` and of the
Python client.

Each line has a time of its own (docs/protocol.md, section 6). An older guardian gave one to several, so how many of them were had is
counted.
"""

import datetime
from collections.abc import Iterator, Mapping

from common.clock import now
from dkrctl.log_lines import Line

FIRST_PAUSE = 0.05  # seconds before it is asked again; each further pause is twice as long, up to LAST_PAUSE
LAST_PAUSE = 0.5
STOOD = 1.0  # seconds for which an answer must have stood to count, though nothing came
ID_HEADER = "dkr-container"  # the container's id: another one may have its name by then


class Position:
    """The place in what `query` asks for. `begun`: it was answered once, so that there is something to go on with."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = dict(query)
        self._asked = now()
        self._time = ""  # of the last line
        self._had = 0  # so many lines of that time
        self._skip = 0  # so many of them are still to come again
        self._pause = FIRST_PAUSE
        self._answered = (
            0.0  # when the last answer began, and when it was lost: seconds of a clock of the reader's
        )
        self._lost: float | None = None
        self.begun = False

    @property
    def follows(self) -> bool:
        """Whether it is asked for what comes, which is what can be gone on with."""
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
            self._skip = self._had
            further["since"] = self._time
        yield further

    def take(self, lines: list[Line]) -> list[Line]:
        """Those of `lines` that were not had before."""
        new = []
        for line in lines:
            if self._skip and line.time == self._time:
                self._skip -= 1
                continue
            self._skip = 0
            self._had = self._had + 1 if line.time == self._time else 1
            self._time = line.time
            new.append(line)
        if new:
            self._lost = None
        return new

    def answered(self, here: float) -> None:
        """An answer has begun, at the moment `here`."""
        self.begun = True
        self._answered = here

    def lost(self, here: float) -> tuple[float, float]:
        """No answer, or no more of it: seconds for which that is so, and seconds to wait before it is asked again."""
        stood = self._lost is not None and self._answered > self._lost and here - self._answered >= STOOD
        if self._lost is None or stood:
            self._lost, self._pause = here, FIRST_PAUSE
        else:
            self._pause = min(2 * self._pause, LAST_PAUSE)
        return here - self._lost, self._pause


def _earlier(one: str | None, other: str) -> str:
    return other if one is None or _when(other) < _when(one) else one


def _later(one: str | None, other: str) -> str:
    return other if one is None or _when(one) < _when(other) else one


def _when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
