"""Who waits for the end of a container, and how it is told to them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.models import ExitStatus


class Endings:
    """The waiting, by container id."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[ExitStatus | None]]] = {}

    @contextlib.contextmanager
    def of(self, container: str) -> Iterator[asyncio.Future[ExitStatus | None]]:
        """A future that gets the exit of `container`, or None where it is gone and nobody learnt how it ended."""
        future: asyncio.Future[ExitStatus | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(container, set()).add(future)
        try:
            yield future
        finally:
            waiting = self._waiting.get(container, set())
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(container, None)

    def tell(self, container: str, exit_status: ExitStatus | None) -> None:
        """It has ended."""
        for future in self._waiting.get(container, ()):
            if not future.done():
                future.set_result(exit_status)
