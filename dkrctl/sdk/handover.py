"""Asking for a session: the upgrade, and the record that brings the descriptor (docs/protocol.md, sections 1 and 2).

On a plain socket: aiohttp and asyncio's streams read by recv(2), which drops the descriptor that comes along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from common.errors import ProtocolError, Unavailable, from_wire
from common.frames import loads_object
from dkrctl.diagnosis import LOG, foreign, unreachable
from dkrctl.http import (
    MAX_BODY,
    MAX_HEAD,
    ROOM,
    UPGRADE,
    Answer,
    descriptors_of,
    look_for_word,
    problem,
    trust,
    vouches,
)
from dkrctl.sdk.waits import readable

CONNECT_SECONDS = 5.0  # how long a full queue of the daemon's socket is waited for
_PAUSE = 0.005  # seconds
_BEGIN = b"HTTP/1."
_CHUNK = 65536  # bytes


async def ask_session(path: str, target: str, body: bytes) -> tuple[str, int]:
    """Ask the daemon at `path` for a session by POST `target`; the container's id, and the descriptor, which is the caller's.

    Raises DkrError. Never tried again: the daemon may have begun. Cancelled, it leaves nothing open.
    """
    connection = _Connection(path)
    try:
        await connection.connect()
        answer = await connection.ask(target, body)
        if answer.status != 101:
            raise problem(answer, await connection.body(answer), path)
        if answer.headers.get("upgrade", "").lower() != UPGRADE:
            raise ProtocolError(f"cannot talk to the daemon: it does not speak {UPGRADE}")
        record = await connection.record()
        if record.get("type") == "session" and isinstance(record.get("id"), str):
            return str(record["id"]), connection.take()
        if record.get("type") == "error":
            raise from_wire(record.get("error"))
        raise ProtocolError("cannot understand the daemon: its record is neither a session nor an error")
    finally:
        connection.close()


class _Connection:
    """One connection, always read with room for a descriptor."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = bytearray()
        self._room = ROOM
        self._vouched = False
        self._descriptors: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)

    async def connect(self) -> None:
        """Raises Unavailable or NotPermitted, saying what to do."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CONNECT_SECONDS
        while True:
            try:
                # Not loop.sock_connect(): it takes the EAGAIN of a full queue, unix(7), for a connection under way.
                self._socket.connect(self._path)
            except OSError as err:
                if not isinstance(err, BlockingIOError) or loop.time() > until:
                    raise unreachable(self._path, err) from err
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def ask(self, target: str, body: bytes) -> Answer:
        """Send the request that asks for the upgrade, and read the head of the answer."""
        head = f"POST {target} HTTP/1.1\r\nHost: dkr\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        # It may have answered before it had read all; what it said comes next.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.get_running_loop().sock_sendall(self._socket, head.encode() + b"\r\n" + body)
        self._room = look_for_word(self._socket)
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > MAX_HEAD or self._data[: len(_BEGIN)] != _BEGIN[: len(self._data)]:
                raise foreign(self._path, bytes(self._data))
            if not await self._fill():
                raise Unavailable("cannot get an answer: the daemon closed the connection", hint=LOG)
        answer = Answer(bytes(self._data[:end]))
        del self._data[: end + 4]
        return answer

    async def body(self, answer: Answer) -> bytes:
        """What follows the head; cut off where the daemon stops early."""
        text = answer.headers.get("content-length", "")
        wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else MAX_BODY
        while len(self._data) < min(wanted, MAX_BODY) and await self._fill():
            pass
        return bytes(self._data[:wanted])

    async def record(self) -> dict[str, object]:
        """The hand-over record."""
        size = int.from_bytes(await self._exactly(4), "big")
        if size > MAX_BODY:
            raise ProtocolError(f"cannot understand the daemon: a record of {size} bytes")
        try:
            return loads_object(await self._exactly(size))
        except ValueError as err:
            raise ProtocolError(f"cannot understand the daemon: its record is {err}") from err

    def take(self) -> int:
        """The one descriptor that came, from now on the caller's. Raises ProtocolError unless it is a session that root has made."""
        if len(self._descriptors) != 1:
            raise ProtocolError("cannot understand the daemon: its record brings no session")
        descriptor = self._descriptors.pop()
        trust(descriptor, self._vouched)
        return descriptor

    def close(self) -> None:
        """Let go of the connection and of a descriptor that nobody took."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    async def _exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            if not await self._fill():
                cause = "the daemon closed the connection before it handed over"
                raise Unavailable(f"cannot start the container: {cause}", hint=LOG)
        data = bytes(self._data[:count])
        del self._data[:count]
        return data

    async def _fill(self) -> bool:
        """Read what there is; False at the end."""
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(_CHUNK, self._room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await readable(self._socket.fileno())
                continue
            except ConnectionResetError:
                return False
            descriptors = descriptors_of(ancillary)
            if descriptors:
                self._vouched = self._room > ROOM and vouches(ancillary)
            self._descriptors += descriptors
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("cannot understand the daemon: it sent more descriptors than one")
            self._data += data
            return bool(data)
