"""Attaching for tools that cannot take descriptors: dkr-stream/1 and WebSocket (docs/protocol.md, section 1). To execute so:
exec_streams.py.

This process is in the client's place before the guardian, and in the way of the bytes, as it must be over HTTP. What goes wrong
before the guardian has taken the client is a problem; behind the 101 it is a frame.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from aiohttp import web

from common.errors import BadRequest, NotPermitted, ProtocolError
from dkrd.api import sessions
from dkrd.api.asks import ASK_SECONDS, check_runs, find
from dkrd.api.bridge import Bridge
from dkrd.api.connections import counted, evidence, on_lost, open_transport
from dkrd.api.sessions import Session, answered_in_time, close_all
from dkrd.api.stream_wire import MAX_MESSAGE, FrameWire, SocketWire
from dkrd.api.upgrade import STREAM, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from common.detached import AttachQuery
    from common.models import Container
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer
    from dkrd.api.sessions import Frame

    Opened = tuple[Session, Frame, list[socket.socket]]
    Introduce = Callable[[Context, Container, Session, int], None]


async def attach_stream(
    context: Context, peer: Peer, request: web.Request, query: AttachQuery
) -> web.StreamResponse:
    """Attach the client to a container that runs."""
    container = await find(context, peer, request)
    check_runs(container, "attach to")
    async with _attached(context, request, container, query, sessions.attach) as opened:
        return await by_frames(request, opened)


async def start_stream(
    context: Context, peer: Peer, request: web.Request, query: AttachQuery
) -> web.StreamResponse:
    """Attach the client to a container which is started then."""
    container = await find(context, peer, request)
    # The guardian's first word comes when the command runs.
    patience = context.settings.start_seconds + ASK_SECONDS
    async with _attached(context, request, container, query, sessions.launch, patience) as opened:
        return await by_frames(request, opened)


async def attach_websocket(
    context: Context, peer: Peer, request: web.Request, query: AttachQuery
) -> web.StreamResponse:
    """The same as `attach_stream`, in messages."""
    container = await find(context, peer, request)
    check_runs(container, "attach to")
    websocket = handshake(request, "attach")
    async with (
        _attached(context, request, container, query, sessions.attach) as (session, attached, streams),
        by_messages(websocket, request) as wire,
    ):
        await Bridge(session, streams, wire).run(attached)
    return websocket


def handshake(request: web.Request, verb: str) -> web.WebSocketResponse:
    """The answer to a client that wants a WebSocket, to be prepared. Raises BadRequest where it is no handshake, NotPermitted where a
    page of another site asks.
    """
    # A compressed message has no length that could be bounded before it is read.
    websocket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False)
    websocket.headers["Server"] = "dkr"
    if not websocket.can_prepare(request):
        raise BadRequest(
            f"cannot {verb}: the request is no handshake of WebSocket",
            hint="Sec-WebSocket-Key and Sec-WebSocket-Version: 13 are wanted (RFC 6455)",
        )
    _check_origin(request, verb)
    return websocket


def _check_origin(request: web.Request, verb: str) -> None:
    """A page of any site may open a WebSocket to what its reader's machine reaches, to a proxy of our socket too, and it alone is no
    matter of CORS (RFC 6455, section 10.2). Whoever is no browser says no origin.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        raise NotPermitted(
            f"cannot {verb}: a page of {origin[:80]} asks, and this is {request.host[:80]}",
            rule="origin",
            hint="have the proxy serve both, and pass the Host on as it comes",
        )


@contextlib.asynccontextmanager
async def by_messages(websocket: web.WebSocketResponse, request: web.Request) -> AsyncIterator[SocketWire]:
    """Answer 101; for the block the connection is a WebSocket."""
    await websocket.prepare(request)
    wire = SocketWire(websocket, open_transport(request).get_extra_info("socket"))
    try:
        yield wire
    finally:
        await wire.close()


async def by_frames(request: web.Request, opened: Opened) -> web.StreamResponse:
    """Answer 101, and be between the client and the guardian until either's end."""
    session, attached, streams = opened
    with contextlib.ExitStack() as undo:
        # The transport ends behind the 101, and the connection with it, as far as aiohttp knows.
        undo.enter_context(counted(request))
        connections: list[socket.socket] = []
        answer = await upgrade(request, lambda fd: connections.append(socket.socket(fileno=fd)), STREAM)
        wire = FrameWire(connections[0])
        try:
            await Bridge(session, streams, wire).run(attached)
        finally:
            await wire.close()
    return answer


@contextlib.asynccontextmanager
async def _attached(
    context: Context,
    request: web.Request,
    container: Container,
    query: AttachQuery,
    introduce: Introduce,
    patience: float = ASK_SECONDS,
) -> AsyncIterator[Opened]:
    first: Frame = {"type": "attach", "container": container.id, **query.to_wire()}
    what = f"attach to {container.name}"
    async with opened(context, request, container, (what, first), introduce, patience) as found:
        yield found


@contextlib.asynccontextmanager
async def opened(
    context: Context,
    request: web.Request,
    container: Container,
    says: tuple[str, Frame],
    introduce: Introduce,
    patience: float = ASK_SECONDS,
) -> AsyncIterator[Opened]:
    """A session with the container's guardian, its first word, which comes within `patience` seconds, and the streams, for the block.
    `says`: what cannot be done where it goes wrong, and the client's first frame. Raises DkrError.
    """
    what, first = says
    with contextlib.ExitStack() as undo:
        session = undo.enter_context(contextlib.closing(Session(what, first)))
        with on_lost(request, session.lost):
            introduce(context, container, session, evidence(request))
            async with answered_in_time(what, patience):
                attached, fds = await session.expect("attached")
        yield session, attached, [undo.enter_context(stream) for stream in _streams(fds)]


def _streams(fds: list[int]) -> list[socket.socket]:
    """The sockets that came. Raises ProtocolError where they are others than an attach brings."""
    made: list[socket.socket] = []
    try:
        for fd in fds:
            made.append(socket.socket(fileno=fd))
            made[-1].setblocking(False)
        if len(made) not in (1, 2) or any(stream.type != socket.SOCK_STREAM for stream in made):
            raise ProtocolError(
                "cannot understand the container's guardian: it attaches with other descriptors"
            )
    except BaseException:
        close_all(fds[len(made) :])
        for stream in made:
            stream.close()
        raise
    return made
