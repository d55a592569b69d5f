"""POST /v1/run: check, build the bundle, answer 101, and hand the client's connection to root's side.

A launcher that was reached tells the client itself what becomes of the start. Without an upgrade: plain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.api import bodies
from dkrd.api.plain import plain_run
from dkrd.api.spec_of import bundle_of
from dkrd.api.starts import Start, encode, reserve
from dkrd.api.upgrade import required, upgrade, wants_upgrade

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import RunAnswer
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def run(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse | RunAnswer:
    """Start a container for the client, who keeps talking to its shim over the same connection; or, asked without an
    upgrade, run one to its end and answer.
    """
    if "Upgrade" not in request.headers:
        return await plain_run(context, peer, request)
    if not wants_upgrade(request):
        return required("run")
    uid = peer.account()
    wanted = bodies.run_request(await bodies.read_json(request))
    start = Start(context, uid, await reserve(context, uid, wanted), wanted)
    try:
        bundle = encode(bundle_of(wanted, context.settings, start.name))
        return await upgrade(request, lambda fd: start.hand_over((fd,), bundle))
    except BaseException:
        if start.fd < 0:
            start.release()
        raise
