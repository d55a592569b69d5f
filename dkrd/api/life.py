"""POST /v1/containers/{container}/kill and /wait: a signal for a container's command, and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.errors import Conflict, NotFound, Unavailable
from common.models import WaitAnswer
from dkrd.api.asks import ask_guardian, find
from dkrd.api.connections import on_lost

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container, ExitStatus, KillRequest, WaitQuery
    from dkrd.api.context import Context
    from dkrd.api.endings import Ending
    from dkrd.api.peers import Peer


log = logging.getLogger("dkr.api")


async def kill(context: Context, peer: Peer, request: web.Request, body: KillRequest) -> None:
    """Send a signal; what it does is what it would do to the same command outside a container (adr/0002)."""
    container = await find(context, peer, request)
    if container.status == "stopped":
        raise Conflict(f"cannot signal {container.name}: it has ended", rule="ended")
    await ask_guardian(context, request, container, {"type": "kill", "signal": body.signal})


async def wait(context: Context, peer: Peer, request: web.Request, query: WaitQuery) -> WaitAnswer:
    """Answer when the container has ended, or is removed, with how it ended. Whoever asks may go away at any time."""
    container = await find(context, peer, request)
    removal = query.condition == "removed"
    task = asyncio.current_task()
    assert task is not None
    gone = False

    def give_up() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    with context.endings.of(container.id) as ending, on_lost(request, give_up):
        log.debug("uid %d: wait for %s", peer.uid, container.id[:12])
        try:
            async with asyncio.timeout(query.timeout):
                exit_status = await _end(context, peer, request, container, ending, removal)
        except TimeoutError:
            raise Unavailable(
                f"cannot tell the end of {container.name}: it is not {query.condition} after {query.timeout:g} s",
                rule="timeout",
            ) from None
        except asyncio.CancelledError:
            if gone and task.uncancel() == 0:
                raise Unavailable("cannot answer: the client is gone") from None
            raise
    return WaitAnswer(id=container.id, exit=exit_status)


async def _end(
    context: Context, peer: Peer, request: web.Request, container: Container, ending: Ending, removal: bool
) -> ExitStatus | None:
    # Once more: it may have ended between the look and the wait.
    try:
        container = await find(context, peer, request)
    except NotFound:
        if removal:
            return container.exit
        raise
    exit_status = container.exit if container.status == "stopped" else await ending.stopped
    if removal:
        await ending.removed
    return exit_status
