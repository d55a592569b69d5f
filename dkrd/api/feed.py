"""Events on their way to who reads them: the newest in memory, older ones in the index.

A reader is a number, up to which it has read: whoever is slow has no queue that grows, only a place that falls behind. What is not in
memory any more it reads from the index; what is not even there any more is lost to it, and it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from common.errors import LimitReached

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dkrd.state.events import Event
    from dkrd.state.worker import Worker

MAX_READERS = 32  # of one user; uid 0 has no bound
RING = 256  # events in memory; one has 16 KiB of labels at most


class Feed:
    """For all readers."""

    def __init__(self, index: Worker) -> None:
        self._index = index
        self._ring: deque[Event] = deque(maxlen=RING)
        self._waiting: dict[int | None, set[asyncio.Future[None]]] = {}  # by whose events they read
        self._readers: Counter[int] = Counter()

    @contextlib.contextmanager
    def reader(self, uid: int) -> Iterator[None]:
        """One more reader of this user's, for the block. Raises LimitReached: each costs something at each event."""
        if uid and self._readers[uid] >= MAX_READERS:
            raise LimitReached(
                f"cannot tell events: uid {uid} has {MAX_READERS} readers of them", hint="end some"
            )
        self._readers[uid] += 1
        try:
            yield
        finally:
            self._readers[uid] -= 1
            if not self._readers[uid]:
                del self._readers[uid]

    def add(self, events: list[Event]) -> None:
        """These have been written down."""
        self._ring.extend(events)
        for scope in {None, *(event.uid for event in events)} if events else ():
            for future in self._waiting.get(scope, ()):
                if not future.done():
                    future.set_result(None)

    async def place(
        self, since: str | None, scope: int | None, *, past: bool
    ) -> tuple[int, Mapping[int, int]]:
        """Where a reader begins: with the first of `since`, with all there are, or (without `past`) with what comes. And what was
        no longer there then, which nobody expects.
        """
        return await self._index.ask(
            lambda index: (
                index.events.before(since) if past else index.events.last,
                index.events.floors(scope),
            ),
        )

    async def after(self, place: int, scope: int | None) -> tuple[list[Event], int]:
        """The next events of a user (None: of everyone) after a place, and the place behind them, the same where there are none."""
        if self._ring and self._ring[0].number <= place + 1:
            return self._newer(place, scope), max(place, self._ring[-1].number)
        return await self._index.ask(lambda index: index.events.page(place, scope))

    async def has_lost(self, place: int, scope: int | None, known: Mapping[int, int]) -> bool:
        """Whether events after a place are no longer there, besides those of which that was known at the beginning."""
        if self._ring and self._ring[0].number <= place + 1:
            return False
        return await self._index.ask(lambda index: index.events.has_lost(place, scope, known))

    def _newer(self, place: int, scope: int | None) -> list[Event]:
        return [
            event for event in self._ring if event.number > place and (scope is None or event.uid == scope)
        ]

    async def news(self, place: int, scope: int | None) -> None:
        """Return when there is an event of a user (None: of anybody) after a place, or may be."""
        # What is in memory no longer may have been the reader's.
        if self._ring and (self._ring[0].number > place + 1 or self._newer(place, scope)):
            return
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(scope, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(scope) is waiting:
                del self._waiting[scope]
