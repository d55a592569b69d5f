"""The master of the container's pty, once it is the guardian that reads and writes it; and its size.

The master is one description with the client that held it before, which may have kept a copy and clear
O_NONBLOCK at any time: so no call on it is trusted not to wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import TypeVar

    from dkrd.loop import Loop

    T = TypeVar("T")

CHUNK = 4096  # bytes; a read of a pty gives no more at once (N_TTY_BUF_SIZE, drivers/tty/n_tty.c)
_TICK = 0.25  # seconds
_TICKS = 8  # of one call, then it is cut off
_SIZE = struct.Struct("HHHH")  # struct winsize, ioctl_tty(2)
_REDRAW_SECONDS = 0.05  # in which an application sees the smaller window, before it has its own again


class Terminal:
    """The master. `take` it before the first call."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._ticks = 0

    def fileno(self) -> int:
        return self._master

    def take(self) -> None:
        """Be the one that reads from now on."""
        os.set_blocking(self._master, False)
        signal.signal(signal.SIGALRM, self._tick)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self._ticks += 1
        os.set_blocking(self._master, False)
        if self._ticks >= _TICKS:
            raise TimeoutError

    def read(self) -> bytes:
        """What the command has written. Raises BlockingIOError where there is nothing, OSError (EIO) where no
        process holds the other side now.
        """
        return self.bounded(os.read, self._master, CHUNK)

    def write(self, data: bytes | bytearray) -> int:
        """Type; how many bytes were taken. Raises as `read`."""
        return self.bounded(os.write, self._master, data)

    def bounded(self, call: Callable[..., T], *args: object) -> T:
        """`call(*args)`, cut off with BlockingIOError where it waits for 2 s though it should not."""
        self._ticks = 0
        signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
        try:
            return call(*args)
        except TimeoutError:
            raise BlockingIOError from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def size(self) -> tuple[int, int]:
        """Rows and columns; 0 where they were never set."""
        try:
            packed = fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(_SIZE.size))
        except OSError:
            return 0, 0  # EIO: the command's side has just ended
        rows, columns, _, _ = _SIZE.unpack(packed)
        return rows, columns

    def resize(self, rows: int, columns: int) -> None:
        """Set the size; the kernel tells the command (SIGWINCH) where it is another."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))


class Window:
    """The size that suits all who look: the smallest of theirs. `tell` is called after each change."""

    def __init__(self, loop: Loop, terminal: Terminal, tell: Callable[[], None]) -> None:
        self._loop = loop
        self._terminal = terminal
        self._tell = tell
        self._sizes: dict[object, tuple[int, int]] = {}
        self._before: tuple[int, int] | None = None  # while the window is another one for a moment

    def know(self, client: object, rows: int, columns: int) -> bool:
        """The size of a client's own window; 0 where it does not know. Whether the command's is another now."""
        if rows and columns:
            self._sizes[client] = (rows, columns)
        else:
            self._sizes.pop(client, None)
        return self._fit()

    def forget(self, client: object) -> None:
        """It looks no more."""
        if self._sizes.pop(client, None) is not None:
            self._fit()

    def redraw(self) -> None:
        """Have the application draw all anew, for one that has just come: only another size makes it."""
        rows, columns = self._terminal.size()
        if rows and self._before is None:
            self._before = (rows, columns)
            self._resize(rows - 1 or 2, columns)
            # Not at once: an application that then finds the size it knows does nothing.
            self._loop.later(_REDRAW_SECONDS, self._restore)

    def _restore(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            self._resize(*before)
            self._fit()

    def _fit(self) -> bool:
        """Set the smallest size; whether that is another than before."""
        if not self._sizes:
            return False
        smallest = (min(rows for rows, _ in self._sizes.values()), min(c for _, c in self._sizes.values()))
        if self._before is not None:
            self._before = smallest
            return True
        if smallest == self._terminal.size():
            return False
        self._resize(*smallest)
        return True

    def _resize(self, rows: int, columns: int) -> None:
        self._terminal.resize(rows, columns)
        self._tell()
