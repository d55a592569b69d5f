"""A process that a guardian has forked into its container, or for it: signalled, and reaped when it has ended. Nothing waits for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Loop, Timer

_AGAIN = 0.05  # seconds until it is tried again to reap one that somebody traces


class Child:
    """One of them; `pid` as the host counts.

    on_end  called once, with its exit code as os.waitstatus_to_exitcode(3) has it, when it has been reaped
    alone   what is left of its process group ends with it
    """

    def __init__(self, loop: Loop, pid: int, on_end: Callable[[int], None], *, alone: bool = False) -> None:
        """Raises OSError; then it was killed and reaped: nobody could guard it."""
        self.pid = pid
        self._loop = loop
        self._on_end = on_end
        self._alone = alone
        self._retry: Timer | None = None
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        loop.watch(self._pidfd, select.EPOLLIN, lambda _events: self._reap())

    @property
    def is_over(self) -> bool:
        """Whether it has been reaped, or left behind."""
        return self._pidfd < 0

    @property
    def has_left(self) -> bool:
        """Whether there may be others of its process group; of one that has been reaped the number may be another's by now."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def send_all(self, number: int) -> None:
        """To its process group as well: what it has started and waits for."""
        self.send(number)
        # Until it is reaped its number is no other group's.
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def end(self, seconds: float) -> None:
        """Kill it, and wait at most so long until it has ended; then it is left to itself, whatever it waits for."""
        self.send_all(signal.SIGKILL)
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if ended.poll(seconds * 1000):
            self._reap()
        if self._pidfd >= 0:
            self._over(-signal.SIGKILL)

    def _reap(self) -> None:
        """It has ended: reap it, now or as soon as it can be."""
        if self._alone:
            self.send_all(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            # Somebody inside traces it, and has to hear of it before us (ptrace(2)). Nothing tells when that is done.
            self._loop.forget(self._pidfd)
            self._retry = self._loop.later(_AGAIN, self._reap)
            return
        self._over(os.waitstatus_to_exitcode(status))

    def _over(self, code: int) -> None:
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._retry is not None:
            self._retry.cancel()
        self._on_end(code)
