"""POST /v1/containers/{container}/start: a container that stands is started, for the first time or once more.

Whether it can be is judged by root's side, which alone knows for certain what runs. By dkr-stream/1: streams.py.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from common.errors import Conflict, DkrError, from_wire
from dkrd.api import sessions
from dkrd.api.asks import find
from dkrd.api.connections import evidence, on_lost
from dkrd.api.sessions import Session, close_all
from dkrd.api.upgrade import tell, upgrade

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")


async def start(context: Context, peer: Peer, request: web.Request) -> None:
    """Answer when the command runs. Raises DkrError where it could not be started."""
    await launch(context, request, await find(context, peer, request))


async def launch(
    context: Context, request: web.Request, container: Container, *, again: bool = False
) -> None:
    """Have `container` started, `again` where a restart was asked for; returns when its command runs, also where it ran already.
    Raises DkrError.
    """
    first: dict[str, object] = {"type": "launch", "container": container.id}
    if again:
        first["again"] = True
    try:
        with (
            contextlib.closing(Session(f"start {container.name}", first)) as session,
            on_lost(request, session.lost),
        ):
            sessions.launch(context, container, session, evidence(request))
            _, fds = await session.expect("started")
            close_all(fds)
            # The guardian lets go of the session when it has reported that the command runs.
            while (more := await session.next()) is not None:
                close_all(more[1])
    except Conflict as err:
        if err.rule != "running":
            raise
    finally:
        # Whoever asks next is to be told how it is now, also where it came to nothing.
        await context.channel.catch_up()


async def start_by_session(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """Hand the client's connection to the guardian which starts the container, and attaches the client before."""
    container = await find(context, peer, request)

    def hand_over(fd: int) -> None:
        def answered(answer: Answer) -> None:
            """Called while `fd` is open."""
            if isinstance(answer, DkrError):
                log.warning("a start by uid %d was lost: %s", peer.uid, answer)
                tell(fd, answer)
            elif answer.get("type") == "refused":
                context.metrics.start_failed(from_wire(answer.get("error")).code)

        context.channel.ask({"type": "launch", "id": container.id}, (fd,), answered)

    return await upgrade(request, hand_over)
