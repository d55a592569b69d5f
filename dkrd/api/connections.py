"""One connection of a client: aiohttp's protocol, plus who is there and answers of ours where HTTP itself
is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

from aiohttp import web

from common import frames
from common.errors import BadRequest, Internal, LimitReached, Unavailable
from dkrd.api import problems

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from dkrd.api.peers import Peer, Peers

log = logging.getLogger("dkr.api")

IDLE_SECONDS = 75.0  # an idle connection is closed after this


class Connection(web.RequestHandler):
    """Reads SO_PEERCRED once, when the connection is made."""

    __slots__ = ("on_lost", "peer", "peers")

    def __init__(self, server: web.Server, peers: Peers, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            tcp_keepalive=False,
            access_log=None,  # type: ignore[arg-type]  # documented: None turns it off
            auto_decompress=False,  # a small body must not become a large one
        )
        self.peers = peers
        self.peer: Peer | None = None
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket = transport.get_extra_info("socket")
        try:
            self.peer = self.peers.enter(sock)
        except LimitReached as err:
            log.warning("%s", err)
            if isinstance(transport, asyncio.WriteTransport):
                transport.write(_refusal(err))
            transport.close()
            return
        except OSError:
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.peer is not None:
            self.peers.leave(self.peer)
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer where no handler was reached (what came is no HTTP) or where the application itself
        failed.
        """
        if status == 400:
            cause = " ".join((message or "").split())[:200].rstrip(".").lower()
            answer = problems.response(BadRequest(f"cannot read the request: it is not HTTP: {cause}"))
        else:
            log.error("a request failed outside of its handler", exc_info=exc)
            answer = problems.response(Internal("cannot answer: an error of the daemon, which its log tells"))
        answer.headers["Server"] = "dkr"
        answer.force_close()
        return answer


def _refusal(error: LimitReached) -> bytes:
    body = frames.dumps(problems.problem(error))
    head = (
        f"HTTP/1.1 {problems.STATUSES[error.code]} Too Many Requests\r\n"
        f"Content-Type: {problems.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def peer_of(request: web.Request) -> Peer:
    """Who asks. Raises ConnectionResetError where nobody is there any more."""
    protocol: Any = request.protocol
    if not isinstance(protocol, Connection) or protocol.peer is None:
        raise ConnectionResetError("the client is gone")
    return protocol.peer


@contextlib.contextmanager
def on_lost(request: web.Request, call: Callable[[], None]) -> Iterator[None]:
    """`call` is called if the client goes away during the block."""
    protocol: Any = request.protocol
    open_transport(request)
    protocol.on_lost = call
    try:
        yield
    finally:
        protocol.on_lost = None


@contextlib.contextmanager
def ended_when_lost(request: web.Request) -> Iterator[None]:
    """If the client goes away during the block it is cancelled, and Unavailable raised: nobody is there to be answered."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    def give_up() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    with on_lost(request, give_up):
        try:
            yield
        except asyncio.CancelledError:
            if gone and task.uncancel() == 0:
                raise Unavailable("cannot answer: the client is gone") from None
            raise


@contextlib.contextmanager
def counted(request: web.Request) -> Iterator[None]:
    """The connection counts as one of its user's during the block, whatever becomes of its transport."""
    protocol: Any = request.protocol
    peers, peer = protocol.peers, peer_of(request)
    peers.count(peer)
    try:
        yield
    finally:
        peers.leave(peer)


def evidence(request: web.Request) -> int:
    """A descriptor of the client's connection, by which root's side judges who asks; the caller's. Raises
    ConnectionResetError where it is closed.
    """
    return os.dup(open_transport(request).get_extra_info("socket").fileno())


def open_transport(request: web.Request) -> asyncio.Transport:
    """The transport of the connection. Raises ConnectionResetError where it is closed or closing."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    return transport
