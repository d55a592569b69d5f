"""Where a reader of an answer that goes on is, so that it goes on there over a restart of the daemon: of `dkrctl logs` and `events`, and
of the Python client.

What comes has times of its own, by which one goes on (`since`), and gets the last one once more.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.05  # seconds before it is asked again; each further pause is twice as long, up to LAST_PAUSE
LAST_PAUSE = 0.5
STOOD = 1.0  # seconds for which an answer must have stood to count, though nothing came


class Place(ABC, Generic[T]):
    """The place in an answer. `begun`: there was one, so that there is something to go on with."""

    def __init__(self, time_of: Callable[[T], str]) -> None:
        self._time_of = time_of
        self._time = ""  # of the last one
        self._had = 0  # so many of that time
        self._skip = 0  # so many of them are still to come again
        self._pause = FIRST_PAUSE
        # When the last answer began, and when it was lost: seconds of a clock of the reader's.
        self._answered = 0.0
        self._lost: float | None = None
        self.begun = False

    @property
    @abstractmethod
    def follows(self) -> bool:
        """Whether it is asked for what comes, which is what can be gone on with."""

    def go_on(self) -> None:
        """It is asked with the last time as `since`."""
        self._skip = self._had

    def take(self, found: list[T]) -> list[T]:
        """Those of them that were not had before."""
        begin = 0
        while self._skip and begin < len(found) and self._time_of(found[begin]) == self._time:
            self._skip -= 1
            begin += 1
        new = found[begin:]
        if new:
            if self._skip:
                self.missed(self._time_of(new[0]))
            self._skip, self._lost = 0, None
            last, same = self._time_of(new[-1]), 0
            while same < len(new) and self._time_of(new[-1 - same]) == last:
                same += 1
            self._had = same + (self._had if same == len(new) and last == self._time else 0)
            self._time = last
        return new

    def missed(self, time: str) -> None:
        """What was had last did not come again: what comes is of this time. It may be all right."""

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
