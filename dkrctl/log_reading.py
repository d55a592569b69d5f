"""The log of a container as `dkrctl logs` reads it: one that is followed goes on over a restart of the daemon."""

import os
import select
import time
from collections.abc import Iterator
from urllib.parse import urlencode

from common.errors import NotFound, Unavailable
from dkrctl.daemon import Daemon, target
from dkrctl.http import Answer
from dkrctl.log_lines import Line, splitter
from dkrctl.log_position import ID_HEADER, Position
from dkrctl.report import note
from dkrctl.signals import SIGPIPE, Terminated


class Reading:
    """One log that is read.

    reader  where it is written to; who has gone there ends the client (Terminated)
    """

    def __init__(self, daemon: Daemon, container: str, query: dict[str, str], reader: int) -> None:
        self._daemon = daemon
        self._name = container
        self._container = container
        self._position = Position(query)
        self._reader = reader

    def batches(self) -> Iterator[list[Line]]:
        """The lines, each once, those that came together in one list. Raises DkrError.

        While the daemon is away one that is followed is waited for, for ever or as long as DKR_TIMEOUT says.
        """
        while True:
            try:
                for query in self._position.queries():
                    yield from self._answered(query)
                return
            except Unavailable as error:
                if not (self._position.begun and self._position.follows):
                    raise
                self._wait(error)
            except NotFound as error:
                if not self._position.begun:
                    raise
                raise gone(self._name) from error

    def _answered(self, query: dict[str, str]) -> Iterator[list[Line]]:
        where = target(self._container, "/logs" + (f"?{urlencode(query)}" if query else ""))
        pieces = self._daemon.stream("GET", where, reader=self._reader, on_head=self._begin)
        for batch in splitter().batches(pieces):
            if new := self._position.take(batch):
                yield new

    def _begin(self, answer: Answer) -> None:
        self._position.answered(time.monotonic())
        self._container = answer.headers.get(ID_HEADER, self._container)

    def _wait(self, error: Unavailable) -> None:
        """Let some time pass before it is asked again. Raises `error` where that has been too long."""
        away, pause = self._position.lost(time.monotonic())
        if not away and os.isatty(2):
            note(f"dkrd has gone; the log of {self._name} goes on when it is back (ctrl-C ends)")
        limit = self._daemon.patience
        if limit is not None and away >= limit:
            raise error
        poller = select.poll()
        if self._reader >= 0:
            poller.register(self._reader, 0)  # POLLERR of a pipe, POLLHUP of a socket or a terminal, poll(2)
        if poller.poll(pause * 1000):
            raise Terminated(SIGPIPE)


def gone(name: str) -> NotFound:
    """The error for a container that was removed while its log could not be read."""
    return NotFound(
        f"cannot go on with the log of {name}: the container was removed while the daemon was away",
        hint="the last that it wrote may not have been shown",
    )
