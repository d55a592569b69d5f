"""A start between the request and the launcher's answer: its name, its bundle, its place in the index."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from common import frames
from common.clock import now
from common.detached import CreateRequest
from common.errors import Conflict, DkrError, LimitReached, from_wire
from common.models import Container
from dkrd.api import names
from dkrd.api.spec_of import image_of
from dkrd.api.upgrade import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.models import RunRequest
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context

log = logging.getLogger("dkr.api")

ROOM = 64  # bytes of the message around the bundle, with the longest number


async def reserve(context: Context, uid: int, wanted: RunRequest) -> str:
    """A name for the container: the one that was asked for, or a free one that is made."""
    if wanted.name is not None:
        await reserve_name(context, uid, wanted.name)
        return wanted.name
    for _ in range(16):
        name = names.made()
        if context.names.is_free(uid, name):
            context.names.reserve(uid, name)
            return name
    raise Conflict("cannot make a name: too many are taken", hint="choose one with --name")


async def reserve_name(context: Context, uid: int, name: str) -> None:
    """Take this one. Raises Conflict where it is in use."""
    if not context.names.is_free(uid, name):
        # The client of the container that has it may have heard of its end sooner than we do.
        await context.channel.catch_up()
    context.names.reserve(uid, name)


def encode(bundle: dict[str, object]) -> bytes:
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


class Start:
    """One start.

    on_refused  called where there will be no container, if somebody but the client itself has to be told
    """

    __slots__ = ("asked", "context", "created", "fd", "name", "on_refused", "uid")

    def __init__(self, context: Context, uid: int, name: str, asked: RunRequest) -> None:
        self.context = context
        self.uid = uid
        self.name = name
        self.asked = asked
        self.fd = -1
        self.created = now()
        self.on_refused: Callable[[DkrError], None] | None = None

    def hand_over(self, fds: tuple[int, ...], bundle: bytes) -> None:
        """Pass the client's connection on, and a session where it has none; what comes of it is told by the answer."""
        self.fd = fds[0]
        self.context.channel.ask({"type": "start"}, fds, self._answered, bundle)

    def release(self) -> None:
        """There will be no container: the name is free again."""
        self.context.names.release(self.uid, self.name)

    def _answered(self, answer: Answer) -> None:
        """What the launcher says; called by the channel while `fd` is open."""
        if isinstance(answer, DkrError):
            self.release()
            if self.on_refused is not None:
                self.on_refused(answer)
            else:
                tell(self.fd, answer)
            log.warning("a start of uid %d was lost: %s", self.uid, answer)
        elif answer.get("type") == "accepted":
            self._accepted(str(answer.get("id")))
        else:
            self.release()
            if not isinstance(self.asked, CreateRequest):
                self.context.metrics.start_failed(from_wire(answer.get("error")).code)
            if self.on_refused is not None:
                self.on_refused(from_wire(answer.get("error")))
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
