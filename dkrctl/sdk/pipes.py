"""Our ends of a command's pipes as asyncio's streams."""

from __future__ import annotations

import asyncio
import os
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
