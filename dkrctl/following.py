"""An answer that goes on, as `dkrctl logs -f` and `dkrctl events` read it: over a restart of the daemon."""

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic

from common.errors import Unavailable
from dkrctl.daemon import Daemon
from dkrctl.http import Answer
from dkrctl.places import Place, T
from dkrctl.report import note
from dkrctl.signals import SIGPIPE, Terminated


class Following(ABC, Generic[T]):
    """One answer that is read.

    what    goes on, as it is told at a terminal while the daemon is away: "the log of web goes on"
    reader  where it is written to; who has gone there ends the client (Terminated)
    """

    def __init__(self, daemon: Daemon, place: Place[T], what: str, reader: int) -> None:
        self._daemon = daemon
        self._place = place
        self._what = what
        self._reader = reader

    @abstractmethod
    def answered(self) -> Iterator[list[T]]:
        """What is answered to what is to be asked now; `begun` is to be called with the head. Raises DkrError."""

    def batches(self) -> Iterator[list[T]]:
        """All that comes, each once, those that came together in one list. Raises DkrError.

        While the daemon is away it is waited for, for ever or as long as DKR_TIMEOUT says.
        """
        while True:
            try:
                for batch in self.answered():
                    if new := self._place.take(batch):
                        yield new
                return
            except Unavailable as error:
                if not (self._place.begun and self._place.follows):
                    raise
                self._wait(error)

    def begun(self, answer: Answer) -> None:
        """An answer has this head."""
        self._place.answered(time.monotonic())

    def _wait(self, error: Unavailable) -> None:
        """Let some time pass before it is asked again. Raises `error` where that has been too long."""
        away, pause = self._place.lost(time.monotonic())
        if not away and os.isatty(2):
            note(f"dkrd has gone; {self._what} when it is back (ctrl-C ends)")
        limit = self._daemon.patience
        if limit is not None and away >= limit:
            raise error
        poller = select.poll()
        if self._reader >= 0:
            poller.register(self._reader, 0)  # POLLERR of a pipe, POLLHUP of a socket or a terminal, poll(2)
        if poller.poll(pause * 1000):
            raise Terminated(SIGPIPE)
