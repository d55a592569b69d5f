"""Who waits for the end of a container, and how it is told to them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.models import ExitStatus

REMEMBERED = 1024  # ends that are known for a while: who asked before an end may begin to wait after it


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """What one of the waiting is told.

    stopped  how the command has ended; None where it is gone and nobody learnt that
    removed  that nothing of the container is left
    """

    stopped: asyncio.Future[ExitStatus | None]
    removed: asyncio.Future[None]


class Endings:
    """The waiting, by container id, and how the last containers have ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Ending]] = {}
        self._ended: dict[str, ExitStatus] = {}  # oldest first

    @contextlib.contextmanager
    def of(self, container: str) -> Iterator[Ending]:
        """What will be told of `container`, during the block."""
        loop = asyncio.get_running_loop()
        ending = Ending(loop.create_future(), loop.create_future())
        self._waiting.setdefault(container, set()).add(ending)
        try:
            yield ending
        finally:
            waiting = self._waiting.get(container, set())
            waiting.discard(ending)
            if not waiting:
                self._waiting.pop(container, None)

    def exit_of(self, container: str) -> ExitStatus | None:
        """How it has ended, if it is among the last 1024 that have and somebody learnt it; None once it runs again."""
        return self._ended.get(container)

    def begun(self, container: str) -> None:
        """Its command runs."""
        self._ended.pop(container, None)

    def stopped(self, container: str, exit_status: ExitStatus | None) -> None:
        """Its command has ended."""
        if exit_status is not None:
            self._ended.pop(container, None)  # one that ends once more is the youngest
            self._ended[container] = exit_status
            if len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]
        for ending in self._waiting.get(container, ()):
            if not ending.stopped.done():
                ending.stopped.set_result(exit_status)

    def removed(self, container: str) -> None:
        """It is gone."""
        self.stopped(container, None)
        for ending in self._waiting.get(container, ()):
            if not ending.removed.done():
                ending.removed.set_result(None)
