"""POST /v1/containers: a container is made, and nothing started. Its input and output are its guardian's, not the client's.

With an upgrade the client says itself what it wants above a tenant's defaults, as in a run with its own descriptors.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dkrd.api.run import hand_over
from dkrd.api.sessions import Session, close_all, starting

if TYPE_CHECKING:
    from aiohttp import web

    from common.detached import CreateRequest
    from common.models import Container
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def create(context: Context, peer: Peer, request: web.Request, body: CreateRequest) -> Container:
    """Make a container and tell what it is. Raises DkrError where it could not be made."""
    first: dict[str, object] = {"type": "create", "request": body.to_request(), "asks": body.asks()}
    with contextlib.closing(Session("create a container", first)) as session:
        async with starting(context, peer, request, body, session):
            frame, fds = await session.expect("created")
            close_all(fds)
    container = str(frame.get("id"))
    # What the launcher and the guardian have said before that frame comes by another way, and may be later.
    await context.channel.catch_up()
    return await context.index.ask(lambda index: index.find(container, None, None))


async def create_by_session(
    context: Context, peer: Peer, request: web.Request, body: CreateRequest
) -> web.StreamResponse:
    """Have a container made for the client, who says what it wants in a session of its own."""
    return await hand_over(context, peer, request, body)
