"""GET /v1/containers, GET and DELETE /v1/containers/{container}.

Others' containers are not there (404), except for uid 0 and the admin group.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from common.errors import BadRequest, DkrError, NotFound, Unavailable, from_wire
from dkrd.api.connections import open_transport

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container
    from dkrd.api.channel import Answer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

REMOVE_SECONDS = 60.0


async def list_containers(context: Context, peer: Peer, request: web.Request) -> list[Container]:
    """Those that are alive, the newest first; with `?all=true` those that have stopped too."""
    every = request.query.get("all", "false")
    if every not in ("true", "false"):
        fault = {"path": "all", "message": "true or false is wanted"}
        raise BadRequest(f"cannot read the query: all: {fault['message']}", fields=(fault,))
    scope = peer.scope()
    return await context.index.ask(lambda index: index.containers(scope, every == "true"))


async def inspect(context: Context, peer: Peer, request: web.Request) -> Container:
    """One container, by id, name or unique beginning of its id."""
    return await _find(context, peer, request)


async def remove(context: Context, peer: Peer, request: web.Request) -> None:
    """Remove a container that has stopped. Root's side judges by the client's connection, which is handed
    over.
    """
    container = await _find(context, peer, request)
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def on_answer(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    fd = os.dup(open_transport(request).get_extra_info("socket").fileno())
    context.channel.ask({"type": "remove", "id": container.id}, fd, on_answer)
    try:
        async with asyncio.timeout(REMOVE_SECONDS):
            answer = await answered
    except TimeoutError:
        raise Unavailable(
            f"cannot remove {container.name}: no answer within {REMOVE_SECONDS:g} s",
            hint="it may still be removed",
        ) from None
    if isinstance(answer, DkrError):
        raise answer
    if answer.get("type") == "refused":
        error = from_wire(answer.get("error"))
        if not isinstance(error, NotFound):
            raise error
        forget(context, container.id)  # root knows best what there is
        raise error
    forget(context, container.id)


def forget(context: Context, container: str) -> None:
    """Nothing of `container` is left."""
    context.names.forget(container)
    context.index.post(lambda index: index.remove(container))


async def _find(context: Context, peer: Peer, request: web.Request) -> Container:
    reference = request.match_info["container"]
    scope = peer.scope()
    return await context.index.ask(lambda index: index.find(reference, scope, peer.owner))
