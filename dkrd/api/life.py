"""POST /v1/containers/{container}/kill and /wait: a signal for a container's command, and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.errors import NotFound, Unavailable
from common.models import WaitAnswer
from dkrd.api.asks import ask_guardian, check_runs, find
from dkrd.api.connections import ended_when_lost

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import KillRequest, WaitQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


log = logging.getLogger("dkr.api")

_NOT = {"stopped": "is not stopped", "removed": "is not removed", "next-exit": "has not ended"}


async def kill(context: Context, peer: Peer, request: web.Request, body: KillRequest) -> None:
    """Send a signal; what it does is what it would do to the same command outside a container (adr/0002)."""
    container = await find(context, peer, request)
    check_runs(container, "signal")
    await ask_guardian(context, request, container, {"type": "kill", "signal": body.signal})


async def wait(context: Context, peer: Peer, request: web.Request, query: WaitQuery) -> WaitAnswer:
    """Answer when the container has ended, ends from now on, or is removed, with how it ended. Whoever asks may go away at any time."""
    container = await find(context, peer, request)
    with context.endings.of(container.id) as ending, ended_when_lost(request):
        log.debug("uid %d: wait for %s", peer.uid, container.id[:12])
        try:
            # Once more: it may have ended between the look and the wait. By its id: the name may be another's by now.
            container = await context.index.ask(
                lambda index: index.find(container.id, peer.scope(), peer.owner)
            )
        except NotFound:
            return WaitAnswer(id=container.id, exit=context.endings.exit_of(container.id) or container.exit)
        try:
            async with asyncio.timeout(query.timeout):
                # On a full disk the index does not know of an end yet.
                known = context.endings.exit_of(container.id)
                rests = (container.status == "stopped" or known) and query.condition != "next-exit"
                exit_status = (known or container.exit) if rests else await ending.stopped
                if query.condition == "removed":
                    await ending.removed
        except TimeoutError:
            raise Unavailable(
                f"cannot tell the end of {container.name}: it {_NOT[query.condition]} after {query.timeout:g} s",
                rule="timeout",
            ) from None
    return WaitAnswer(id=container.id, exit=exit_status)
