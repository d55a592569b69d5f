"""One connection of a client: aiohttp's protocol, plus who is there and answers of ours where HTTP itself
is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import StreamReader, web

from common import frames
from common.errors import BadRequest, Internal, LimitReached, Unavailable
from dkrd.api import problems, request_ids

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from common.errors import DkrError
    from dkrd.api.peers import Peer, Peers

log = logging.getLogger("dkr.api")

IDLE_SECONDS = 75.0  # an idle connection is closed after this
HEAD_SECONDS = 30.0  # from the first byte of a request to the end of its head


class Connection(web.RequestHandler):
    """Reads SO_PEERCRED once, when the connection is made. Ends where a request is begun and not gone on with."""

    __slots__ = ("_answering", "_body", "_head_seconds", "_head_timer", "on_lost", "peer", "peers")

    def __init__(
        self,
        server: web.Server,
        peers: Peers,
        loop: asyncio.AbstractEventLoop,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            tcp_keepalive=False,
            access_log=None,  # type: ignore[arg-type]  # documented: None turns it off
            auto_decompress=False,  # a small body must not become a large one
        )
        self.peers = peers
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._answering = False
        self._body: StreamReader | None = None  # of the last request; what comes first is the rest of it
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

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self._begins_request(data):
            # Not anew with each byte: one every second would keep a connection for ever. aiohttp has no such limit.
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._head_seconds, self._head_is_late)
        super().data_received(data)

    def _begins_request(self, data: bytes) -> bool:
        """Whether `data` can be of no request but a new one. Empty lines before one mean nothing (RFC 9112, 2.2)."""
        if self._answering or not data or data.isspace():
            return False
        return self._body is None or self._body.is_eof()

    def begin(self, request: web.Request) -> None:
        """The head of `request` has come: until it is answered the connection may take its time."""
        self._forget_head()
        self._answering = True
        self._body = request.content

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """aiohttp's: write the answer. Behind it comes the next request."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answering = False

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        late = BadRequest(f"cannot read the request: its head has not come within {self._head_seconds:g} s")
        log.debug("uid %d: %s", self.peer.uid if self.peer is not None else -1, late)
        if self.transport is not None:
            self.transport.write(_refusal(late))
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
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
        request_ids.begin()  # none was reached that could have one
        if status == 400:
            cause = " ".join((message or "").split())[:200].rstrip(".").lower()
            answer = problems.response(BadRequest(f"cannot read the request: it is not HTTP: {cause}"))
        else:
            log.error("a request failed outside of its handler", exc_info=exc)
            answer = problems.response(Internal("cannot answer: an error of the daemon, which its log tells"))
        answer.headers["Server"] = "dkr"
        answer.headers[request_ids.HEADER] = request_ids.current()
        answer.force_close()
        return answer


def _refusal(error: DkrError) -> bytes:
    status = HTTPStatus(problems.STATUSES[error.code])
    body = frames.dumps(problems.problem(error))
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\n"
        f"Content-Type: {problems.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def begin(request: web.Request) -> None:
    """`request` has come, and is being answered."""
    protocol: Any = request.protocol
    if isinstance(protocol, Connection):
        protocol.begin(request)


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
