"""The command's own terminal as its client has it: the pty's master, or after a hand-over the guardian's stream."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
import warnings
from typing import TYPE_CHECKING

from dkrctl.sdk.waits import wake

if TYPE_CHECKING:
    from collections.abc import Callable

REST = 0.1  # seconds until a pty is looked at again whose other side nobody held
DRAIN = 1.0  # seconds without output after the exit, before a terminal that did not hang up is left
_WINSIZE = struct.Struct("HHHH")  # ioctl_tty(2)


class Terminal:
    """What a command shows and is typed, as bytes. Of `Process.terminal`; not made by callers.

    Nothing is read ahead: while nobody calls `read`, a command that shows much waits, as at a terminal stopped by ctrl-S.
    """

    def __init__(
        self, descriptor: int, *, master: bool, typed: bool, tell: Callable[[int, int], None]
    ) -> None:
        """Own `descriptor`; `tell` sends a size to the guardian, who must be told while it holds the master."""
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._master = master
        self._typed = typed
        self._tell = tell
        self._size = (0, 0)
        self._ended = False  # the command has
        self._waits: set[asyncio.Future[None]] = set()
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """Nothing can be read any more: the terminal has ended, or was left."""
        return self._descriptor < 0

    async def read(self, size: int = 65536) -> bytes:
        """What is shown, as soon as there is something: 1 to `size` bytes; b"" at the end."""
        if size < 1:
            raise ValueError("at least one byte must be wanted")
        async with self._reading:
            while not self.closed:
                try:
                    data = os.read(self._descriptor, size)
                except BlockingIOError:
                    if not await self._wait(read=True, seconds=DRAIN if self._ended else None):
                        self.close()
                except OSError as err:
                    # EIO: nobody has the other side now. While the command lives somebody may open it again.
                    if not self._master or err.errno != errno.EIO or self._ended:
                        self.close()
                    else:
                        await self._wait(seconds=REST)
                else:
                    if data:
                        return data
                    self.close()
            return b""

    async def write(self, data: bytes) -> None:
        """Type `data`; waits until all of it is taken. ctrl-C is b"\\x03", the end of the input b"\\x04", return b"\\r".

        Raises BrokenPipeError where the terminal has ended, or is for output only.
        """
        if not self._typed:
            raise BrokenPipeError(errno.EPIPE, "the terminal is for output only")
        async with self._writing:
            left = memoryview(data)
            while left:
                if self.closed:
                    raise BrokenPipeError(errno.EPIPE, "the terminal has ended")
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    await self._wait(write=True, seconds=DRAIN if self._ended else None)
                    if self._ended:
                        raise BrokenPipeError(errno.EPIPE, "the command has ended") from None
                except OSError as err:
                    if err.errno != errno.EIO or self._ended:
                        raise BrokenPipeError(errno.EPIPE, "the terminal has ended") from err
                    await self._wait(seconds=REST)

    def resize(self, rows: int, columns: int) -> None:
        """The window has another size; the command hears of it (SIGWINCH). Raises ValueError beyond 1 to 65535."""
        if not (0 < rows <= 0xFFFF and 0 < columns <= 0xFFFF):
            raise ValueError(f"a terminal cannot have {rows} rows and {columns} columns")
        self._size = (rows, columns)
        if self.closed:
            return
        if not self._master:
            self._tell(rows, columns)
            return
        with contextlib.suppress(OSError):  # EIO: the command's side has just ended; its exit comes
            fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))

    # For the process that this belongs to.

    def relay(self, stream: int) -> None:
        """The guardian wants the master: go on over `stream`. What was read is the reader's; the rest of what is typed goes there."""
        os.set_blocking(stream, False)
        if self.closed:
            os.close(stream)
            return
        if self._master and self._size == (0, 0):
            packed = fcntl.ioctl(self._descriptor, termios.TIOCGWINSZ, bytes(_WINSIZE.size))
            self._size = _WINSIZE.unpack(packed)[:2]
        self._let_go()
        self._descriptor, self._master = stream, False

    def relayed(self) -> None:
        """The guardian has been told that it may read: now it can be told the size."""
        if all(self._size) and not self.closed:
            self._tell(*self._size)

    def end(self) -> None:
        """The command has ended: what it has shown can still be read."""
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Leave the terminal. May be called again."""
        if not self.closed:
            self._let_go()
            self._descriptor = -1

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._descriptor)
        loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._wake()

    def _wake(self) -> None:
        for future in self._waits:
            wake(future)

    async def _wait(self, *, read: bool = False, write: bool = False, seconds: float | None) -> bool:
        """Wait until the terminal can be read or written, or has changed; False after `seconds`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        descriptor = self._descriptor
        self._waits.add(future)
        if read:
            loop.add_reader(descriptor, wake, future)
        if write:
            loop.add_writer(descriptor, wake, future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._waits.discard(future)
            # After a hand-over the number may be another's already.
            if self._descriptor == descriptor and read:
                loop.remove_reader(descriptor)
            if self._descriptor == descriptor and write:
                loop.remove_writer(descriptor)
        return True

    def __del__(self) -> None:
        if self._descriptor >= 0:
            warnings.warn(f"unclosed terminal {self!r}", ResourceWarning, stacklevel=2, source=self)
            os.close(self._descriptor)
