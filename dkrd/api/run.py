"""POST /v1/run: check, build the bundle, answer 101, and hand the client's connection to root's side.

After the 101 this process writes nothing more to the client but the error record of docs/protocol.md,
section 2, and that only where the launcher was not reached: one that was answers itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from aiohttp import web

from common import frames
from common.errors import BadRequest, Conflict, DkrError, LimitReached
from common.models import Container
from dkrd.api import bodies, names, problems
from dkrd.api.connections import open_transport
from dkrd.api.spec_of import bundle_of, image_of

if TYPE_CHECKING:
    from common.models import RunRequest
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")

PROTOCOL = "dkr-session/1"
ROOM = 64  # bytes of the message around the bundle, with the longest number
FLUSH_SECONDS = 10.0


async def run(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """Start a container for the client, who keeps talking to its shim over the same connection."""
    if not _wants_upgrade(request):
        return problems.response(
            BadRequest(f"cannot run: the connection must be upgraded to {PROTOCOL}", hint="use dkrctl run"),
            426,
            {"Upgrade": PROTOCOL, "Connection": "Upgrade"},
        )
    uid = peer.account()
    wanted = bodies.run_request(await bodies.read_json(request))
    name = await _reserve(context, uid, wanted)
    start = _Start(context, uid, name, wanted)
    try:
        bundle = _encode(bundle_of(wanted, context.settings, name))
        transport = open_transport(request)
        # What can fail is done before the 101, behind which no problem can be answered.
        start.fd = os.dup(transport.get_extra_info("socket").fileno())
        answer = await _switch(request, transport)
    except BaseException:
        start.release()
        if start.fd >= 0:
            os.close(start.fd)
        raise
    context.channel.ask({"type": "start"}, start.fd, start.answered, bundle)
    # Lets go without shutdown(2): the connection lives on in the descriptor that was handed over.
    transport.abort()
    return answer


def _wants_upgrade(request: web.Request) -> bool:
    upgrades = [word.strip().lower() for word in request.headers.get("Upgrade", "").split(",")]
    options = [word.strip().lower() for word in request.headers.get("Connection", "").split(",")]
    return request.version == (1, 1) and PROTOCOL in upgrades and "upgrade" in options


async def _reserve(context: Context, uid: int, wanted: RunRequest) -> str:
    """A name for the container: the one that was asked for, or a free one that is made."""
    if wanted.name is not None:
        if not context.names.is_free(uid, wanted.name):
            # The client of the container that has it may have heard of its end sooner than we do.
            await context.channel.catch_up()
        context.names.reserve(uid, wanted.name)
        return wanted.name
    for _ in range(16):
        name = names.made()
        if context.names.is_free(uid, name):
            context.names.reserve(uid, name)
            return name
    raise Conflict("cannot make a name: too many are taken", hint="choose one with --name")


def _encode(bundle: dict[str, object]) -> bytes:
    """The bundle's bytes. Not in ASCII, where a letter of another alphabet takes 6 or 12 bytes and may pass
    the bound.
    """
    data = json.dumps(bundle, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > frames.MAX_FRAME - ROOM:
        raise LimitReached(
            f"cannot run: the bundle has {len(data)} bytes, {frames.MAX_FRAME - ROOM} are possible",
            hint="use fewer or shorter args, env and labels",
        )
    return data


async def _switch(request: web.Request, transport: asyncio.Transport) -> web.StreamResponse:
    """Answer 101 and wait until it has left this process: what root's side writes must come behind it."""
    # From here on the bytes are the shim's. asyncio would read them, and drop the descriptors that come
    # along.
    transport.pause_reading()
    transport.set_write_buffer_limits(0)
    headers = {"Upgrade": PROTOCOL, "Connection": "Upgrade", "Server": "dkr"}
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


class _Start:
    """A start between the hand-over and the launcher's answer."""

    __slots__ = ("asked", "context", "created", "fd", "name", "uid")

    def __init__(self, context: Context, uid: int, name: str, asked: RunRequest) -> None:
        self.context = context
        self.uid = uid
        self.name = name
        self.asked = asked
        self.fd = -1
        self.created = _now()

    def release(self) -> None:
        """There will be no container: the name is free again."""
        self.context.names.release(self.uid, self.name)

    def answered(self, answer: Answer) -> None:
        """What the launcher says; called by the channel while `fd` is open."""
        if isinstance(answer, DkrError):
            self.release()
            _tell(self.fd, answer)
            log.warning("a start of uid %d was lost: %s", self.uid, answer)
        elif answer.get("type") == "accepted":
            self._accepted(str(answer.get("id")))
        else:
            self.release()
            log.info("a start of uid %d was refused: %s", self.uid, answer.get("error"))

    def _accepted(self, container: str) -> None:
        self.context.names.bind(self.uid, self.name, container)
        record = Container(
            id=container,
            name=self.name,
            uid=self.uid,
            image=image_of(self.asked, self.context.settings),
            args=(*self.asked.entrypoint, *self.asked.args),
            labels=self.asked.labels,
            rm=self.asked.rm,
            status="creating",
            created=self.created,
        )
        self.context.index.post(lambda index: index.insert(record))
        log.debug("container %s (%s) of uid %d is being started", container[:12], self.name, self.uid)


def _tell(fd: int, error: DkrError) -> None:
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


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09}Z"
