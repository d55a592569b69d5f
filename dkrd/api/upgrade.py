"""From HTTP to a session: answer 101, and let go of the client's connection so that root's side has it.

After the 101 this process writes nothing more to the client but the error record of docs/protocol.md,
section 2, and that only where nobody else tells the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from aiohttp import web

from common import frames
from dkrd.api.connections import open_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.errors import DkrError

PROTOCOL = "dkr-session/1"
STREAM = "dkr-stream/1"
FLUSH_SECONDS = 10.0


def asked_for(request: web.Request) -> list[str]:
    """The protocols to which the client wants its connection to be upgraded, the dearest first."""
    options = [word.strip().lower() for word in request.headers.get("Connection", "").split(",")]
    if request.version != (1, 1) or "upgrade" not in options:
        return []
    return [word.strip().lower() for word in request.headers.get("Upgrade", "").split(",")]


async def upgrade(
    request: web.Request, hand_over: Callable[[int], None], protocol: str = PROTOCOL
) -> web.StreamResponse:
    """Answer 101, then call `hand_over` with a descriptor of the connection, which is its own from there on.

    Raises ConnectionError, before the hand-over, where the client is gone or does not read.
    """
    transport = open_transport(request)
    # What can fail is done before the 101, behind which no problem can be answered.
    fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        answer = await _switch(request, transport, protocol)
    except BaseException:
        os.close(fd)
        raise
    hand_over(fd)
    # Lets go without shutdown(2): the connection lives on in the descriptor that was handed over.
    transport.abort()
    return answer


async def _switch(request: web.Request, transport: asyncio.Transport, protocol: str) -> web.StreamResponse:
    """Answer 101 and wait until it has left this process: what is written to the descriptor must come behind it."""
    # From here on the bytes are for whom has the descriptor. asyncio would read them, and drop the descriptors
    # that come along.
    transport.pause_reading()
    transport.set_write_buffer_limits(0)
    headers = {"Upgrade": protocol, "Connection": "Upgrade", "Server": "dkr"}
    answer = web.StreamResponse(status=101, headers=headers)
    answer.force_close()
    try:
        await answer.prepare(request)
        if transport.get_write_buffer_size():
            async with asyncio.timeout(FLUSH_SECONDS):
                await answer.drain()
    except TimeoutError:
        raise ConnectionResetError("the client does not read the answer") from None
    if transport.is_closing():
        raise ConnectionResetError("the client is gone")
    return answer


def tell(fd: int, error: DkrError) -> None:
    """Write the error record to a client that nobody else will tell. One that does not read it, or is gone,
    misses it.
    """
    sock = socket.socket(fileno=fd)
    try:
        with contextlib.suppress(OSError):
            record = frames.record({"type": "error", "error": error.to_wire()})
            sock.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        sock.detach()
