"""GET /v1/stats and /v1/containers/{container}/stats: what containers use of the machine, which a job of root's measures."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import ValidationError

from common.act_models import Stats
from common.errors import Conflict, DkrError, ProtocolError
from dkrd.api.asks import ASK_SECONDS, NEWS_SECONDS, ask_root, check_runs, find
from dkrd.api.connections import ended_when_lost
from dkrd.api.openapi import LINES_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.act_models import StatsQuery
    from common.models import Container
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")

AT_ONCE = 256  # containers in one question to root's side
SECONDS = 1.0  # from one measurement to the next


async def all_stats(context: Context, peer: Peer, request: web.Request) -> list[Stats]:
    """Of all that run, the newest first."""
    scope = peer.scope()
    await context.channel.catch_up(NEWS_SECONDS)
    return await _measure(
        context, request, await context.index.ask(lambda index: index.containers(scope, False))
    )


async def stats(context: Context, peer: Peer, request: web.Request, query: StatsQuery) -> web.StreamResponse:
    """A line; with `stream` one each second, until the container ends. Who reads slowly is measured less often."""
    container = await find(context, peer, request)
    check_runs(container, "measure")
    with context.endings.of(container.id) as ending, ended_when_lost(request):
        found = await _measure(context, request, [container])
        if not found:
            raise Conflict(f"cannot measure {container.name}: it has ended", rule="ended")
        response = web.StreamResponse(headers={"Server": "dkr"})
        response.content_type = LINES_TYPE
        await response.prepare(request)
        while found:
            await response.write(
                b"".join(
                    one.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n" for one in found
                )
            )
            if not query.stream:
                break
            await asyncio.wait([ending.stopped], timeout=SECONDS)
            if ending.stopped.done():
                break
            try:
                found = await _measure(context, request, [container])
            except DkrError as err:
                # No problem can be told in the middle of an answer: that it is not whole is.
                log.warning("it is not measured any more: %s", err)
                raise ConnectionResetError("the container could not be measured") from err
    return response


async def _measure(context: Context, request: web.Request, containers: Sequence[Container]) -> list[Stats]:
    """Of those of them that run still."""
    found: list[Stats] = []
    for at in range(0, len(containers), AT_ONCE):
        some = containers[at : at + AT_ONCE]
        ids = [container.id for container in some]
        message: dict[str, object] = {"type": "ask", "id": ids[0], "ask": {"type": "stats", "ids": ids}}
        answer = await ask_root(context, request, message, "measure containers", ASK_SECONDS)
        told = answer.get("value")
        if not isinstance(told, dict):
            raise ProtocolError("cannot read what root's side has measured")
        found += [_stats(one, told[one.id]) for one in some if one.id in told]
    return found


def _stats(container: Container, told: object) -> Stats:
    try:
        values = {**(told if isinstance(told, dict) else {}), "id": container.id, "name": container.name}
        return Stats.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as err:
        raise ProtocolError("cannot read what root's side has measured") from err
