"""POST /v1/run: check, build the bundle, answer 101, and hand the client's connection to root's side.

A launcher that was reached tells the client itself what becomes of the start.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import Conflict, DkrError, LimitReached
from common.models import Container
from dkrd.api import bodies, names
from dkrd.api.spec_of import bundle_of, image_of
from dkrd.api.upgrade import required, tell, upgrade, wants_upgrade

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import RunRequest
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")

ROOM = 64  # bytes of the message around the bundle, with the longest number


async def run(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """Start a container for the client, who keeps talking to its shim over the same connection."""
    if not wants_upgrade(request):
        return required("run")
    uid = peer.account()
    wanted = bodies.run_request(await bodies.read_json(request))
    name = await _reserve(context, uid, wanted)
    start = _Start(context, uid, name, wanted)
    try:
        bundle = _encode(bundle_of(wanted, context.settings, name))
        return await upgrade(request, lambda fd: start.hand_over(fd, bundle))
    except BaseException:
        if start.fd < 0:
            start.release()
        raise


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

    def hand_over(self, fd: int, bundle: bytes) -> None:
        """Pass the client's connection on; what comes of it is told by the answer."""
        self.fd = fd
        self.context.channel.ask({"type": "start"}, fd, self.answered, bundle)

    def release(self) -> None:
        """There will be no container: the name is free again."""
        self.context.names.release(self.uid, self.name)

    def answered(self, answer: Answer) -> None:
        """What the launcher says; called by the channel while `fd` is open."""
        if isinstance(answer, DkrError):
            self.release()
            tell(self.fd, answer)
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


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09}Z"
