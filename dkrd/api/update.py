"""POST /v1/containers/{container}/update: other bounds, for what runs and for the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.api.asks import ask_guardian, find

if TYPE_CHECKING:
    from aiohttp import web

    from common.act_models import UpdateRequest
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def update(context: Context, peer: Peer, request: web.Request, body: UpdateRequest) -> None:
    """Answer when all of it is so; what is refused has changed nothing."""
    container = await find(context, peer, request)
    await ask_guardian(context, request, container, {"type": "update", **body.to_ask()})
