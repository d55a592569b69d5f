"""The launcher's loop: descriptors, timers and signals."""

from __future__ import annotations

import os
import select
import signal

from dkrd import loop
from dkrd.runtime import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop(loop.Loop):
    """Calls what was registered until `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = True
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wake_read, select.EPOLLIN, self._read_signals)

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call `call()` from the loop after the process got the signal `number`."""
        self._signals[number] = call
        signals.wake_by(number)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def leave_in_child(self) -> None:
        """After a fork, with all signals blocked: give signals their default meaning and let go of the pipe.

        Without this a signal meant for the child would be read by the parent from the pipe both share.
        """
        signal.set_wakeup_fd(-1)
        signals.default(self._signals)

    def stop(self) -> None:
        """Let `run` return after the calls of this round."""
        self._running = False

    def run(self) -> None:
        """Wait and call until `stop`."""
        self._running = True
        while self._running:
            self.turn(None)

    def _read_signals(self, events: int) -> None:
        try:
            numbers = os.read(self._wake_read, 4096)
        except BlockingIOError:
            return
        for number in sorted(set(numbers)):
            call = self._signals.get(number)
            if call is not None:
                call()
