"""A loop of descriptors and timers, in one thread, by epoll(7): the launcher's, and each guardian's.

Without a timer it sleeps until something happens.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 86400.0  # seconds of one wait; epoll_wait(2) takes 24 days at most
_ROOM = 64  # timers, before those that were cancelled are looked for


class Timer:
    """A call to come; `cancel` it and it does not."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


class Loop:
    """Calls what was registered, a round at a time."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._room = _ROOM

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call(events)` while `events` (EPOLL*) hold for `fd`; EPOLLHUP and EPOLLERR always do."""
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """No longer watch `fd`; before it is closed, else its number would be watched for another."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call()` once, in `seconds`."""
        timer = Timer(call)
        if len(self._timers) >= self._room:
            # Else what is cancelled long before it is due would pile up, as a probe's deadline does.
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapq.heapify(self._timers)
            self._room = max(_ROOM, 2 * len(self._timers))
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def turn(self, seconds: float | None) -> None:
        """One round: wait at most `seconds` (None: until something happens), call what is due."""
        for fd, events in self._epoll.poll(self._wait(seconds)):
            # A call of this round may have made another one's descriptor meaningless.
            call = self._calls.get(fd)
            if call is not None:
                call(events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due = heapq.heappop(self._timers)[2].call
            if due is not None:
                due()

    def _wait(self, seconds: float | None) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return seconds
        due = min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST)
        return due if seconds is None else min(seconds, due)
