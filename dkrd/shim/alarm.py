"""Calls that could wait though they should not: cut off after 2 s, by SIGALRM, which is this module's.

A descriptor that another process has too may be made blocking by it at any time (O_NONBLOCK is of the open file, open(2)); and
before Linux 6.16 a message may bring descriptors that the kernel closes while it is received, for as long as their sender likes.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import TypeVar

    T = TypeVar("T")

_TICK = 0.25  # seconds
_TICKS = 8  # of one call, then it is cut off


class _Alarm:
    """The one call that is under way."""

    def __init__(self) -> None:
        self._ticks = 0
        self._fd = -1

    def tick(self, number: int, frame: FrameType | None) -> None:
        self._ticks += 1
        os.set_blocking(self._fd, False)
        if self._ticks >= _TICKS:
            raise TimeoutError

    def bounded(self, fd: int, call: Callable[..., T], *args: object) -> T:
        self._ticks, self._fd = 0, fd
        signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
        try:
            return call(*args)
        except TimeoutError:
            raise BlockingIOError from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


_alarm = _Alarm()


def prepare() -> None:
    """Take SIGALRM; before the first call of `bounded`."""
    signal.signal(signal.SIGALRM, _alarm.tick)


def bounded(fd: int, call: Callable[..., T], *args: object) -> T:
    """`call(*args)`, which is about `fd`; raises BlockingIOError where it takes 2 s, and whatever it raises itself."""
    return _alarm.bounded(fd, call, *args)
