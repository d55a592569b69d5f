"""An answer that goes on, read by the Python client: over a restart of the daemon, for as long as `retry` says."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic

from common.errors import Unavailable
from dkrctl.places import T

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from dkrctl.places import Place
    from dkrctl.sdk.transport import Transport


class Following(ABC, Generic[T]):
    """One answer that is read."""

    def __init__(self, transport: Transport, place: Place[T]) -> None:
        self._transport = transport
        self._place = place

    @abstractmethod
    def answered(self) -> AsyncGenerator[list[T]]:
        """What is answered to what is to be asked now; `begun` is to be called with the head. Raises DkrError."""

    async def items(self) -> AsyncGenerator[T]:
        """All that comes, each once. Raises DkrError."""
        while True:
            try:
                async with contextlib.aclosing(self.answered()) as batches:
                    async for batch in batches:
                        for one in self._place.take(batch):
                            yield one
                return
            except Unavailable as error:
                if not (self._place.begun and self._place.follows):
                    raise
                await self._wait(error)

    def begun(self, headers: Mapping[str, str]) -> None:
        """An answer has these headers."""
        self._place.answered(asyncio.get_running_loop().time())

    async def _wait(self, error: Unavailable) -> None:
        """Let some time pass before it is asked again. Raises `error` where that has been too long."""
        away, pause = self._place.lost(asyncio.get_running_loop().time())
        if away + pause > self._transport.retry:
            raise error
        await asyncio.sleep(pause)
