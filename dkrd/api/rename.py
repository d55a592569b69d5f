"""POST /v1/containers/{container}/rename: what it is called is the guardian's to write down, that no other is so is known here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.api.asks import NEWS_SECONDS, ask_guardian, find
from dkrd.api.starts import reserve_name

if TYPE_CHECKING:
    from aiohttp import web

    from common.act_models import RenameRequest
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def rename(context: Context, peer: Peer, request: web.Request, body: RenameRequest) -> None:
    """Answer when it is called so by everybody."""
    container = await find(context, peer, request)
    await reserve_name(context, container.uid, body.name)
    try:
        await ask_guardian(context, request, container, {"type": "rename", "name": body.name})
        # What was reported before would give it its old name back.
        await context.channel.catch_up(NEWS_SECONDS)
        context.names.bind(container.uid, body.name, container.id)
        context.index.post(lambda index: index.rename(container.id, body.name))
    finally:
        context.names.release(container.uid, body.name)
