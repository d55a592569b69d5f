"""GET /v1/system/df: what the caller's containers take of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.usage import DiskUsage, Share
from dkrd.api.asks import NEWS_SECONDS
from dkrd.api.sizes import layers, sizes_of

if TYPE_CHECKING:
    from aiohttp import web

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def disk_usage(context: Context, peer: Peer, request: web.Request) -> DiskUsage:
    """Of the caller's (an admin's: everybody's): containers, logs; and of the layers that all share."""
    scope = peer.scope()
    await context.channel.catch_up(NEWS_SECONDS)
    there = await context.index.ask(lambda index: index.containers(scope, every=True))
    below = await layers(context, request)
    sizes = await sizes_of(context, request, [one.id for one in there])
    at_rest = {one.id for one in there if one.status in ("created", "stopped")}
    active = len(there) - len(at_rest)
    free = [size for name, size in sizes.items() if name in at_rest]
    logs = [size.log for size in sizes.values() if size.log]
    return DiskUsage(
        containers=Share(
            count=len(there),
            active=active,
            size=sum(size.upper for size in sizes.values()),
            reclaimable=sum(size.upper for size in free),
        ),
        logs=Share(
            count=len(logs),
            active=sum(1 for name, size in sizes.items() if size.log and name not in at_rest),
            size=sum(logs),
            reclaimable=sum(size.log for size in free),
        ),
        layers=Share(count=len(below), active=len(below), size=sum(below.values()), reclaimable=0),
        complete=all(size.whole for size in sizes.values()) and len(sizes) == len(there),
    )
