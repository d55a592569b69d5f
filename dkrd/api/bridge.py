"""Between a client over HTTP and a container's guardian: what either says is passed on, as fast as the other takes it.

                 receive ─► queue ─► the guardian's stream
      client  <                                            >  guardian
                 send ◄──── the streams, and the session

Nothing here is an answer to HTTP any more. A client that vanishes is one whose session ends: the guardian does what it was told
for that (`onDisconnect`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, ProtocolError
from dkrd.api.sessions import close_all
from dkrd.api.stream_wire import CONTROL, INPUT, OUTPUT, control

if TYPE_CHECKING:
    import socket

    from dkrd.api.sessions import Frame, Session
    from dkrd.api.stream_wire import Wire

CHUNK = 32768  # bytes of output that are taken at once
WAITING = 3  # pieces of input that wait for the guardian: 48 KiB
LEAVE_SECONDS = 2.0  # for what a client has sent before it left


class _Over(Exception):  # no error: how the tasks of a bridge learn that another has ended it
    """There is nothing more to be done."""


class Bridge:
    """One client's. The streams are of `session`: the first for input and output, a second for errors."""

    def __init__(self, session: Session, streams: list[socket.socket], wire: Wire) -> None:
        self._session = session
        self._streams = streams
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._input: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self._left = False  # by its own wish: the end of the session is none that is lost

    async def run(self, attached: Frame) -> None:
        """Until the container's end, or the client's. `attached` is what the guardian said first."""
        try:
            await self._say(attached)
            async with asyncio.TaskGroup() as group:
                outputs = [
                    group.create_task(self._output(kind, stream))
                    for kind, stream in enumerate(self._streams, OUTPUT)
                ]
                group.create_task(self._type())
                group.create_task(self._hear())
                group.create_task(self._notice())
                last = await self._follow()
                # What the command has written before it ended comes before the word of its end.
                await asyncio.wait(outputs)
                await self._say(last)
                raise _Over
        except* _Over:
            pass

    async def _say(self, frame: Frame | None) -> None:
        if frame is not None:
            await self._wire.send(CONTROL, frames.dumps(frame))

    async def _follow(self) -> Frame | None:
        """Tell what the guardian says, but its last word, which is returned; None where the client has left before."""
        while True:
            try:
                frame, fds = await self._session.receive()
            except DkrError as err:
                return None if self._left else told(err)
            close_all(fds)
            if frame.get("type") == "exited":
                return frame
            if frame.get("type") == "started":
                await self._say(frame)

    async def _output(self, kind: int, stream: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._loop.sock_recv(stream, CHUNK):
                await self._wire.send(kind, data)

    async def _type(self) -> None:
        """Pass input on. What the container does not take any more is dropped."""
        stream, taken = self._streams[0], True
        while True:
            data = await self._input.get()
            try:
                if not data:
                    stream.shutdown(1)  # SHUT_WR
                elif taken:
                    await self._loop.sock_sendall(stream, data)
            except OSError:
                taken = False
            self._input.task_done()

    async def _hear(self) -> None:
        """Take what the client says."""
        try:
            while (received := await self._wire.receive()) is not None:
                kind, data = received
                if kind == INPUT:
                    await self._input.put(data)
                else:
                    await self._act(control(data))
        except ProtocolError as err:
            await self._say(told(err))
            raise _Over from None
        except OSError:
            pass
        await self._leave()

    async def _act(self, frame: Frame) -> None:
        if frame["type"] == "detach":
            self._left = True
            await self._typed()
        await self._session.send(frame)

    async def _typed(self) -> None:
        """Return when the guardian has what the client has sent, or has not taken it for too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._input.join()

    async def _leave(self) -> None:
        """The client is gone."""
        await self._typed()
        raise _Over

    async def _notice(self) -> None:
        """That the client is gone, also while its input is not taken and nobody reads what it says."""
        await self._wire.hung_up()
        await asyncio.sleep(LEAVE_SECONDS)  # until then _hear() comes to the end of what it has sent
        raise _Over


def told(error: DkrError) -> Frame:
    """The frame that says it."""
    return {"type": "error", "error": error.to_wire()}
