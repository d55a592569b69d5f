"""POST /v1/containers/{container}/stop and /restart: the command is asked to end, and has to when its time is over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from common.errors import Conflict, NotFound
from dkrd.api.asks import ask_guardian, find
from dkrd.api.connections import ended_when_lost
from dkrd.api.launch import launch
from dkrd.api.sessions import Session, close_all

if TYPE_CHECKING:
    from aiohttp import web

    from common.act_models import StopRequest
    from common.models import Container
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def stop(context: Context, peer: Peer, request: web.Request, body: StopRequest) -> None:
    """Answer when it has ended, at once where it does not run. Who goes away before has begun it all the same."""
    await _bring_to_rest(context, request, await find(context, peer, request), body.to_ask())


async def restart(context: Context, peer: Peer, request: web.Request, body: StopRequest) -> None:
    """Answer when it runs anew. One that does not run is started."""
    container = await find(context, peer, request)
    await _bring_to_rest(context, request, container, {**body.to_ask(), "again": True})
    await launch(context, request, container, again=True)


async def _bring_to_rest(
    context: Context, request: web.Request, container: Container, wanted: dict[str, object]
) -> None:
    """Have `container` stopped, and return when nothing of it runs, and that is known here too. Raises DkrError."""
    what = f"stop {container.name}"
    ask: dict[str, object] = {"type": "stop", **wanted}
    with (
        contextlib.closing(Session(what, None)) as session,
        context.endings.of(container.id) as ending,
        ended_when_lost(request),
    ):
        told = await ask_guardian(context, request, container, ask, session.theirs())
        # The guardian keeps the other end until the end, of the container or its own; where nothing runs there is none.
        while (got := await session.next()) is not None:
            close_all(got[1])
        await context.channel.catch_up()
        if told or ending.stopped.done() or await _rests(context, container):
            return
    raise Conflict(
        f"cannot {what}: its guardian was killed while it waited for the end",
        rule="unguarded",
        hint="its command runs on until it ends by itself, or by SIGKILL: dkrctl kill, or rm --force",
    )


async def _rests(context: Context, container: Container) -> bool:
    try:
        found = await context.index.ask(lambda index: index.find(container.id, None, None))
    except NotFound:
        return True
    return found.status in ("created", "stopped")
