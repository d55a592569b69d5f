"""The master of the container's pty, once it is the guardian that reads and writes it; and its size.

The master is one description with the client that held it before, which may have kept a copy and clear
O_NONBLOCK at any time: so no call on it is trusted not to wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING

from dkrd.shim import alarm

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Loop

CHUNK = 4096  # bytes; a read of a pty gives no more at once (N_TTY_BUF_SIZE, drivers/tty/n_tty.c)
_SIZE = struct.Struct("HHHH")  # struct winsize, ioctl_tty(2)
_REDRAW_SECONDS = 0.05  # in which an application sees the smaller window, before it has its own again


class Terminal:
    """The master. `take` it before the first call."""

    def __init__(self, master: int) -> None:
        self._master = master

    @property
    def reading(self) -> int:
        """The descriptor to watch for what comes out."""
        return self._master

    @property
    def writing(self) -> int:
        """The descriptor to watch for room."""
        return self._master

    def end_input(self) -> None:
        """Nothing: who types a terminal's end of input types it, and there is a next one."""

    def take(self) -> None:
        """Be the one that reads from now on."""
        os.set_blocking(self._master, False)
        alarm.prepare()

    def read(self) -> bytes:
        """What the command has written. Raises BlockingIOError where there is nothing, OSError (EIO) where no
        process holds the other side now.
        """
        return alarm.bounded(self._master, os.read, self._master, CHUNK)

    def write(self, data: bytes | bytearray) -> int:
        """Type; how many bytes were taken. Raises as `read`."""
        return alarm.bounded(self._master, os.write, self._master, data)

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

    def size(self) -> tuple[int, int]:
        """The size as it is."""
        return self._terminal.size()

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
