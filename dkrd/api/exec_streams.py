"""Executing a further command for tools that cannot pass descriptors: dkr-stream/1 and WebSocket (docs/protocol.md, section 1).

The other ends of its input and output are the guardian's, as of a container that was made: so what is between it and the client is the
bridge of those who attach. Here this process says the first frame, and root's side refuses it where it refuses a plain exec.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from common import frames
from common.errors import BadRequest, DkrError, ProtocolError, Unavailable
from common.exec_models import StreamExec
from dkrd.api import bodies, sessions
from dkrd.api.asks import ASK_SECONDS, check_runs, find
from dkrd.api.bridge import Bridge, told
from dkrd.api.stream_wire import CONTROL
from dkrd.api.streams import by_frames, by_messages, handshake, opened

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from common.models import Container
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer
    from dkrd.api.sessions import Frame
    from dkrd.api.stream_wire import Wire
    from dkrd.api.streams import Opened

FIRST_SECONDS = 10.0  # from the 101 to the request of a WebSocket, as for a session's first frame


async def exec_stream(
    context: Context, peer: Peer, request: web.Request, body: StreamExec
) -> web.StreamResponse:
    """Answer 101 when the command runs, and stream to it. Raises DkrError where it could not be started."""
    container = await find(context, peer, request)
    check_runs(container, "execute in")
    async with _executed(context, request, container, body) as found:
        return await by_frames(request, found)


async def exec_websocket(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """The same in messages, of which the first is the request: a handshake has no body, and a query no room for it. And a browser
    shows no program the problem that answers a handshake: so what is wrong with the request is a message too.
    """
    container = await find(context, peer, request)
    check_runs(container, "execute in")
    websocket, what = handshake(request, "exec"), f"execute in {container.name}"
    async with by_messages(websocket, request) as wire:
        try:
            body = await _request(wire)
            if body is None:
                return websocket
            async with _executed(context, request, container, body) as (session, attached, streams):
                await Bridge(session, streams, wire).run(attached)
        except (DkrError, OSError) as err:
            error = err if isinstance(err, DkrError) else Unavailable(f"cannot {what}: {err.strerror or err}")
            await wire.send(CONTROL, frames.dumps(told(error)))
    return websocket


async def _request(wire: Wire) -> StreamExec | None:
    """What the client says first; None where it goes instead. Raises BadRequest, ProtocolError."""
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            received = await wire.receive()
    except TimeoutError:
        raise BadRequest(
            f"cannot read the request: it has not come within {FIRST_SECONDS:g} s",
            hint="the first message is the request, as text",
        ) from None
    if received is None:
        return None
    kind, data = received
    if kind != CONTROL:
        raise ProtocolError(
            "cannot read the request: the first message is binary", hint="it is the request, as text"
        )
    return bodies.parse(data, StreamExec)


def _executed(
    context: Context, request: web.Request, container: Container, body: StreamExec
) -> AbstractAsyncContextManager[Opened]:
    first: Frame = {
        "type": "exec",
        "container": container.id,
        "request": body.to_request(),
        "stdio": [],
        "tty": [],
        "streams": True,
    }
    # The guardian's first word comes when the command runs, for which it has as much time as a start.
    patience = context.settings.start_seconds + ASK_SECONDS
    what = f"execute in {container.name}"
    return opened(context, request, container, (what, first), sessions.execute, patience)
