"""How a client over HTTP and this process speak of a container's input and output: frames of dkr-stream/1, or WebSocket messages.

docs/protocol.md, section 1. Both are the same four kinds; a kind is a byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import TYPE_CHECKING, Protocol

from aiohttp import WSMsgType

from common import frames
from common.errors import ProtocolError

if TYPE_CHECKING:
    from aiohttp import web

INPUT, OUTPUT, ERROR, CONTROL = range(4)
MAX_LENGTH = 65536  # bytes of a frame, behind its head
MAX_MESSAGE = (
    256 * 1024
)  # bytes of one of a WebSocket's: of input as much as of a frame, and a request may be longer
HEAD = 8  # bytes
PIECE = 16384  # bytes of input that are taken at once
MAX_DRAINED = 1024 * 1024  # bytes of a client's that are read and dropped at the end

_KEYS = {
    "signal": {"type", "signal"},
    "resize": {"type", "height", "width"},
    "detach": {"type"},
}


class Wire(Protocol):
    """A client's connection, behind the 101."""

    async def receive(self) -> tuple[int, bytes] | None:
        """INPUT and bytes, none at its end; or CONTROL and JSON. None where the client is gone. Raises ProtocolError."""

    async def send(self, kind: int, data: bytes) -> None:
        """Say it. To a client that is gone nothing is said."""

    async def hung_up(self) -> None:
        """Return when the client is gone, also while nobody receives."""

    async def close(self) -> None:
        """Let go of it."""


def control(data: bytes) -> dict[str, object]:
    """What a client says besides its input: an object that the guardian takes. Raises ProtocolError."""
    try:
        frame = frames.loads_object(data)
    except ValueError as err:
        raise ProtocolError(f"cannot read a frame: {err}") from None
    kind = frame.get("type")
    keys = _KEYS.get(kind) if isinstance(kind, str) else None
    if keys is None:
        raise ProtocolError(f"cannot read a frame: its type is none of {', '.join(_KEYS)}")
    if set(frame) != keys:
        raise ProtocolError(f"cannot read a frame: a {kind} has other keys than {', '.join(sorted(keys))}")
    if not all(type(frame[key]) is int for key in keys - {"type"}):
        raise ProtocolError(f"cannot read a frame: a {kind} has integers")
    return frame


async def hung_up(sock: socket.socket) -> None:
    """Return when the other end of a Unix socket is closed, also while nobody reads what it has sent before."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    if sock.fileno() < 0:
        return  # its transport has closed it before we came to look
    with select.epoll(1) as watch:
        watch.register(sock.fileno(), 0)  # EPOLLHUP and EPOLLERR are always told: epoll_ctl(2)
        loop.add_reader(watch.fileno(), gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watch.fileno())


class FrameWire:
    """Frames over a connection that is ours alone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._left = 0  # of a frame of input that is being read
        self._gone = False

    async def receive(self) -> tuple[int, bytes] | None:
        """See Wire."""
        if self._left:
            return INPUT, await self._input()
        head = await self._exactly(HEAD)
        if not head:
            return None
        kind, zeros, length = head[0], head[1:4], int.from_bytes(head[4:], "big")
        if kind not in (INPUT, CONTROL) or any(zeros):
            raise ProtocolError(
                f"cannot read a frame: its head is {head[:4].hex(' ')}, not 00 or 03 and zeros"
            )
        if length > MAX_LENGTH:
            raise ProtocolError(f"cannot read a frame: it has {length} bytes, {MAX_LENGTH} are possible")
        if kind == CONTROL:
            return CONTROL, await self._exactly(length, inside=True)
        self._left = length
        return INPUT, await self._input() if length else b""

    async def _input(self) -> bytes:
        data = await self._loop.sock_recv(self._sock, min(self._left, PIECE))
        if not data:
            raise _torn()
        self._left -= len(data)
        return data

    async def _exactly(self, length: int, *, inside: bool = False) -> bytes:
        """So many bytes; none where the client has ended before the first, unless that is `inside` a frame."""
        data = b""
        while len(data) < length:
            more = await self._loop.sock_recv(self._sock, length - len(data))
            if not more:
                if data or inside:
                    raise _torn()
                break
            data += more
        return data

    async def send(self, kind: int, data: bytes) -> None:
        """See Wire."""
        async with self._sending:
            if self._gone:
                return
            try:
                head = bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big")
                await self._loop.sock_sendall(self._sock, head + data)
            except OSError:
                self._gone = True

    async def hung_up(self) -> None:
        """See Wire."""
        await hung_up(self._sock)

    async def close(self) -> None:
        """See Wire. What the client has sent and nobody read is read: else it would find its connection reset, not ended."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            drained = 0
            while drained < MAX_DRAINED and (data := self._sock.recv(MAX_LENGTH)):
                drained += len(data)
        self._sock.close()


def _torn() -> ProtocolError:
    return ProtocolError("cannot read a frame: it ends before its length")


class SocketWire:
    """Messages of a WebSocket (RFC 6455), which aiohttp reads and writes."""

    def __init__(self, websocket: web.WebSocketResponse, sock: socket.socket) -> None:
        """`sock` is the connection's, and stays its transport's."""
        self._websocket = websocket
        self._sock = sock

    async def receive(self) -> tuple[int, bytes] | None:
        """See Wire."""
        message = await self._websocket.receive()
        if message.type is WSMsgType.TEXT:
            return CONTROL, message.data.encode()
        if message.type is WSMsgType.BINARY:
            if message.data[:1] != bytes([INPUT]):
                raise ProtocolError("cannot read a message: a binary one begins with the byte 0")
            if len(message.data) > MAX_LENGTH + 1:
                raise ProtocolError(f"cannot read a message: {MAX_LENGTH} bytes of input are possible")
            return INPUT, message.data[1:]
        return None

    async def send(self, kind: int, data: bytes) -> None:
        """See Wire."""
        with contextlib.suppress(ConnectionError, RuntimeError):  # the latter where it was closed
            if kind == CONTROL:
                await self._websocket.send_str(data.decode())
            else:
                await self._websocket.send_bytes(bytes([kind]) + data)

    async def hung_up(self) -> None:
        """See Wire."""
        await hung_up(self._sock)

    async def close(self) -> None:
        """See Wire."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self._websocket.close()
