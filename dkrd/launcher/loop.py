"""The launcher's loop: descriptors, signals and timers, in one thread, by epoll(7)."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Timer:
    """A call to come; `cancel` it and it does not."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


def _wake(number: int, frame: FrameType | None) -> None:
    """Nothing: the byte on the wake-up descriptor is what counts."""


class Loop:
    """Calls what was registered until `stop`. Without a timer it sleeps until something happens."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = True
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wake_read, select.EPOLLIN, self._read_signals)

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
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call `call()` from the loop after the process got the signal `number`."""
        self._signals[number] = call
        signal.signal(number, _wake)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def leave_in_child(self) -> None:
        """After a fork, with all signals blocked: give signals their default meaning and let go of the pipe.

        Without this a signal meant for the child would be read by the parent from the pipe both share.
        """
        signal.set_wakeup_fd(-1)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)

    def stop(self) -> None:
        """Let `run` return after the calls of this round."""
        self._running = False

    def run(self) -> None:
        """Wait and call until `stop`."""
        self._running = True
        while self._running:
            self.turn(None)

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
        due = max(0.0, self._timers[0][0] - time.monotonic())
        return due if seconds is None else min(seconds, due)

    def _read_signals(self, events: int) -> None:
        try:
            numbers = os.read(self._wake_read, 4096)
        except BlockingIOError:
            return
        for number in sorted(set(numbers)):
            call = self._signals.get(number)
            if call is not None:
                call()
