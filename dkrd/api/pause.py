"""POST /v1/containers/{container}/pause and /unpause: its cgroup is frozen, or goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.api.asks import NEWS_SECONDS, ask_guardian, check_runs, find

if TYPE_CHECKING:
    from aiohttp import web

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def pause(context: Context, peer: Peer, request: web.Request) -> None:
    """Answer when every process of it stands still. Whether it is paused already its guardian knows."""
    await _ask(context, peer, request, "pause")


async def unpause(context: Context, peer: Peer, request: web.Request) -> None:
    """Answer when it goes on."""
    await _ask(context, peer, request, "unpause")


async def _ask(context: Context, peer: Peer, request: web.Request, verb: str) -> None:
    container = await find(context, peer, request)
    check_runs(container, verb)
    await ask_guardian(context, request, container, {"type": verb})
    # Whoever looks next is to see it.
    await context.channel.catch_up(NEWS_SECONDS)
