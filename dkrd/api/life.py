"""POST /v1/containers/{container}/kill and /wait: a signal for a container's command, and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.errors import Conflict, Unavailable
from common.models import WaitAnswer
from dkrd.api import bodies
from dkrd.api.asks import ask_guardian, find
from dkrd.api.connections import on_lost

if TYPE_CHECKING:
    from aiohttp import web

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


log = logging.getLogger("dkr.api")


async def kill(context: Context, peer: Peer, request: web.Request) -> None:
    """Send a signal; what it does is what it would do to the same command outside a container (adr/0002)."""
    wanted = bodies.kill_request(await bodies.read_json(request))
    container = await find(context, peer, request)
    if container.status == "stopped":
        raise Conflict(f"cannot signal {container.name}: it has ended", rule="ended")
    await ask_guardian(context, request, container, {"type": "kill", "signal": wanted.signal})


async def wait(context: Context, peer: Peer, request: web.Request) -> WaitAnswer:
    """Answer when the container has ended, with how. Whoever asks may go away at any time."""
    container = await find(context, peer, request)
    with context.endings.of(container.id) as ending:
        # Once more: it may have ended between the look and the wait.
        container = await find(context, peer, request)
        if container.status == "stopped":
            return WaitAnswer(id=container.id, exit=container.exit)

        log.debug("uid %d: wait for %s", peer.uid, container.id[:12])

        def gone() -> None:
            ending.cancel()

        with on_lost(request, gone):
            try:
                return WaitAnswer(id=container.id, exit=await ending)
            except asyncio.CancelledError:
                if ending.cancelled():
                    raise Unavailable("cannot answer: the client is gone") from None
                raise
