"""POST /v1/run with an upgrade: build the bundle, answer 101, and hand the client's connection to root's side.

A launcher that was reached tells the client itself what becomes of the start. Without an upgrade: plain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.api.spec_of import bundle_of
from dkrd.api.starts import Start, encode, reserve
from dkrd.api.upgrade import upgrade

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import RunRequest
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def run(context: Context, peer: Peer, request: web.Request, body: RunRequest) -> web.StreamResponse:
    """Start a container for the client, who keeps talking to its shim over the same connection."""
    return await hand_over(context, peer, request, body)


async def hand_over(
    context: Context, peer: Peer, request: web.Request, body: RunRequest
) -> web.StreamResponse:
    """Pass the client's connection on to the guardian of a container which is to be."""
    uid = peer.account()
    start = Start(context, uid, await reserve(context, uid, body), body)
    try:
        bundle = encode(bundle_of(body, context.settings, start.name))
        return await upgrade(request, lambda fd: start.hand_over((fd,), bundle))
    except BaseException:
        if start.fd < 0:
            start.release()
        raise
