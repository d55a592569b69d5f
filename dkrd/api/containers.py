"""GET /v1/containers, GET and DELETE /v1/containers/{container}.

Others' containers are not there (404), except for uid 0 and the admin group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from common.errors import NotFound, Unavailable
from common.trace import Trace
from dkrd.api.asks import ask_guardian, ask_root, find

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container, ContainersQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

REMOVE_SECONDS = 60.0


async def list_containers(
    context: Context, peer: Peer, request: web.Request, query: ContainersQuery
) -> list[Container]:
    """Those that are alive, the newest first; with `all` those that have stopped too."""
    scope = peer.scope()
    return await context.index.ask(lambda index: index.containers(scope, query.all))


async def inspect(context: Context, peer: Peer, request: web.Request) -> Container:
    """One container, by id, name or unique beginning of its id."""
    return await find(context, peer, request)


async def explain(context: Context, peer: Peer, request: web.Request) -> Trace:
    """How it was started, step by step, as its guardian has recorded it."""
    container = await find(context, peer, request)
    try:
        return Trace.model_validate(await ask_guardian(context, request, container, {"type": "explain"}))
    except ValidationError as err:
        raise Unavailable(
            f"cannot explain {container.name}: its guardian, of another release, tells it in another form",
            hint="start the container anew",
        ) from err


async def remove(context: Context, peer: Peer, request: web.Request) -> None:
    """Remove a container that has stopped. Root's side judges by the client's connection, which is handed
    over.
    """
    container = await find(context, peer, request)
    message: dict[str, object] = {"type": "remove", "id": container.id}
    try:
        await ask_root(context, request, message, f"remove {container.name}", REMOVE_SECONDS)
    except NotFound:
        forget(context, container.id)  # root knows best what there is
        raise
    forget(context, container.id)


def forget(context: Context, container: str) -> None:
    """Nothing of `container` is left."""
    context.names.forget(container)
    context.index.post(lambda index: index.remove(container))
