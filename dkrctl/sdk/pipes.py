"""Our ends of a command's pipes, or of a guardian's streams, as asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkrctl.sdk.descriptors import Passing


class _Protocol(asyncio.StreamReaderProtocol):
    """One that tells when its descriptor is closed, whatever the reason."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


class _Output(_Protocol):
    """One that reads from a guardian's stream, up to its end."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # nothing is sent here

    def connection_lost(self, exc: Exception | None) -> None:
        # The guardian had not read all of the input when it hung up. The kernel says so behind the output, unix(7): that is whole.
        super().connection_lost(None if isinstance(exc, ConnectionResetError) else exc)


class _Input(asyncio.StreamWriter):
    """A command's input over a socket on which its output comes back: to close it ends the sending alone."""

    _over = False

    def close(self) -> None:
        if not self.is_closing():
            self._over = True
            self.write_eof()

    def is_closing(self) -> bool:
        return self._over or super().is_closing()

    async def wait_closed(self) -> None:
        self.transport.set_write_buffer_limits(0)  # so that `drain` waits for all of it
        with contextlib.suppress(ConnectionError):
            await self.drain()


class Pipes:
    """The pipes of one command: `stdin` to write to, `stdout` and `stderr` to read from, or None."""

    def __init__(self) -> None:
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._open: list[tuple[asyncio.ReadTransport | asyncio.WriteTransport, _Protocol]] = []

    async def connect(self, passing: Passing, limit: int) -> None:
        """Take over the pipes of `passing`; `limit`: bytes that a reader buffers before the command has to wait."""
        loop = asyncio.get_running_loop()
        for number in sorted(passing.pipes):
            file = os.fdopen(passing.pipes.pop(number), "rb" if number else "wb", 0)
            reader = asyncio.StreamReader(limit, loop)
            protocol = _Protocol(reader)
            transport: asyncio.ReadTransport | asyncio.WriteTransport
            try:
                if number == 0:
                    transport, _ = await loop.connect_write_pipe(lambda p=protocol: p, file)  # type: ignore[misc]
                else:
                    transport, _ = await loop.connect_read_pipe(lambda p=protocol: p, file)  # type: ignore[misc]
            except BaseException:
                file.close()
                raise
            self._open.append((transport, protocol))
            if isinstance(transport, asyncio.WriteTransport):
                self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
            elif number == 1:
                self.stdout = reader
            else:
                self.stderr = reader

    async def join(self, streams: list[int], limit: int, *, sends: bool) -> None:
        """Take over the streams of a container without a terminal: of its output, over which its input goes, and of its errors.

        sends  there is an input

        The input has a copy of its own: who writes to what nobody reads any more loses nothing of the output.
        """
        loop = asyncio.get_running_loop()
        if sends:
            streams.append(os.dup(streams[0]))
        readers = []
        for _ in range(2):
            readers.append(asyncio.StreamReader(limit, loop))
            await self._connect(streams, _Output(readers[-1]))
        self.stdout, self.stderr = readers
        if sends:
            protocol = _Protocol(asyncio.StreamReader(limit, loop))
            transport = await self._connect(streams, protocol)
            # Before the loop looks for what has come: that is for the reader of the other copy.
            transport.pause_reading()
            self.stdin = _Input(transport, protocol, None, loop)

    async def _connect(self, streams: list[int], protocol: _Protocol) -> asyncio.Transport:
        """The first of `streams`, which is taken from them, with `protocol`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, streams.pop(0))
        sock.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_unix_connection(lambda: protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._open.append((transport, protocol))
        return transport

    def close(self) -> None:
        """Close our ends at the loop's next turn; what was not written yet is lost."""
        for transport, _ in self._open:
            if isinstance(transport, asyncio.WriteTransport):
                # Not twice: asyncio's own would then tell of the loss twice.
                if not transport.is_closing() or transport.get_write_buffer_size():
                    transport.abort()
            else:
                transport.close()

    async def wait_closed(self) -> None:
        """Wait until they are."""
        for _, protocol in self._open:
            await protocol.closed.wait()
