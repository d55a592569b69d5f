"""A session in a client's place: for one that speaks plain HTTP this process makes both ends, says the first frame, and hears
what the guardian says (docs/protocol.md, section 3).

Root's side knows it by the socket that comes beside the client's connection, and gives nothing above a tenant's defaults on it.
When this process lets go of its end, the client has vanished, as far as the guardian can tell.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, LimitReached, ProtocolError, Unavailable, from_wire
from dkrd.api.asks import ASK_SECONDS, naming
from dkrd.api.connections import evidence, on_lost
from dkrd.api.spec_of import bundle_of
from dkrd.api.starts import Start, encode, reserve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import web

    from common.models import Container, RunRequest
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

    Frame = dict[str, object]

VERSION = 2
MAX_FRAME = 256 * 1024  # bytes of a frame from the guardian


class Session:
    """The client's end. To be closed."""

    def __init__(self, what: str, first: Frame | None, descriptors: Sequence[int] = ()) -> None:
        """`what` is what cannot be done where it goes wrong ("run"); `first` is said before all else, and brings `descriptors`.

        Raises LimitReached where it does not fit.
        """
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._failure: DkrError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._ours.setblocking(False)
            self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            if first is not None:
                self._send_first({**first, "version": VERSION}, descriptors)
        except BaseException:
            self.close()
            raise

    def _send_first(self, frame: Frame, descriptors: Sequence[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        try:
            self._ours.sendmsg([frames.dumps(frame)], [rights] if descriptors else [])
        except OSError as err:
            raise LimitReached(
                f"cannot {self._what}: the request does not fit into a session: {err.strerror}",
                hint="use fewer or shorter args, env and labels",
                errno=err.errno,
            ) from err

    def theirs(self) -> int:
        """The other end, for root's side; the receiver closes it."""
        return self._theirs.detach()

    def failed(self, error: DkrError) -> None:
        """Nothing more will come: whoever receives is told `error`."""
        self._failure = self._failure or error
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def lost(self) -> None:
        """The client is gone."""
        self.failed(Unavailable("cannot answer: the client is gone"))

    async def receive(self) -> tuple[Frame, list[int]]:
        """As `next`. Raises Unavailable at the end."""
        got = await self.next()
        if got is None:
            raise Unavailable(
                f"cannot {self._what}: lost the container's guardian", hint="the container may run on"
            )
        return got

    async def next(self) -> tuple[Frame, list[int]] | None:
        """The next frame and its descriptors, which are the caller's; None at the end. Raises the DkrError that it tells of or
        that `failed` was told, and ProtocolError.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                data, fds, _, _ = socket.recv_fds(
                    self._ours, MAX_FRAME, frames.MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await self._readable()
                continue
            except ConnectionResetError:
                # The guardian went without having read all of ours. That is told once, before what it said.
                continue
            except OSError:
                return None
            if not data:
                return None
            try:
                return _read(data), list(fds)
            except DkrError:
                close_all(fds)
                raise

    async def _readable(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_reader(self._ours.fileno(), self._wake)
        try:
            await self._waiting
        finally:
            self._loop.remove_reader(self._ours.fileno())
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def expect(self, kind: str) -> tuple[Frame, list[int]]:
        """The next frame, which must be of this type. Raises as `receive`."""
        frame, fds = await self.receive()
        if frame.get("type") != kind:
            close_all(fds)
            got = frame.get("type")
            raise ProtocolError(
                f"cannot understand the container's guardian: {kind} is expected now, not {got!r}"
            )
        return frame, fds

    async def send(self, frame: Frame) -> None:
        """Say it to the guardian. Where that has ended, `receive` tells."""
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._ours, frames.dumps(frame))

    def close(self) -> None:
        """Let go of both ends."""
        self._ours.close()
        self._theirs.close()


def _read(data: bytes) -> Frame:
    try:
        frame = frames.loads_object(data)
    except ValueError as err:
        raise ProtocolError(f"cannot understand the container's guardian: its frame is {err}") from None
    if frame.get("type") == "error":
        raise from_wire(frame.get("error"))
    return frame


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


@contextlib.asynccontextmanager
async def starting(
    context: Context,
    peer: Peer,
    request: web.Request,
    body: RunRequest,
    session: Session,
) -> AsyncIterator[None]:
    """For the block `session` is that of a container which is to be, and ends with the client's connection."""
    uid = peer.account()
    start = Start(context, uid, await reserve(context, uid, body), body)
    try:
        bundle = encode(bundle_of(body, context.settings, start.name))
        with on_lost(request, session.lost):
            start.on_refused = session.failed
            start.hand_over((evidence(request), session.theirs()), bundle)
            yield
    except BaseException:
        if start.fd < 0:
            start.release()
        raise


def launch(context: Context, container: Container, session: Session, connection: int) -> None:
    """Have `container` started, whose session this is; `connection` is the client's, and the channel's from here on."""
    _introduce(context, container, {"type": "launch", "id": container.id}, session, connection)


def attach(context: Context, container: Container, session: Session, connection: int) -> None:
    """Have `container`, which runs, take this session. The same of `connection`."""
    ask: Frame = {"type": "ask", "id": container.id, "ask": {"type": "attach"}}
    _introduce(context, container, ask, session, connection)


def execute(context: Context, container: Container, session: Session, connection: int) -> None:
    """Have a further command executed in `container`, whose session this is. The same of `connection`."""
    ask: Frame = {"type": "ask", "id": container.id, "ask": {"type": "exec"}}
    _introduce(context, container, ask, session, connection)


def copy(context: Context, container: Container, session: Session, connection: int) -> None:
    """Have something copied from or to `container`, whose session this is. The same of `connection`."""
    ask: Frame = {"type": "ask", "id": container.id, "ask": {"type": "copy"}}
    _introduce(context, container, ask, session, connection)


def _introduce(
    context: Context, container: Container, message: Frame, session: Session, connection: int
) -> None:
    def answered(answer: Answer) -> None:
        if isinstance(answer, DkrError):
            session.failed(answer)
        elif answer.get("type") == "refused":
            error = naming(from_wire(answer.get("error")), container)
            if message["type"] == "launch" and error.rule != "running":
                context.metrics.start_failed(error.code)
            session.failed(error)

    context.channel.ask(message, (connection, session.theirs()), answered)


@contextlib.asynccontextmanager
async def answered_in_time(what: str, patience: float = ASK_SECONDS) -> AsyncIterator[None]:
    """Raises Unavailable where the block takes longer than an answer may, in seconds."""
    try:
        async with asyncio.timeout(patience):
            yield
    except TimeoutError:
        raise Unavailable(
            f"cannot {what}: no answer within {patience:g} s", hint="it may still happen"
        ) from None
